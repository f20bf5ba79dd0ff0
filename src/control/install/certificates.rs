//! Certificates to develop with: an authority that can vouch for this machine's own names and nothing else.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};

use crate::{clock::Timestamp, secret::Secret};

/// Two certificates and their keys, PEM.
pub(super) struct Development {
    pub authority: String,
    pub authority_key: Secret<String>,
    pub server: String,
    pub server_key: Secret<String>,
}

const DAY: u64 = 24 * 3600;
/// Trusted by hand, so it should not have to be soon again.
const AUTHORITY_DAYS: u64 = 3650;
/// Browsers refuse server certificates that are good for longer than 398 days.
const SERVER_DAYS: u64 = 397;
/// The names of this machine to itself.
// No `*.localhost`: rustls refuses a wildcard above a single label, and with it the whole certificate.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes both.
pub(super) fn development(now: Timestamp) -> Result<Development, rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let authority = authority_params(now);
    let authority_certificate = authority.self_signed(&authority_key)?;
    let server_key = KeyPair::generate()?;
    let issuer = Issuer::from_params(&authority, &authority_key);
    let server = server_params(now)?.signed_by(&server_key, &issuer)?;
    Ok(Development {
        authority: authority_certificate.pem(),
        authority_key: Secret::new(authority_key.serialize_pem()),
        server: Certificate::pem(&server),
        server_key: Secret::new(server_key.serialize_pem()),
    })
}

/// Name constraints: who steals this key, or adds this authority to a browser, gains `localhost` and nothing more.
fn authority_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Portcullis development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                128,
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    valid(&mut params, now, AUTHORITY_DAYS);
    params
}

fn server_params(now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, SERVER_DAYS);
    Ok(params)
}

/// From an hour ago, because two clocks on one desk differ.
fn valid(params: &mut CertificateParams, now: Timestamp, days: u64) {
    let seconds = u64::try_from(now.seconds()).unwrap_or(0);
    let from = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.saturating_sub(3600));
    params.not_before = from;
    params.not_after = from + Duration::from_secs(days * DAY);
}
