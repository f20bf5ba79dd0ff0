//! Certificates: from PEM files to what answers a TLS handshake.
//!
//! The client says which name it wants (SNI) before it says anything else, and the certificate that carries that name
//! answers: exactly, or by a wildcard of one label. Without a name, by IP address or with an unknown one, the first
//! certificate answers, and the client will say what it thinks of it; which host a *request* may name is judged later,
//! from the request.
//!
//! Sessions resume by tickets alone: nothing is kept per client, and the key of the tickets is random, rotates, and
//! goes with the process. Early data is off: it can be replayed, and a gate that lets a request in twice is no gate.

use std::{
    collections::HashMap,
    fmt, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::{
    clock::{Clock, Timestamp},
    config::{CertificateFiles, Tls, TlsVersion},
};

/// What the listeners speak, in the order they prefer it.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// How long before its end a certificate is warned about, milliseconds: two weeks.
const WARN_BEFORE: i64 = 14 * 24 * 3600 * 1000;

/// Every certificate, ready to answer.
pub struct Certificates {
    /// For the listeners. Swapping it for another is a reload.
    pub config: Arc<ServerConfig>,
    /// What they are, in the order of the configuration.
    pub described: Vec<CertificateInfo>,
    /// What an operator should look at, one sentence each.
    pub warnings: Vec<String>,
}

/// What one certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// DNS names and addresses, as in the certificate.
    pub names: Vec<String>,
    /// From then on clients refuse it.
    pub not_after: Timestamp,
    /// Where it was read.
    pub file: PathBuf,
}

/// What is wrong with one file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct CertificateError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: CertificateProblem,
}

/// What can be wrong with the file of a certificate or a key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateProblem {
    /// Not there, or not readable by us.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// No certificate in it.
    #[error("holds no certificate in PEM (it should begin with `-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// No key in it.
    #[error("holds no private key in PEM (it should begin with `-----BEGIN PRIVATE KEY-----`)")]
    NoKey,
    /// The key is protected by a passphrase, which nobody could type at a restart.
    #[error("the private key is encrypted: write it without a passphrase, `openssl pkey -in KEY -out NEW`, mode 0600")]
    EncryptedKey,
    /// PEM, and then nothing that can be read.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// A key of a kind that TLS here does not use.
    #[error("the private key cannot be used: {0}")]
    Unusable(String),
    /// The certificate is for another key.
    #[error("the private key does not belong to the certificate in {}", .0.display())]
    Mismatch(PathBuf),
    /// There has to be one.
    #[error("names no certificate: add `[[tls.certificate]]` with `certificate` and `key`")]
    None,
    /// The machine gives no randomness, or the provider lacks what TLS needs.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl Certificates {
    /// Reads every certificate and key of `[tls]`.
    ///
    /// # Errors
    /// Everything that is wrong, one per file.
    pub fn load(tls: &Tls, clock: &Clock) -> Result<Self, Vec<CertificateError>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (mut loaded, mut errors) = (Vec::new(), Vec::new());
        for files in &tls.certificates {
            match Loaded::read(files, &provider) {
                Ok(one) => loaded.push(one),
                Err(error) => errors.push(error),
            }
        }
        let setup = |problem| vec![CertificateError { file: PathBuf::from("[tls]"), problem }];
        if !errors.is_empty() {
            return Err(errors);
        }
        if loaded.is_empty() {
            return Err(setup(CertificateProblem::None));
        }
        let config =
            configure(&loaded, tls.minimum, provider).map_err(|error| setup(CertificateProblem::Setup(error)))?;
        let warnings = loaded.iter().flat_map(|one| one.warnings(clock.now())).collect();
        Ok(Self { config: Arc::new(config), described: loaded.into_iter().map(|one| one.info).collect(), warnings })
    }
}

fn configure(
    loaded: &[Loaded],
    minimum: TlsVersion,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[&SupportedProtocolVersion] = match minimum {
        TlsVersion::V12 => &[&TLS13, &TLS12],
        TlsVersion::V13 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni::new(loaded)));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

/// One certificate with its key.
struct Loaded {
    key: Arc<CertifiedKey>,
    info: CertificateInfo,
    not_before: Timestamp,
    key_file: PathBuf,
    key_mode: u32,
}

