//! Passwords as an administrator sets them: judged, then hashed; or made up.

use super::{ActError, Result};
use crate::{
    authn::password::{self, Cost},
    clock,
    model::{Name, SecurityLevel},
    secret::Secret,
};

/// What a password has to be, and what hashing it costs.
#[derive(Debug, Clone, Copy)]
pub struct PasswordRules {
    /// Sets the length and whether common passwords are refused.
    pub level: SecurityLevel,
    /// Of Argon2id.
    pub cost: Cost,
}

/// What a generated password is written with: no `0 o 1 l i`, which look alike on paper and on a screen, and nothing
/// that needs a shift key.
const ALPHABET: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Groups of [`GROUP`] characters: 25 of 31 kinds are 123 bits.
const GROUPS: usize = 5;
const GROUP: usize = 5;

/// A password that nobody can guess and everybody can type: `q7mhd-xk2vr-9fbnt-w4cej-ps83y`.
#[must_use]
pub fn generate() -> Secret<String> {
    let mut text = zeroize::Zeroizing::new(String::with_capacity(GROUPS * (GROUP + 1)));
    let mut made = 0;
    while made < GROUPS * GROUP {
        // Above the largest multiple of 31 a byte would favour the first characters.
        let [byte] = clock::random::<1>();
        if byte >= 248 {
            continue;
        }
        if made > 0 && made % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        made += 1;
    }
    Secret::new(std::mem::take(&mut *text))
}

/// The PHC string of a password that may be set for `name`.
pub(super) async fn hash(password: &Secret<String>, name: &Name, rules: &PasswordRules) -> Result<Secret<String>> {
    password::check_strength(password.reveal(), rules.level).map_err(|weak| ActError::Refused(weak.to_string()))?;
    if rules.level != SecurityLevel::Minimal && password.reveal().to_lowercase() == name.as_str() {
        return Err(ActError::Refused("the password is the name".to_owned()));
    }
    let (password, cost) = (password.clone(), rules.cost);
    // Tens of milliseconds of one core: not on a thread that others wait for.
    match tokio::task::spawn_blocking(move || password::hash(&password, &cost)).await {
        Ok(phc) => phc.map_err(|error| ActError::Refused(error.to_string())),
        Err(error) => Err(ActError::Refused(format!("the password could not be hashed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_password_is_grouped_unlike_any_other_and_strong_enough_everywhere() {
        let (one, two) = (generate(), generate());
        assert_ne!(one.reveal(), two.reveal());
        let groups: Vec<_> = one.reveal().split('-').collect();
        assert!(groups.len() == GROUPS && groups.iter().all(|group| group.len() == GROUP), "{}", one.reveal());
        assert!(one.reveal().bytes().all(|byte| byte == b'-' || ALPHABET.contains(&byte)));
        for level in SecurityLevel::ALL {
            password::check_strength(one.reveal(), level).unwrap();
        }
    }
}
