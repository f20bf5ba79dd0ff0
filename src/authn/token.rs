//! Our own API tokens: `ptc_` + 43 random characters + 6 characters of checksum.
//!
//! The prefix lets a secret scanner find a leaked one. The checksum tells a mistyped token from a wrong one without
//! asking the store. The rest is 256 random bits, so a plain SHA-256 is enough to keep it by: there is nothing to guess.

use aws_lc_rs::digest;

use crate::{clock, secret::Secret};

/// Every token begins so.
pub const PREFIX: &str = "ptc_";
/// Every public id begins so.
pub const ID_PREFIX: &str = "tok_";

/// Characters that 32 random bytes need: 62^43 > 2^256.
const RANDOM: usize = 43;
/// Characters that 4 bytes of CRC-32 need: 62^6 > 2^32.
const CHECKSUM: usize = 6;
/// Characters that the 12 random bytes of an id need: 62^17 > 2^96.
const ID: usize = 17;
const LENGTH: usize = PREFIX.len() + RANDOM + CHECKSUM;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new token: its text (shown once), its public id, and the digest it is kept by.
#[must_use]
pub fn generate() -> (Secret<String>, String, [u8; 32]) {
    // The whole length at once: a string that grows leaves copies of itself behind.
    let mut text = String::with_capacity(LENGTH);
    text.push_str(PREFIX);
    push_base62(&mut text, clock::random::<32>(), RANDOM);
    let checksum = crc32fast::hash(text.as_bytes());
    push_base62(&mut text, checksum.to_be_bytes(), CHECKSUM);
    let digest = sha256(text.as_bytes());
    (Secret::new(text), new_id(), digest)
}

/// A new public id of a token, which is also the `jti` of a JWT.
#[must_use]
pub fn new_id() -> String {
    let mut id = String::from(ID_PREFIX);
    push_base62(&mut id, clock::random::<12>(), ID);
    id
}

/// The digest that a token is kept by, or `None` for a text that is no token: cut off, mistyped, something else.
#[must_use]
pub fn digest(text: &str) -> Option<[u8; 32]> {
    let shaped = text.len() == LENGTH && text.starts_with(PREFIX);
    let random = text.as_bytes().get(..LENGTH - CHECKSUM).filter(|_| shaped)?;
    let alphabetic = text.bytes().skip(PREFIX.len()).all(|byte| byte.is_ascii_alphanumeric());
    let mut expected = String::with_capacity(CHECKSUM);
    push_base62(&mut expected, crc32fast::hash(random).to_be_bytes(), CHECKSUM);
    (alphabetic && text.ends_with(&expected)).then(|| sha256(text.as_bytes()))
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Appends `bytes` as one big-endian number in base 62, with leading zeros up to `width` characters.
fn push_base62<const N: usize>(out: &mut String, mut bytes: [u8; N], width: usize) {
    let start = out.len();
    for _ in 0..width {
        let mut remainder = 0_u32;
        for byte in &mut bytes {
            let dividend = remainder << 8 | u32::from(*byte);
            // The remainder is below 62, so the quotient of (62 << 8) / 62 fits a byte.
            *byte = u8::try_from(dividend / 62).unwrap_or(u8::MAX);
            remainder = dividend % 62;
        }
        out.insert(start, char::from(ALPHABET[remainder as usize]));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_token_has_its_shape_and_its_own_digest() {
        let (text, id, kept) = generate();
        assert_eq!(text.reveal().len(), 53);
        assert!(text.reveal().starts_with("ptc_") && id.starts_with("tok_") && id.len() == 21);
        assert_eq!(digest(text.reveal()), Some(kept));
        let all: HashSet<[u8; 32]> = (0..1000).map(|_| generate().2).collect();
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn every_single_typo_is_noticed_without_the_store() {
        let (text, ..) = generate();
        for at in 0..text.reveal().len() {
            for replacement in ['0', 'z', '!', '_', ' '] {
                let mut typo: Vec<char> = text.reveal().chars().collect();
                if typo[at] == replacement {
                    continue;
                }
                typo[at] = replacement;
                assert_eq!(digest(&typo.into_iter().collect::<String>()), None, "{at} {replacement}");
            }
        }
    }

    #[test]
    fn what_is_no_token_has_no_digest() {
        let (text, ..) = generate();
        let text = text.reveal();
        for bad in ["", "ptc_", &text[..52], &format!("{text}0"), &text.to_uppercase(), &"é".repeat(27)] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }

    #[test]
    fn base_62_is_a_number_with_leading_zeros() {
        let render = |number: u32| {
            let mut out = String::from(">");
            push_base62(&mut out, number.to_be_bytes(), CHECKSUM);
            out
        };
        assert_eq!(render(0), ">000000");
        assert_eq!(render(61), ">00000z");
        assert_eq!(render(62), ">000010");
        assert_eq!(render(u32::MAX), ">4gfFC3");
    }
}
