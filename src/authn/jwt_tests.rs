//! Everything that RFC 8725 warns of, and what else has been sent to readers of JWTs.

use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

/// One key, a token of which everything is right, and ways to make one of which something is not.
struct Forge {
    kid: String,
    pem: Secret<String>,
    keys: KeySet,
}

impl Forge {
    fn new() -> Self {
        let (kid, pem) = generate_key().unwrap();
        let keys = KeySet::new([(kid.as_str(), &pem)]).unwrap();
        Self { kid, pem, keys }
    }

    fn header(&self) -> Value {
        json!({ "typ": "JWT", "alg": "ES256", "kid": self.kid })
    }

    /// Any header and claims, signed with our own key: only what is written in them can be wrong.
    fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let key = EncodingKey::from_ec_pem(self.pem.reveal().as_bytes()).unwrap();
        let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::ES256).unwrap();
        format!("{signed}.{signature}")
    }

    fn with_header(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut header = self.header();
        change(&mut header);
        self.sign(&header.to_string(), &claims().to_string())
    }

    fn with_claims(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims();
        change(&mut claims);
        self.sign(&self.header().to_string(), &claims.to_string())
    }

    fn verify(&self, token: &str) -> Result<Claims, BadJwt> {
        verify(token, &self.keys, "portcullis", "/notes", Timestamp(NOW * 1000))
    }
}

fn claims() -> Value {
    json!({ "iss": "portcullis", "sub": "ann", "aud": "/notes", "iat": NOW - 10, "exp": NOW + 600, "jti": "tok_1" })
}

#[test]
fn what_was_issued_is_verified() {
    let forge = Forge::new();
    let signer = Signer::new(&forge.kid, &forge.pem).unwrap();
    let said: Claims = serde_json::from_value(claims()).unwrap();
    let token = issue(&signer, &said).unwrap();
    assert_eq!(forge.verify(token.reveal()), Ok(said.clone()));
    let many = Claims { aud: vec!["/other".to_owned(), "/notes".to_owned()], nbf: Some(NOW), ..said };
    assert_eq!(forge.verify(issue(&signer, &many).unwrap().reveal()), Ok(many));
}

#[test]
fn the_forge_makes_tokens_that_are_accepted_when_nothing_is_changed() {
    let forge = Forge::new();
    for change in [json!({}), json!({ "typ": "at+jwt" }), json!({ "typ": "jwt" })] {
        let token = forge.with_header(|header| merge(header, change.clone()));
        assert!(forge.verify(&token).is_ok(), "{change}");
    }
    assert!(forge.verify(&forge.with_header(|header| drop_key(header, "typ"))).is_ok());
    assert!(forge.verify(&forge.with_claims(|claims| merge(claims, json!({ "unknown": [1, { "a": 2 }] })))).is_ok());
}

