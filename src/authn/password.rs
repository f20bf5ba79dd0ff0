//! Passwords: how they are hashed, checked, and judged before they are set.
//!
//! A password is kept as a PHC string, `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`, which carries its own parameters.
//! Hashing is slow and large on purpose, so the gate never hashes where a request waits for something else: it goes
//! through the [`HashingPool`]. The functions here are what a pool thread, and a command
//! on the console, call.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use subtle::ConstantTimeEq as _;

pub use super::hashing::{Busy, HashingPool};
use crate::{clock, model::SecurityLevel, secret::Secret};

/// The longest password, bytes: room for any passphrase, and nothing to hash by the megabyte.
pub const MAX_PASSWORD: usize = 1024;

/// The largest memory a stored hash may ask for, KiB. A hash comes from the store, and one that asks for all of the
/// machine's memory would turn a sign-in into an outage.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
/// The most passes a stored hash may ask for.
const MAX_ITERATIONS: u32 = 16;
/// Bytes of salt, as RFC 9106 section 3.1 recommends.
const SALT: usize = 16;
/// Bytes of hash: 256 bits.
const OUTPUT: usize = 32;

/// Too common to be a secret, one per line, lower case. Kept short: what stops guessing is the cost of a guess.
const COMMON: &str = include_str!("common_passwords.txt");

/// What one guess costs. See the OWASP Password Storage Cheat Sheet and RFC 9106.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory of one verification, KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Cost {
    /// What is used unless configured otherwise: 19 MiB, two passes, one lane.
    #[must_use]
    pub const fn production() -> Self {
        Self { memory_kib: 19 * 1024, iterations: 2, parallelism: 1 }
    }

    /// The least that Argon2 can do. A hash made with it can be guessed: tests only.
    #[must_use]
    pub const fn danger_test_minimum() -> Self {
        Self { memory_kib: 8, iterations: 1, parallelism: 1 }
    }

    fn params(self) -> Result<Params, argon2::Error> {
        Params::new(self.memory_kib, self.iterations, self.parallelism, Some(OUTPUT))
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::production()
    }
}

/// A cost that Argon2 cannot work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot hash with {0:?}: at least 8 KiB for each lane, one pass and one lane are needed")]
pub struct BadCost(pub Cost);

/// A password that must not be set, in words for the person who chose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Shorter than the security level wants.
    #[error("the password is too short: at least {0} bytes")]
    TooShort(usize),
    /// Longer than [`MAX_PASSWORD`].
    #[error("the password is too long: at most {MAX_PASSWORD} bytes")]
    TooLong,
    /// Cannot be sent by HTTP Basic (RFC 7617 section 2), so nobody could ever sign in with it.
    #[error("the password has a control character in it, which HTTP Basic cannot carry")]
    ControlCharacter,
    /// On every list that an attacker tries first.
    #[error("the password is one of the most common ones, which are tried first")]
    Common,
}

/// Whether `password` may be set under `level`.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_strength(password: &str, level: SecurityLevel) -> Result<(), WeakPassword> {
    if password.len() < level.password_min() {
        return Err(WeakPassword::TooShort(level.password_min()));
    }
    if password.len() > MAX_PASSWORD {
        return Err(WeakPassword::TooLong);
    }
    if password.chars().any(char::is_control) {
        return Err(WeakPassword::ControlCharacter);
    }
    if level != SecurityLevel::Minimal && is_common(password) {
        return Err(WeakPassword::Common);
    }
    Ok(())
}

/// The PHC string of `password` under a fresh salt.
///
/// # Errors
/// A cost that Argon2 cannot work with, or that asks for more memory than there is.
pub fn hash(password: &Secret<String>, cost: &Cost) -> Result<Secret<String>, BadCost> {
    let bad = |_| BadCost(*cost);
    let params = cost.params().map_err(bad)?;
    let salt = clock::random::<SALT>();
    let mut output = [0; OUTPUT];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.reveal().as_bytes(), &salt, &mut output)
        .map_err(bad)?;
    phc(cost, &salt, &output)
}

