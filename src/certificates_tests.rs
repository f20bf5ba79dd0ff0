//! Real handshakes in memory, and every way to get a certificate wrong.

use std::sync::atomic::AtomicI64;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;

/// A directory with certificates of one authority.
struct Shop {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Shop {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { directory: tempfile::tempdir().unwrap(), authority }
    }

    fn certificate(&self, file: &str, names: &[&str]) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let chain = certificate.pem() + &self.authority.pem();
        let files = self.files(file);
        self.write(&files.certificate, &chain, 0o644);
        self.write(&files.key, &key.serialize_pem(), 0o600);
        files
    }

    fn files(&self, file: &str) -> CertificateFiles {
        let path = |extension| self.directory.path().join(format!("{file}.{extension}"));
        CertificateFiles { certificate: path("crt"), key: path("key") }
    }

    fn write(&self, file: &Path, text: &str, mode: u32) {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(client)
    }
}

fn tls(certificates: Vec<CertificateFiles>, minimum: TlsVersion) -> Tls {
    Tls { certificates, minimum }
}

fn at(year_from_1970: i64) -> Clock {
    Clock::Manual(Arc::new(AtomicI64::new(year_from_1970 * 365_250 * 24 * 3600)))
}

fn load(certificates: Vec<CertificateFiles>) -> Certificates {
    Certificates::load(&tls(certificates, TlsVersion::V12), &at(60)).map_err(|errors| format!("{errors:?}")).unwrap()
}

fn problem(files: CertificateFiles) -> String {
    let errors = Certificates::load(&tls(vec![files], TlsVersion::V12), &at(60)).err().unwrap();
    assert_eq!(errors.len(), 1);
    errors[0].to_string()
}

/// A whole handshake and what follows it, without a network.
fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from(name.to_owned()).unwrap())?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn leaf(connection: &ClientConnection) -> Vec<u8> {
    connection.peer_certificates().unwrap()[0].to_vec()
}

fn leaf_of(files: &CertificateFiles) -> Vec<u8> {
    read_chain(&files.certificate).unwrap()[0].to_vec()
}

#[test]
fn the_name_chooses_the_certificate() {
    let shop = Shop::new();
    let first = shop.certificate("first", &["localhost", "127.0.0.1", "::1"]);
    let exact = shop.certificate("exact", &["API.example.org"]);
    let wild = shop.certificate("wild", &["*.example.org", "example.org"]);
    let loaded = load(vec![first.clone(), exact.clone(), wild.clone()]);
    assert_eq!(loaded.described[0].names, ["localhost", "127.0.0.1", "::1"]);
    assert_eq!(loaded.described[2].names, ["*.example.org", "example.org"]);
    assert_eq!(loaded.described[0].not_after.rfc3339(), "2040-01-01T00:00:00.000Z");
    assert_eq!((loaded.described[1].file.clone(), loaded.warnings), (exact.certificate.clone(), Vec::<String>::new()));
    let client = shop.client(&[&TLS13, &TLS12]);
    for (name, files) in [
        ("localhost", &first),
        ("127.0.0.1", &first),
        ("::1", &first),
        ("api.example.org", &exact),
        ("www.example.org", &wild),
        ("WWW.Example.ORG", &wild),
        ("example.org", &wild),
    ] {
        let (client, server) = shake(&loaded.config, &client, name).unwrap();
        assert_eq!(leaf(&client), leaf_of(files), "{name}");
        assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    }
    // Nobody's name: the first answers and the client refuses it. A wildcard is for one label.
    for name in ["a.b.example.org", "other.test"] {
        assert!(shake(&loaded.config, &client, name).is_err(), "{name}");
    }
}

#[test]
fn sessions_resume_and_there_is_no_early_data() {
    let shop = Shop::new();
    let loaded = load(vec![shop.certificate("one", &["localhost"])]);
    for version in [&TLS13, &TLS12] {
        let client = shop.client(&[version]);
        let (_, server) = shake(&loaded.config, &client, "localhost").unwrap();
        assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
        let (_, server) = shake(&loaded.config, &client, "localhost").unwrap();
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
    }
    assert_eq!((loaded.config.max_early_data_size, loaded.config.send_half_rtt_data), (0, false));
}