#[test]
fn a_header_that_gives_instructions_is_refused() {
    let forge = Forge::new();
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" });
    for (change, why) in [
        (json!({ "alg": "none" }), BadJwt::Header),
        (json!({ "alg": "None" }), BadJwt::Header),
        (json!({ "alg": "NONE" }), BadJwt::Header),
        (json!({ "alg": "" }), BadJwt::Header),
        (json!({ "alg": null }), BadJwt::Header),
        (json!({ "alg": ["ES256"] }), BadJwt::Header),
        (json!({ "alg": "es256" }), BadJwt::Header),
        (json!({ "alg": "ES256K" }), BadJwt::Header),
        (json!({ "alg": "ES384" }), BadJwt::Header),
        (json!({ "alg": "HS256" }), BadJwt::Header),
        (json!({ "alg": "HS384" }), BadJwt::Header),
        (json!({ "alg": "RS256" }), BadJwt::Header),
        (json!({ "alg": "PS256" }), BadJwt::Header),
        (json!({ "alg": "EdDSA" }), BadJwt::Header),
        (json!({ "crit": ["exp"] }), BadJwt::Header),
        (json!({ "crit": [] }), BadJwt::Header),
        (json!({ "b64": false, "crit": ["b64"] }), BadJwt::Header),
        (json!({ "jku": "https://evil.example/keys" }), BadJwt::Header),
        (json!({ "jwk": jwk }), BadJwt::Header),
        (json!({ "x5u": "https://evil.example/cert" }), BadJwt::Header),
        (json!({ "x5c": ["AA"] }), BadJwt::Header),
        (json!({ "x5t": "AA" }), BadJwt::Header),
        (json!({ "zip": "DEF" }), BadJwt::Header),
        (json!({ "enc": "A256GCM" }), BadJwt::Header),
        (json!({ "cty": "JWT" }), BadJwt::Header),
        (json!({ "typ": "JOSE" }), BadJwt::Header),
        (json!({ "typ": "dpop+jwt" }), BadJwt::Header),
        (json!({ "typ": "secevent+jwt" }), BadJwt::Header),
        (json!({ "typ": null }), BadJwt::Header),
        (json!({ "typ": 1 }), BadJwt::Header),
        (json!({ "kid": null }), BadJwt::Header),
        (json!({ "kid": 1 }), BadJwt::Header),
        (json!({ "kid": "" }), BadJwt::Key),
        (json!({ "kid": "other" }), BadJwt::Key),
        (json!({ "kid": "../../../../dev/null" }), BadJwt::Key),
        (json!({ "kid": "' OR 1=1 --" }), BadJwt::Key),
    ] {
        let token = forge.with_header(|header| merge(header, change.clone()));
        assert_eq!(forge.verify(&token), Err(why), "{change}");
    }
    assert_eq!(forge.verify(&forge.with_header(|header| drop_key(header, "kid"))), Err(BadJwt::Header));
    assert_eq!(forge.verify(&forge.with_header(|header| drop_key(header, "alg"))), Err(BadJwt::Header));
    // The last of two members wins in some readers, the first in others.
    let twice = format!(r#"{{"alg":"none","alg":"ES256","kid":"{}"}}"#, forge.kid);
    assert_eq!(forge.verify(&forge.sign(&twice, &claims().to_string())), Err(BadJwt::Header));
}

#[test]
fn a_claim_that_is_missing_or_odd_is_refused() {
    let forge = Forge::new();
    for claim in ["iss", "sub", "aud", "iat", "exp", "jti"] {
        assert_eq!(forge.verify(&forge.with_claims(|c| drop_key(c, claim))), Err(BadJwt::Claims), "without {claim}");
        for odd in [json!(null), json!(true), json!({}), json!([1]), json!(1.5)] {
            let token = forge.with_claims(|c| merge(c, json!({ claim: odd })));
            assert_eq!(forge.verify(&token), Err(BadJwt::Claims), "{claim} = {odd}");
        }
    }
    for (change, why) in [
        (json!({ "iss": "portcullis2" }), BadJwt::Issuer),
        (json!({ "iss": "Portcullis" }), BadJwt::Issuer),
        (json!({ "iss": "" }), BadJwt::Issuer),
        (json!({ "iss": ["portcullis", "evil"] }), BadJwt::Claims),
        (json!({ "aud": "/note" }), BadJwt::Audience),
        (json!({ "aud": "/notes/" }), BadJwt::Audience),
        (json!({ "aud": "/Notes" }), BadJwt::Audience),
        (json!({ "aud": "*" }), BadJwt::Audience),
        (json!({ "aud": "" }), BadJwt::Audience),
        (json!({ "aud": [] }), BadJwt::Audience),
        (json!({ "aud": ["/a", "/b"] }), BadJwt::Audience),
        (json!({ "aud": ["/notes", 1] }), BadJwt::Claims),
        (json!({ "aud": { "/notes": true } }), BadJwt::Claims),
        (json!({ "exp": "9999999999" }), BadJwt::Claims),
        (json!({ "exp": 1e300 }), BadJwt::Claims),
        (json!({ "exp": u64::MAX }), BadJwt::Claims),
        (json!({ "exp": i64::MAX }), BadJwt::Times),
        (json!({ "exp": i64::MIN }), BadJwt::Expired),
        (json!({ "exp": 0 }), BadJwt::Expired),
        (json!({ "exp": NOW - LEEWAY_SECONDS }), BadJwt::Expired),
        (json!({ "exp": NOW - 10 + MAX_LIFETIME_SECONDS + 1 }), BadJwt::Times),
        (json!({ "iat": NOW + LEEWAY_SECONDS + 1 }), BadJwt::Times),
        (json!({ "iat": NOW + 700 }), BadJwt::Times),
        (json!({ "iat": -1 }), BadJwt::Times),
        (json!({ "iat": i64::MIN }), BadJwt::Times),
        (json!({ "nbf": NOW + LEEWAY_SECONDS + 1 }), BadJwt::Times),
        (json!({ "nbf": i64::MAX }), BadJwt::Times),
        (json!({ "nbf": null }), BadJwt::Claims),
        (json!({ "nbf": "0" }), BadJwt::Claims),
        (json!({ "nbf": 1.5 }), BadJwt::Claims),
    ] {
        let token = forge.with_claims(|claims| merge(claims, change.clone()));
        assert_eq!(forge.verify(&token), Err(why), "{change}");
    }
    for (change, what) in [
        (json!({ "exp": NOW - LEEWAY_SECONDS + 1 }), "expired within the leeway"),
        (json!({ "exp": NOW - 10 + MAX_LIFETIME_SECONDS }), "as long as allowed"),
        (json!({ "iat": NOW + LEEWAY_SECONDS, "nbf": NOW + LEEWAY_SECONDS }), "from a clock that is a little ahead"),
    ] {
        assert!(forge.verify(&forge.with_claims(|claims| merge(claims, change))).is_ok(), "{what}");
    }
    let twice = claims().to_string().replace(r#""sub":"ann""#, r#""sub":"ann","sub":"root""#);
    assert!(twice.contains("root"));
    assert_eq!(forge.verify(&forge.sign(&forge.header().to_string(), &twice)), Err(BadJwt::Claims));
}

#[test]
fn only_our_own_signature_counts() {
    let forge = Forge::new();
    let good = forge.with_claims(|_| ());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    assert!(forge.verify(&good).is_ok());
    let other = Forge::new();
    let stranger = Forge { kid: forge.kid.clone(), pem: other.pem, keys: other.keys };
    assert_eq!(forge.verify(&stranger.with_claims(|_| ())), Err(BadJwt::Signature), "another key under our kid");
    for (forged, what) in [
        (String::new(), "none"),
        (URL_SAFE_NO_PAD.encode([0; 64]), "r = s = 0 (CVE-2022-21449)"),
        (URL_SAFE_NO_PAD.encode([0xff; 64]), "out of range"),
        (signature[..signature.len() - 4].to_owned(), "cut"),
        (format!("{signature}AAAA"), "longer"),
        (format!("{signature}=="), "padded"),
        (format!(" {signature}"), "with a space"),
    ] {
        assert_eq!(forge.verify(&format!("{signed}.{forged}")), Err(BadJwt::Signature), "{what}");
    }
    // HS256 with the public key as the secret: the classic confusion. The header alone refuses it.
    let point = public_key("", &forge.pem).unwrap();
    let header = json!({ "typ": "JWT", "alg": "HS256", "kid": forge.kid }).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims().to_string()));
    let mac = crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(&point), Algorithm::HS256).unwrap();
    assert_eq!(forge.verify(&format!("{signed}.{mac}")), Err(BadJwt::Header));
}

