//! JSON Web Tokens that we issue ourselves: signed, short, bound to one application, and still revocable.
//!
//! A JWT brings its own instructions on how to verify it, and following them is how every well-known attack on JWTs
//! works (RFC 8725). So this reader follows none: one algorithm (ES256), keys from our own store and from nowhere
//! else, a header with `alg`, `kid` and `typ` and nothing more, every claim required and of one type. What is left is
//! a signed pointer to a record in the store (`jti`), and the record has the last word: see [`super::Authn`].
//!
//! `exp`, `nbf` and `iat` are judged with [`LEEWAY_SECONDS`] of leeway, for nodes whose clocks differ a little. The
//! expiry in the store is exact.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::token::sha256;
use crate::{clock::Timestamp, secret::Secret};

/// How much the clocks of two nodes may differ, seconds.
pub const LEEWAY_SECONDS: i64 = 5;
/// The longest time between `iat` and `exp`, seconds: 90 days. Whoever issues must not exceed it.
pub const MAX_LIFETIME_SECONDS: i64 = 90 * 24 * 3600;
/// The longest token that is looked at, bytes; ours have about 400.
const MAX_TOKEN: usize = 4096;

/// What a token says. The registered claims of RFC 7519 section 4.1, all of them required but `nbf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it: the installation.
    pub iss: String,
    /// Whose it is: a user or a service.
    pub sub: String,
    /// The applications it is meant for.
    #[serde(serialize_with = "one_or_many", deserialize_with = "audience")]
    pub aud: Vec<String>,
    /// Not before its time, NumericDate.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub nbf: Option<i64>,
    /// When it was issued, NumericDate.
    pub iat: i64,
    /// From then on it is not good, NumericDate.
    pub exp: i64,
    /// Public id of its record in the store.
    pub jti: String,
}

/// Why a token is not accepted: for the log, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.why())]
pub enum BadJwt {
    /// Not three parts of unpadded base64url with JSON objects in the first two.
    Form,
    /// A header with more than we write, with another type, or with an algorithm that is not ours.
    Header,
    /// A key that is not ours.
    Key,
    /// The signature does not match.
    Signature,
    /// A claim is missing, or is of another type.
    Claims,
    /// Another issuer.
    Issuer,
    /// Meant for other applications.
    Audience,
    /// Expired.
    Expired,
    /// From the future, or good for longer than any of ours.
    Times,
}

impl BadJwt {
    /// In words.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Form => "not a JWT",
            Self::Header => "a JWT with a header that this gate does not write",
            Self::Key => "a JWT of a key that this gate does not have",
            Self::Signature => "a JWT with a wrong signature",
            Self::Claims => "a JWT with claims that are missing or malformed",
            Self::Issuer => "a JWT of another issuer",
            Self::Audience => "a JWT meant for another application",
            Self::Expired => "a JWT that has expired",
            Self::Times => "a JWT with times that this gate does not write",
        }
    }
}

/// A signing key that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signing key `{0}` in the store is not a P-256 key in PKCS#8")]
pub struct BadKey(pub String);

/// A new signing key: its public id (RFC 7638 thumbprint) and the private key as PKCS#8 PEM.
///
/// # Errors
/// If the operating system gives no randomness.
pub fn generate_key() -> Result<(String, Secret<String>), BadKey> {
    let failed = |_| BadKey("new".to_owned());
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
    let der = pair.to_pkcs8v1().map_err(failed)?;
    let body = Secret::new(STANDARD.encode(der.as_ref()));
    let mut pem = String::with_capacity(512);
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    for start in (0..body.reveal().len()).step_by(64) {
        pem.push_str(&body.reveal()[start..(start + 64).min(body.reveal().len())]);
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok((thumbprint(pair.public_key().as_ref()), Secret::new(pem)))
}

/// Signs tokens with one key.
pub struct Signer {
    header: Header,
    key: EncodingKey,
}

impl Signer {
    /// A signer with the key `pem`, known as `kid`.
    ///
    /// # Errors
    /// Not a P-256 key in PKCS#8.
    pub fn new(kid: &str, pem: &Secret<String>) -> Result<Self, BadKey> {
        public_key(kid, pem)?;
        let key = EncodingKey::from_ec_pem(pem.reveal().as_bytes()).map_err(|_| BadKey(kid.to_owned()))?;
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(Self { header, key })
    }
}

/// The token that says `claims`.
///
/// # Errors
/// If the key cannot sign.
pub fn issue(signer: &Signer, claims: &Claims) -> Result<Secret<String>, BadKey> {
    jsonwebtoken::encode(&signer.header, claims, &signer.key)
        .map(Secret::new)
        .map_err(|_| BadKey(signer.header.kid.clone().unwrap_or_default()))
}

/// The public halves of every key that still verifies tokens.
#[derive(Default)]
pub struct KeySet(Vec<(String, DecodingKey)>);

impl KeySet {
    /// The keys as they are stored, private halves and all; only the public ones are kept.
    ///
    /// # Errors
    /// The first key that cannot be read.
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a Secret<String>)>) -> Result<Self, BadKey> {
        let public = |(kid, pem)| Ok((str::to_owned(kid), DecodingKey::from_ec_der(&public_key(kid, pem)?)));
        keys.into_iter().map(public).collect::<Result<_, _>>().map(Self)
    }

    fn get(&self, kid: &str) -> Option<&DecodingKey> {
        self.0.iter().find(|(known, _)| known == kid).map(|(_, key)| key)
    }
}