#[test]
fn the_minimum_version_holds() {
    let shop = Shop::new();
    let files = shop.certificate("one", &["localhost"]);
    let strict = Certificates::load(&tls(vec![files.clone()], TlsVersion::V13), &at(60)).ok().unwrap();
    assert!(shake(&strict.config, &shop.client(&[&TLS12]), "localhost").is_err());
    assert!(shake(&strict.config, &shop.client(&[&TLS13]), "localhost").is_ok());
    assert!(shake(&load(vec![files]).config, &shop.client(&[&TLS12]), "localhost").is_ok());
}

#[test]
fn what_is_wrong_is_said_with_the_file() {
    let shop = Shop::new();
    let good = shop.certificate("good", &["localhost"]);
    let other = shop.certificate("other", &["localhost"]);
    let nothing = Certificates::load(&tls(Vec::new(), TlsVersion::V12), &at(60)).err().unwrap();
    assert!(nothing[0].to_string().contains("[[tls.certificate]]"), "{nothing:?}");
    let missing = problem(CertificateFiles { key: shop.files("gone").key, ..good.clone() });
    assert!(missing.contains("gone.key: cannot be read: No such file"), "{missing}");
    let swapped = problem(CertificateFiles { certificate: good.key.clone(), key: good.certificate.clone() });
    assert!(swapped.contains("good.key: holds no certificate"), "{swapped}");
    let no_key = problem(CertificateFiles { key: good.certificate.clone(), ..good.clone() });
    assert!(no_key.contains("good.crt: holds no private key"), "{no_key}");
    let mismatch = problem(CertificateFiles { key: other.key.clone(), ..good.clone() });
    assert!(mismatch.contains("does not belong to the certificate in") && mismatch.contains("other.key"), "{mismatch}");
    let bad = shop.files("bad");
    shop.write(&bad.key, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", 0o600);
    let encrypted = problem(CertificateFiles { key: bad.key.clone(), ..good.clone() });
    assert!(encrypted.contains("bad.key: the private key is encrypted"), "{encrypted}");
    shop.write(&bad.key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600);
    let unusable = problem(CertificateFiles { key: bad.key.clone(), ..good.clone() });
    assert!(unusable.contains("cannot be used"), "{unusable}");
    shop.write(&bad.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
    let malformed = problem(CertificateFiles { certificate: bad.certificate.clone(), ..good.clone() });
    assert!(malformed.contains("bad.crt: the certificate cannot be read"), "{malformed}");
    let both = tls(vec![shop.files("a"), good, shop.files("b")], TlsVersion::V12);
    assert_eq!(Certificates::load(&both, &at(60)).err().unwrap().len(), 2, "all of them at once");
}

#[test]
fn what_is_doubtful_is_warned_about() {
    let shop = Shop::new();
    let files = shop.certificate("one", &["localhost"]);
    let warnings = |clock: Clock| {
        let loaded = Certificates::load(&tls(vec![files.clone()], TlsVersion::V12), &clock);
        loaded.ok().unwrap().warnings.join("\n")
    };
    let moment = |text: &str| {
        let millis = text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        Clock::Manual(Arc::new(AtomicI64::new(millis)))
    };
    assert!(warnings(moment("2040-01-01T00:00:00Z")).contains("expired at 2040-01-01"));
    assert!(warnings(moment("2039-12-20T00:00:00Z")).contains("expires at 2040-01-01"));
    assert!(warnings(moment("2019-12-31T00:00:00Z")).contains("not valid before 2020-01-01"));
    assert_eq!(warnings(moment("2039-12-01T00:00:00Z")), "");
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(warnings(moment("2030-01-01T00:00:00Z")).contains("(mode 640)"));
    let nameless = load(vec![shop.certificate("nameless", &[])]);
    assert!(nameless.warnings.join("").contains("names no host"));
}