#[test]
fn every_changed_byte_is_noticed() {
    let forge = Forge::new();
    let good = forge.with_claims(|_| ());
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(forge.verify(&String::from_utf8(bytes).unwrap()).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_no_jwt_is_refused() {
    let forge = Forge::new();
    let good = forge.with_claims(|_| ());
    let (header, rest) = good.split_once('.').unwrap();
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        header.to_owned(),
        format!("{good}.{good}"),
        format!("{header}..{rest}"),
        format!("{header}=.{rest}"),
        format!("{}.{rest}", header.replace(|c: char| c.is_ascii_alphanumeric(), "+")),
        format!("e30.{rest}"),
        format!("bnVsbA.{rest}"),
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(format!(r#"["ES256","{}"]"#, forge.kid))),
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode("{".repeat(2000))),
        "a".repeat(5000) + "." + &"b".repeat(5000) + ".c",
    ] {
        assert!(forge.verify(&bad).is_err(), "{bad}");
    }
    let array = forge.sign(&forge.header().to_string(), r#"["portcullis","ann","/notes",null,1,2,"tok_1"]"#);
    assert_eq!(forge.verify(&array), Err(BadJwt::Form));
}

#[test]
fn a_key_that_is_not_one_is_refused_and_a_kid_is_its_thumbprint() {
    assert!(KeySet::new([("k", &Secret::new("nonsense".to_owned()))]).is_err());
    assert!(Signer::new("k", &Secret::new(String::new())).is_err());
    // RFC 7638 is about the required members in lexicographic order; the length is that of a SHA-256.
    let (kid, _) = generate_key().unwrap();
    assert_eq!(kid.len(), 43);
}

fn merge(target: &mut Value, change: Value) {
    for (key, value) in change.as_object().unwrap() {
        target[key] = value.clone();
    }
}

fn drop_key(target: &mut Value, key: &str) {
    target.as_object_mut().unwrap().remove(key);
}