/// What `token` says, if one of `keys` signed it, `issuer` issued it, it is meant for `audience`, and `now` is its time.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn verify(token: &str, keys: &KeySet, issuer: &str, audience: &str, now: Timestamp) -> Result<Claims, BadJwt> {
    let (signed, signature) = token.rsplit_once('.').filter(|_| token.len() <= MAX_TOKEN).ok_or(BadJwt::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(BadJwt::Form)?;
    let key = key_of(header, keys)?;
    let genuine = crypto::verify(signature, signed.as_bytes(), key, Algorithm::ES256).unwrap_or(false);
    if !genuine {
        return Err(BadJwt::Signature);
    }
    // Nothing of the claims was looked at before this line.
    let claims: Claims = object(claims)?.ok_or(BadJwt::Claims)?;
    judge(&claims, issuer, audience, now.seconds())?;
    Ok(claims)
}

/// Whether a text has the form of a JWT, as opposed to one of our opaque tokens.
pub(super) fn looks_like_one(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The header as we write it. Everything else that a header can hold tells the reader where to get a key from (`jku`,
/// `jwk`, `x5u`, `x5c`), that there is more to understand (`crit`, `b64`, `zip`), or nothing: all of it is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurHeader {
    alg: String,
    kid: String,
    #[serde(default, deserialize_with = "present")]
    typ: Option<String>,
}

fn key_of<'a>(header: &str, keys: &'a KeySet) -> Result<&'a DecodingKey, BadJwt> {
    let header: OurHeader = object(header)?.ok_or(BadJwt::Header)?;
    let of_type = |name: &str| header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(name));
    let typed = header.typ.is_none() || of_type("JWT") || of_type("at+jwt");
    if header.alg != "ES256" || !typed {
        return Err(BadJwt::Header);
    }
    keys.get(&header.kid).ok_or(BadJwt::Key)
}

fn judge(claims: &Claims, issuer: &str, audience: &str, now: i64) -> Result<(), BadJwt> {
    if claims.iss != issuer {
        return Err(BadJwt::Issuer);
    }
    if !claims.aud.iter().any(|meant| meant == audience) {
        return Err(BadJwt::Audience);
    }
    if now >= claims.exp.saturating_add(LEEWAY_SECONDS) {
        return Err(BadJwt::Expired);
    }
    let latest = now.saturating_add(LEEWAY_SECONDS);
    let lifetime = claims.exp.checked_sub(claims.iat);
    let ours = claims.iat >= 0
        && claims.iat <= latest
        && claims.nbf.is_none_or(|begins| begins <= latest)
        && lifetime.is_some_and(|seconds| (1..=MAX_LIFETIME_SECONDS).contains(&seconds));
    if ours { Ok(()) } else { Err(BadJwt::Times) }
}

/// A part of a token as a JSON object: `Ok(None)` for an object (or other JSON) that does not fit `T`.
fn object<T: DeserializeOwned>(part: &str) -> Result<Option<T>, BadJwt> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| BadJwt::Form)?;
    // serde would also read a struct from an array.
    if bytes.first() != Some(&b'{') {
        return Err(BadJwt::Form);
    }
    Ok(serde_json::from_slice(&bytes).ok())
}

/// An optional member that, when it is there, is not `null`.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn audience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

#[allow(clippy::ptr_arg, reason = "serde calls it with the field's type")]
fn one_or_many<S: serde::Serializer>(audience: &Vec<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match audience.as_slice() {
        [one] => one.serialize(serializer),
        many => many.serialize(serializer),
    }
}

/// The public key as an uncompressed point, `04 x y`.
fn public_key(kid: &str, pem: &Secret<String>) -> Result<Vec<u8>, BadKey> {
    let bad = || BadKey(kid.to_owned());
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.reveal().as_bytes()).map_err(|_| bad())?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der()).map_err(|_| bad())?;
    Ok(pair.public_key().as_ref().to_vec())
}

/// RFC 7638: the SHA-256 of the key as a JWK with its required members in order.
fn thumbprint(point: &[u8]) -> String {
    let coordinate = |bytes: Option<&[u8]>| URL_SAFE_NO_PAD.encode(bytes.unwrap_or_default());
    let (x, y) = (coordinate(point.get(1..33)), coordinate(point.get(33..65)));
    URL_SAFE_NO_PAD.encode(sha256(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes()))
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