/// Whether `phc` is the hash of `password`. `false` for a string that is no Argon2id hash at all.
#[must_use]
pub fn verify(password: &[u8], phc: &str) -> bool {
    Stored::parse(phc).is_some_and(|stored| stored.matches(password, &mut Vec::new()))
}

/// Whether `phc` was made with other parameters than `cost`, and would be worth making again at the next sign-in.
#[must_use]
pub fn differs_in_cost(phc: &str, cost: &Cost) -> bool {
    Stored::parse(phc).is_none_or(|stored| {
        (stored.params.m_cost(), stored.params.t_cost(), stored.params.p_cost())
            != (cost.memory_kib, cost.iterations, cost.parallelism)
    })
}

/// A PHC string that nobody's password matches and that costs what a real one does: random bytes instead of a hash.
pub(super) fn unmatchable(cost: &Cost) -> Result<Secret<String>, BadCost> {
    cost.params().map_err(|_| BadCost(*cost))?;
    phc(cost, &clock::random::<SALT>(), &clock::random::<OUTPUT>())
}

fn phc(cost: &Cost, salt: &[u8], output: &[u8]) -> Result<Secret<String>, BadCost> {
    let bad = BadCost(*cost);
    let params = cost.params().map_err(|_| bad)?;
    // `output_len` is not part of the string: it shows in the hash itself.
    let params = Params::new(params.m_cost(), params.t_cost(), params.p_cost(), None).map_err(|_| bad)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| bad)?,
        salt: Some(Salt::new(salt).map_err(|_| bad)?),
        hash: Some(Output::new(output).map_err(|_| bad)?),
    };
    Ok(Secret::new(hash.to_string()))
}

/// A stored hash, taken apart.
pub(super) struct Stored {
    params: Params,
    salt: Salt,
    output: Output,
}

impl Stored {
    /// Reads a PHC string: Argon2id, version 19, within the limits above.
    pub(super) fn parse(phc: &str) -> Option<Self> {
        let hash = PasswordHash::new(phc).ok()?;
        let recognised = hash.algorithm == Algorithm::Argon2id.ident() && hash.version == Some(Version::V0x13.into());
        let (salt, output) = (hash.salt.filter(|_| recognised)?, hash.hash?);
        let params = Params::try_from(&hash).ok()?;
        let bounded = params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_ITERATIONS;
        bounded.then_some(Self { params, salt, output })
    }

    /// Hashes `password` the same way and compares. `arena` grows to what is needed and is used again: allocating and
    /// faulting in 19 MiB for every sign-in is a third of what it costs.
    pub(super) fn matches(&self, password: &[u8], arena: &mut Vec<Block>) -> bool {
        let blocks = self.params.block_count();
        if arena.len() < blocks {
            arena.resize(blocks, Block::new());
        }
        let mut output = [0; Output::MAX_LENGTH];
        let Some(output) = output.get_mut(..self.output.as_bytes().len()) else { return false };
        let hashed = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
            .hash_password_into_with_memory(password, &self.salt, output, arena);
        hashed.is_ok() && bool::from(output.ct_eq(self.output.as_bytes()))
    }
}