impl Loaded {
    fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, CertificateError> {
        let in_certificate = |problem| CertificateError { file: files.certificate.clone(), problem };
        let in_key = |problem| CertificateError { file: files.key.clone(), problem };
        let chain = read_chain(&files.certificate).map_err(in_certificate)?;
        let (names, not_before, not_after) = describe(&chain).map_err(in_certificate)?;
        let (key, key_mode) = read_key(&files.key).map_err(in_key)?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            in_key(match error {
                rustls::Error::InconsistentKeys(_) => CertificateProblem::Mismatch(files.certificate.clone()),
                other => CertificateProblem::Unusable(other.to_string()),
            })
        })?;
        let info = CertificateInfo { names, not_after, file: files.certificate.clone() };
        Ok(Self { key: Arc::new(key), info, not_before, key_file: files.key.clone(), key_mode })
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        let (file, not_after) = (self.info.file.display(), self.info.not_after);
        let mut warnings = Vec::new();
        if now >= not_after {
            warnings.push(format!("{file}: the certificate expired at {}; clients refuse it", not_after.rfc3339()));
        } else if now.plus_millis(WARN_BEFORE) >= not_after {
            warnings.push(format!("{file}: the certificate expires at {}; renew it", not_after.rfc3339()));
        }
        if now < self.not_before {
            let begins = self.not_before.rfc3339();
            warnings
                .push(format!("{file}: the certificate is not valid before {begins}; is this machine's clock right?"));
        }
        if self.info.names.is_empty() {
            warnings
                .push(format!("{file}: the certificate names no host (subject alternative name); clients refuse it"));
        }
        if self.key_mode & 0o077 != 0 {
            let (key, mode) = (self.key_file.display(), self.key_mode & 0o777);
            warnings
                .push(format!("{key}: others than its owner can reach the private key (mode {mode:03o}): `chmod 600`"));
        }
        warnings
    }
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateProblem> {
    let text = fs::read(file).map_err(CertificateProblem::Read)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| CertificateProblem::Malformed(error.to_string()))?;
    if chain.is_empty() { Err(CertificateProblem::NoCertificate) } else { Ok(chain) }
}

fn read_key(file: &Path) -> Result<(PrivateKeyDer<'static>, u32), CertificateProblem> {
    let text = zeroize::Zeroizing::new(fs::read(file).map_err(CertificateProblem::Read)?);
    let mode = fs::metadata(file).map_err(CertificateProblem::Read)?.permissions().mode();
    if memchr::memmem::find(&text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----").is_some() {
        return Err(CertificateProblem::EncryptedKey);
    }
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateProblem::NoKey,
        other => CertificateProblem::Unusable(other.to_string()),
    })?;
    Ok((key, mode))
}

/// Names and times of the leaf.
fn describe(chain: &[CertificateDer<'_>]) -> Result<(Vec<String>, Timestamp, Timestamp), CertificateProblem> {
    let malformed = |error: &dyn fmt::Display| CertificateProblem::Malformed(error.to_string());
    let leaf = chain.first().ok_or(CertificateProblem::NoCertificate)?;
    let (_, leaf) = parse_x509_certificate(leaf).map_err(|error| malformed(&error))?;
    let alternative = leaf.subject_alternative_name().map_err(|error| malformed(&error))?;
    let names = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(name).collect();
    let time = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().saturating_mul(1000));
    Ok((names, time(leaf.validity().not_before), time(leaf.validity().not_after)))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
            let v6 = || <[u8; 16]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
            v4.or_else(|_| v6()).ok()
        }
        _ => None,
    }
}

/// Which certificate answers which name.
struct BySni {
    /// By name in lower case; wildcards by what follows the star: `.example.org`. More than one where the same name has
    /// keys of several kinds.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Vec<Arc<CertifiedKey>>,
}

impl BySni {
    fn new(loaded: &[Loaded]) -> Self {
        let mut names: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        for one in loaded {
            for name in &one.info.names {
                let name = name.to_ascii_lowercase();
                let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(&name);
                names.entry(name.to_owned()).or_default().push(Arc::clone(&one.key));
            }
        }
        Self { names, first: loaded.iter().take(1).map(|one| Arc::clone(&one.key)).collect() }
    }

    fn of(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.first };
        // One label, as RFC 9525 section 6.3 has it: `*.example.org` is not for `a.b.example.org`.
        let wildcard = name.find('.').filter(|dot| *dot > 0).and_then(|dot| self.names.get(&name[dot..]));
        self.names.get(&name).or(wildcard).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.of(hello.server_name());
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(fits).or_else(|| candidates.first()).cloned()
    }
}

impl fmt::Debug for BySni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names.keys()).finish()
    }
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
