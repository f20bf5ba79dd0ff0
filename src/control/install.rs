//! Making an installation: a working set in one directory, or nothing.
//!
//! ```text
//! portcullis.toml   policies/   certs/   data/   logs/
//! ```
//!
//! Nothing is overwritten. `portcullis.toml` is written last, so that it is there exactly when everything is; if
//! something fails before, what was made is taken away again.

mod certificates;

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    ActError, Actor,
    passwords::{self, PasswordRules},
};
use crate::{
    audit::event,
    authn::jwt,
    clock::Clock,
    config,
    model::{ADMINISTRATOR, Name},
    secret::Secret,
    store::{NewUser, SigningKey, Store, StoreError},
};

/// What to make.
pub struct InitArgs {
    /// Where.
    pub directory: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The first administrator.
    pub admin: Name,
    /// Their password; `None` makes one up.
    pub password: Option<Secret<String>>,
    /// The security level, and what a password has to be.
    pub rules: PasswordRules,
}

/// What was made.
pub struct Installed {
    /// `portcullis.toml`
    pub config: PathBuf,
    /// The certificate that browsers have to trust.
    pub authority: PathBuf,
    /// The store.
    pub store: PathBuf,
    /// Where policies go.
    pub policies: PathBuf,
    /// The password that was made up: shown once.
    pub generated: Option<Secret<String>>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something already.
    #[error("{} exists already and is not overwritten{}", .0.display(), .1)]
    Exists(PathBuf, &'static str),
    /// The operating system refused.
    #[error("cannot make {}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate or a key could not be made.
    #[error("cannot make {what}: {why}")]
    Make {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The first administrator is refused.
    #[error(transparent)]
    Act(#[from] ActError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It failed, and not everything could be taken away again.
    #[error("{cause}\nremove by hand what was made before that: {}", list(left))]
    Left {
        /// What failed.
        cause: Box<Self>,
        /// What is left.
        left: Vec<PathBuf>,
    },
}

const CONFIG: &str = "portcullis.toml";
const POLICIES: &str = "policies";
const CERTS: &str = "certs";
const DATA: &str = "data";
const LOGS: &str = "logs";
/// Where `config::template` expects the store.
const STORE: &str = "data/portcullis.sqlite3";
/// What SQLite keeps beside it.
const STORE_LOG: &str = "data/portcullis.sqlite3-wal";
const STORE_INDEX: &str = "data/portcullis.sqlite3-shm";
const AUTHORITY: &str = "certs/ca.pem";
const AUTHORITY_KEY: &str = "certs/ca.key";
const CERTIFICATE: &str = "certs/localhost.pem";
const CERTIFICATE_KEY: &str = "certs/localhost.key";

/// Makes an installation.
///
/// # Errors
/// Something is there already, the administrator is refused, or something cannot be written. Nothing is left then, or
/// the error says what.
pub async fn init(actor: &Actor, args: InitArgs, clock: Clock) -> Result<Installed, InitError> {
    nothing_there(&args.directory)?;
    let mut made = Made::default();
    match make(actor, args, clock, &mut made).await {
        Ok(installed) => Ok(installed),
        Err(cause) => {
            let left = made.undo();
            Err(if left.is_empty() { cause } else { InitError::Left { cause: Box::new(cause), left } })
        }
    }
}

async fn make(actor: &Actor, args: InitArgs, clock: Clock, made: &mut Made) -> Result<Installed, InitError> {
    let root = &args.directory;
    let (password, generated) = match &args.password {
        Some(password) => (password.clone(), None),
        None => {
            let password = passwords::generate();
            (password.clone(), Some(password))
        }
    };
    // First of all: a password that is refused is the likeliest mistake.
    let phc = passwords::hash(&password, &args.admin, &args.rules).await?;
    made.directory(root, 0o755)?;
    if made.directory(&root.join(POLICIES), 0o755)? {
        made.file(&root.join(POLICIES).join("README.md"), 0o644, POLICIES_README.as_bytes())?;
    }
    for private in [DATA, LOGS] {
        made.directory(&root.join(private), 0o700)?;
    }
    write_certificates(root, &clock, made)?;
    fill_store(actor, &args, phc, clock, made).await?;
    let text = config::template(args.listen, args.rules.level, CERTIFICATE, CERTIFICATE_KEY);
    // It may come to hold the environment of applications, and with that their secrets.
    made.file(&root.join(CONFIG), 0o600, text.as_bytes())?;
    Ok(Installed {
        config: root.join(CONFIG),
        authority: root.join(AUTHORITY),
        store: root.join(STORE),
        policies: root.join(POLICIES),
        generated,
    })
}

fn write_certificates(root: &Path, clock: &Clock, made: &mut Made) -> Result<(), InitError> {
    let certificates = certificates::development(clock.now())
        .map_err(|error| InitError::Make { what: "the development certificates", why: error.to_string() })?;
    made.directory(&root.join(CERTS), 0o755)?;
    made.file(&root.join(AUTHORITY), 0o644, certificates.authority.as_bytes())?;
    made.file(&root.join(AUTHORITY_KEY), 0o600, certificates.authority_key.reveal().as_bytes())?;
    made.file(&root.join(CERTIFICATE), 0o644, certificates.server.as_bytes())?;
    made.file(&root.join(CERTIFICATE_KEY), 0o600, certificates.server_key.reveal().as_bytes())
}

/// The store with a signing key, the gate's own role and its first holder: one transaction.
async fn fill_store(
    actor: &Actor,
    args: &InitArgs,
    phc: Secret<String>,
    clock: Clock,
    made: &mut Made,
) -> Result<(), InitError> {
    let (kid, private_pem) =
        jwt::generate_key().map_err(|error| InitError::Make { what: "the signing key", why: error.to_string() })?;
    let path = args.directory.join(STORE);
    for file in [STORE, STORE_LOG, STORE_INDEX] {
        made.paths.push(args.directory.join(file));
    }
    let store = Store::create(&path, clock).await?;
    let administrator = Name::parse(ADMINISTRATOR).map_err(ActError::Name)?;
    let mut change = store.change().await?;
    change.add_signing_key(&SigningKey { kid: kid.clone(), private_pem, created: change.now() }).await?;
    change.add_role(&administrator, "Administers Portcullis itself").await?;
    let user = NewUser {
        name: args.admin.clone(),
        display: String::new(),
        email: String::new(),
        expires: None,
        password: Some(phc),
    };
    change.add_user(&user).await?;
    change.grant(&user.name, &administrator).await?;
    let details = json!({ "administrator": user.name.as_str(), "level": args.rules.level.word(), "key": kid });
    let record = actor.did(change.now(), event::INIT, args.directory.display().to_string()).details(details);
    change.commit(&record).await?;
    store.close().await;
    Ok(())
}

fn nothing_there(root: &Path) -> Result<(), InitError> {
    let config = root.join(CONFIG);
    if fs::symlink_metadata(&config).is_ok() {
        return Err(InitError::Exists(config, ": this directory is installed (use --dir for another one)"));
    }
    // A write-ahead log without its store would be played into the new one, or taken away with it.
    let logs = [STORE_LOG, STORE_INDEX];
    for file in [STORE, AUTHORITY, AUTHORITY_KEY, CERTIFICATE, CERTIFICATE_KEY].into_iter().chain(logs) {
        if fs::symlink_metadata(root.join(file)).is_ok() {
            return Err(InitError::Exists(root.join(file), ": move it away, or use --dir for another directory"));
        }
    }
    Ok(())
}

/// What was made so far, to be taken away again if the rest fails.
#[derive(Default)]
struct Made {
    paths: Vec<PathBuf>,
}

impl Made {
    /// Makes a directory if it is not there; answers whether it made it.
    fn directory(&mut self, path: &Path, mode: u32) -> Result<bool, InitError> {
        if path.is_dir() {
            return Ok(false);
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.directory(parent, 0o755)?;
        }
        DirBuilder::new().mode(mode).create(path).map_err(|source| InitError::Io { path: path.into(), source })?;
        self.paths.push(path.to_path_buf());
        Ok(true)
    }

    /// Makes a file with its mode from the first byte on.
    fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<(), InitError> {
        let failed = |source| InitError::Io { path: path.to_path_buf(), source };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
        self.paths.push(path.to_path_buf());
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Takes everything away; answers what could not be.
    fn undo(self) -> Vec<PathBuf> {
        let remove = |path: &PathBuf| if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        let left = |path: &PathBuf| remove(path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
        self.paths.into_iter().rev().filter(left).collect()
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

const POLICIES_README: &str = r#"# Policies

One file per application, `*.toml`: what it is, and who may reach what in it.

```toml
[app]
name      = "/notes"                 # the URL prefix
directory = "../apps/notes"          # relative to this file
module    = "app"                    # app.py with the callable `application`
methods   = ["password", "token"]
default   = "signed-in"              # where no rule matches: deny | signed-in | anyone | "role:x"

[[allow]]
path = "/admin/**"
who  = "role:administrator"
```

`portcullis check` says what is wrong with them. They come into force when they are saved, and
`portcullis explain GET /notes/admin --as ann` says who gets what and why.
"#;