fn is_common(password: &str) -> bool {
    let folded = password.to_lowercase();
    let one_character = folded.chars().all(|c| folded.starts_with(c));
    one_character || COMMON.lines().any(|common| common == folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn the_production_cost_is_what_owasp_asks_for_and_the_default() {
        assert_eq!(Cost::default(), Cost { memory_kib: 19_456, iterations: 2, parallelism: 1 });
        let phc = hash(&secret("correct horse"), &Cost::default()).unwrap();
        assert!(phc.reveal().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", phc.reveal());
        assert!(verify(b"correct horse", phc.reveal()));
        assert!(!differs_in_cost(phc.reveal(), &Cost::production()));
        assert!(differs_in_cost(phc.reveal(), &Cost::danger_test_minimum()));
    }

    #[test]
    fn only_the_same_password_matches_and_every_hash_has_its_own_salt() {
        let cost = Cost::danger_test_minimum();
        let (one, two) = (hash(&secret("pässword"), &cost).unwrap(), hash(&secret("pässword"), &cost).unwrap());
        assert_ne!(one.reveal(), two.reveal());
        assert!(verify("pässword".as_bytes(), one.reveal()) && verify("pässword".as_bytes(), two.reveal()));
        for wrong in ["", "password", "pässwor", "pässword ", "Pässword"] {
            assert!(!verify(wrong.as_bytes(), one.reveal()), "{wrong:?}");
        }
    }

    #[test]
    fn a_known_answer_from_the_reference_implementation() {
        // echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32, from the tests of phc-winner-argon2.
        let phc = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(verify(b"password", phc));
        assert!(!verify(b"Password", phc));
    }

    #[test]
    fn what_is_not_an_argon2id_hash_matches_nothing() {
        let good = hash(&secret("p"), &Cost::danger_test_minimum()).unwrap();
        let good = good.reveal();
        assert!(verify(b"p", good));
        for bad in [
            String::new(),
            "p".to_owned(),
            "$2y$05$abcdefghijklmnopqrstuu".to_owned(),
            good.replace("argon2id", "argon2d"),
            good.replace("v=19", "v=16"),
            good.replace("m=8,", "m=4294967295,"),
            good.replace("t=1,", "t=4000000000,"),
            good.rsplit_once('$').unwrap().0.to_owned(),
        ] {
            assert!(!verify(b"p", &bad), "{bad}");
        }
    }

    #[test]
    fn an_arena_that_was_used_gives_the_same_answers() {
        let mut arena = Vec::new();
        let small = hash(&secret("a"), &Cost::danger_test_minimum()).unwrap();
        let large = hash(&secret("b"), &Cost { memory_kib: 64, iterations: 2, parallelism: 2 }).unwrap();
        let (small, large) = (Stored::parse(small.reveal()).unwrap(), Stored::parse(large.reveal()).unwrap());
        for _ in 0..2 {
            assert!(small.matches(b"a", &mut arena) && !small.matches(b"b", &mut arena));
            assert!(large.matches(b"b", &mut arena) && !large.matches(b"a", &mut arena));
        }
    }

    #[test]
    fn nothing_matches_the_hash_of_nobody() {
        let phc = unmatchable(&Cost::danger_test_minimum()).unwrap();
        assert!(Stored::parse(phc.reveal()).is_some(), "it has to cost what a real one costs");
        assert!(!verify(b"", phc.reveal()) && !verify(b"password", phc.reveal()));
        assert!(unmatchable(&Cost { memory_kib: 1, iterations: 0, parallelism: 1 }).is_err());
    }

    #[test]
    fn weak_passwords_are_refused_by_level() {
        let check = |password: &str, level| check_strength(password, level).err();
        assert_eq!(check("short", SecurityLevel::Normal), Some(WeakPassword::TooShort(8)));
        assert_eq!(check("elevenchars", SecurityLevel::LockedDown), Some(WeakPassword::TooShort(12)));
        assert_eq!(check("Password123", SecurityLevel::Normal), Some(WeakPassword::Common));
        assert_eq!(check("aaaaaaaaaaaa", SecurityLevel::LockedDown), Some(WeakPassword::Common));
        assert_eq!(check("password123", SecurityLevel::Minimal), None);
        assert_eq!(check("tab\tin the middle", SecurityLevel::Normal), Some(WeakPassword::ControlCharacter));
        assert_eq!(check(&"ab".repeat(513), SecurityLevel::Normal), Some(WeakPassword::TooLong));
        assert_eq!(check("four plain words here", SecurityLevel::LockedDown), None);
    }
}
