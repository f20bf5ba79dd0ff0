//! What a worker is kept from: whom it runs as, what it may use up, what it may reach.
//!
//! | wall | keeps a worker from | where it stands |
//! |---|---|---|
//! | an OS user of its own | files and processes of the gateway and of other namespaces | `user` in `[namespace.NAME]`; the gateway has to be root |
//! | Landlock | every file that is not listed here; signals and ptrace beyond its own process tree | the kernel's, from Linux 5.13 on, whoever the user is |
//! | no new privileges | set-user-id programs | always |
//! | resource limits | the machine's memory, processes, descriptors | `memory`, `processes`, `files` |
//!
//! Landlock knows lists of what is allowed and no exceptions within. So nothing of the gateway's may lie inside a
//! directory that is allowed, and [`problems`] says by name where it does.

use std::{
    ffi::OsString,
    fmt,
    fs::Permissions,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Gid, Mode, OFlags, Uid},
    process::{getegid, geteuid},
};

use crate::{
    app::confine::{Landlock, Orders, Reach},
    config::{Account, Config, Namespace, WorkerLimits},
    policy::Application,
    written::{Problem, Severity},
};

/// The system's programs and libraries.
const SYSTEM: [&str; 8] = ["/usr", "/lib", "/lib32", "/lib64", "/libx32", "/libexec", "/bin", "/sbin"];

/// What libraries read below `/etc`. Not `/etc` as a whole: the gateway's own files may lie there, and private keys do.
const ETC: [&str; 36] = [
    "ImageMagick-6",
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "debian_version",
    "fonts",
    "freetds",
    "gai.conf",
    "gnutls",
    "group",
    "host.conf",
    "hostname",
    "hosts",
    "krb5.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "magic",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "odbc.ini",
    "odbcinst.ini",
    "os-release",
    "passwd",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "timezone",
];

/// Read by libraries elsewhere: processes of its own, the machine's description, the resolver's files.
const READ: [&str; 3] = ["/proc", "/sys", "/run/systemd/resolve"];

/// Devices that hold nothing.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Named semaphores and shared memory: `multiprocessing` does not work without.
const SHARED_MEMORY: &str = "/dev/shm";

/// Below the data directory: a private `/tmp`.
const TEMPORARY: &str = "tmp";

/// A worker's walls, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Isolation {
    /// Whom it runs as; `None` is the gateway's own user.
    pub account: Option<Account>,
    limits: WorkerLimits,
    confined: bool,
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    data: PathBuf,
    /// The gateway's own data directory, which `data` may lie in.
    gateway: PathBuf,
    /// Files and directories of the gateway's own.
    private: Vec<PathBuf>,
}

/// Why a worker's walls cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// Another user, and no right to become it.
    #[error(
        "the gateway may not start workers as user {0}: start it as root or as {0}, or take `user` out of the namespace"
    )]
    NotRoot(String),
    /// The data directory is somebody else's.
    #[error(
        "{} belongs to user {owner} and not to {user}, whom the workers run as: `chown -R {user} {}`, if it is theirs",
        directory.display(), directory.display()
    )]
    NotTheirs {
        /// The data directory, or the temporary one inside.
        directory: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        user: String,
    },
    /// A directory on the way is closed to the user.
    #[error("user {user} cannot reach {}, because {} is closed to it: `chmod o+x {}`", path.display(), closed.display(), closed.display())]
    Closed {
        /// Who.
        user: String,
        /// Where to.
        path: PathBuf,
        /// The directory without the right to pass.
        closed: PathBuf,
    },
    /// The operating system refused.
    #[error("the data directory {} could not be made: {source}", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Isolation {
    /// That of a namespace.
    #[must_use]
    pub fn of(config: &Config, namespace: &Namespace) -> Self {
        Self {
            account: namespace.account.clone(),
            limits: namespace.limits,
            confined: namespace.confined,
            readable: namespace.readable.clone(),
            writable: namespace.writable.clone(),
            data: namespace.data.clone(),
            gateway: config.data.clone(),
            private: private(config).into_iter().map(|(_, path)| path).collect(),
        }
    }

    /// Those directories of which an interpreter says that it needs them, without those that hold the gateway's own files:
    /// whoever can write an interpreter could name them.
    #[must_use]
    pub fn fit(&self, parts: Vec<PathBuf>) -> Vec<PathBuf> {
        let (closed, open): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|part| self.private.iter().any(|path| lies_in(path, part)));
        for directory in closed {
            let directory = directory.display();
            tracing::warn!(%directory, "an interpreter asks for a directory that holds the gateway's own files; its workers do without");
        }
        open
    }

    /// The private directory for temporary files.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.data.join(TEMPORARY)
    }

    /// What the gateway has to become for a worker, if anything.
    ///
    /// # Errors
    /// It may not.
    fn switch(&self) -> Result<Option<(u32, u32)>, IsolationError> {
        let Some(account) = &self.account else { return Ok(None) };
        match (geteuid().as_raw(), getegid().as_raw()) {
            (0, _) => Ok(Some((account.uid, account.gid))),
            own if own == (account.uid, account.gid) => Ok(None),
            _ => Err(IsolationError::NotRoot(account.name.clone())),
        }
    }

    /// Makes the private directories, and says whether the worker will get through to `places`.
    ///
    /// # Errors
    /// What is in the way, and how to clear it.
    pub fn prepare(&self, places: &[&Path]) -> Result<(), IsolationError> {
        let account = self.switch()?.and(self.account.as_ref());
        let data = self.private_data(account).map_err(|source| self.no_directory(source))?;
        if let Some(account) = account {
            self.pass_on(&data, &self.data, account)?;
        }
        let mode = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(&data, TEMPORARY, mode) {
            Err(error) if error != rustix::io::Errno::EXIST => return Err(self.no_directory(error.into())),
            _ => {}
        }
        if let Some(account) = account {
            // The application can write here: what it put in this place is not followed.
            let inside = rustix::fs::openat(&data, TEMPORARY, DIRECTORY, Mode::empty());
            self.pass_on(&inside.map_err(|error| self.no_directory(error.into()))?, &self.temporary(), account)?;
            for path in places.iter().copied().chain([self.data.as_path()]) {
                passable(path, account)?;
            }
        }
        Ok(())
    }

    /// The data directory, made if it is not there. A user of its own has to come through the gateway's data directory
    /// to get there: it may pass and not look around, and every file there is closed to it anyway.
    fn private_data(&self, account: Option<&Account>) -> std::io::Result<OwnedFd> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.data)?;
        if account.is_some() {
            for directory in self.data.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.gateway))
            {
                let found = directory.metadata()?;
                if found.uid() == geteuid().as_raw() && found.mode() & 0o001 == 0 {
                    std::fs::set_permissions(directory, Permissions::from_mode(found.mode() | 0o011))?;
                }
            }
        }
        Ok(rustix::fs::open(&self.data, DIRECTORY, Mode::empty())?)
    }

    /// Gives a directory that we have made to the user. One that is another's already is not taken away from them:
    /// what lies inside would stay theirs, and a tree that somebody else can write in cannot be walked safely as root.
    fn pass_on(&self, directory: &OwnedFd, path: &Path, account: &Account) -> Result<(), IsolationError> {
        let found = rustix::fs::fstat(directory).map_err(|error| self.no_directory(error.into()))?;
        if found.st_uid == account.uid {
            return Ok(());
        }
        let used = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if used || found.st_uid != geteuid().as_raw() {
            let (directory, owner) = (path.to_owned(), found.st_uid);
            return Err(IsolationError::NotTheirs { directory, owner, user: account.name.clone() });
        }
        rustix::fs::fchown(directory, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))
            .map_err(|error| self.no_directory(error.into()))
    }

    fn no_directory(&self, source: std::io::Error) -> IsolationError {
        IsolationError::Directory { directory: self.data.clone(), source }
    }

    /// Orders for a program that may reach `run` besides what everybody may; the caller fills in what it is to be.
    ///
    /// # Errors
    /// The gateway may not become the user.
    pub fn orders(&self, run: impl IntoIterator<Item = PathBuf>) -> Result<Orders, IsolationError> {
        let account = self.switch()?;
        Ok(Orders {
            program: OsString::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: "/".into(),
            account,
            memory: self.limits.memory,
            // The gateway's own user has the gateway's own threads.
            processes: self.limits.processes.filter(|_| account.is_some()),
            files: self.limits.files,
            reach: self.confined.then(|| self.reach(run)),
            keeps_control: true,
        })
    }

    /// The same for a program that is only asked who it is: it may write nothing and talk to nobody. `everywhere` lets
    /// it read whatever its user may, for a script that looks for something all over the place.
    ///
    /// # Errors
    /// The gateway may not become the user.
    pub fn orders_to_ask(
        &self,
        run: impl IntoIterator<Item = PathBuf>,
        everywhere: bool,
    ) -> Result<Orders, IsolationError> {
        let mut orders = self.orders([])?;
        let mut reach = self.reach(run);
        reach.write.clear();
        reach.network = false;
        if everywhere || !self.confined {
            reach.run.push("/".into());
        }
        orders.reach = Some(reach);
        orders.keeps_control = false;
        Ok(orders)
    }

    fn reach(&self, run: impl IntoIterator<Item = PathBuf>) -> Reach {
        let system = SYSTEM.iter().map(OsString::from);
        let more = run.into_iter().chain(self.readable.iter().cloned());
        let etc = ETC.iter().map(|name| Path::new("/etc").join(name)).chain(python_in_etc());
        let write = [self.data.clone(), SHARED_MEMORY.into()].into_iter().chain(self.writable.iter().cloned());
        Reach {
            // Whatever says `/` says nothing: an interpreter without a prefix of its own does.
            run: system.chain(more.filter(|path| path.parent().is_some()).map(OsString::from)).collect(),
            read: etc.map(OsString::from).chain(READ.iter().map(OsString::from)).collect(),
            write: write.map(OsString::from).collect(),
            use_: DEVICES.iter().map(OsString::from).collect(),
            network: true,
        }
    }

    /// What keeps a worker, for people and programs.
    #[must_use]
    pub fn walls(&self) -> Walls {
        let landlock = if self.confined { Some(Landlock::of_kernel()) } else { None };
        Walls { user: self.account.as_ref().map(|account| account.name.clone()), landlock }
    }
}

/// A directory itself, not what a link says it is.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Debian keeps `sitecustomize.py` in `/etc/python3.11`.
fn python_in_etc() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/etc").into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"))).collect()
}

/// Whether a user gets to a path. Only a plain no is one: where access lists are set, the mode alone decides nothing.
fn passable(path: &Path, account: &Account) -> Result<(), IsolationError> {
    // The path as the kernel walks it; what does not exist is found out elsewhere.
    let Ok(path) = path.canonicalize() else { return Ok(()) };
    let closed = path.ancestors().skip(1).find(|directory| {
        let Ok(found) = directory.metadata() else { return false };
        let bit = match found.uid() == account.uid {
            true => 0o100,
            false if found.gid() == account.gid => 0o010,
            false => 0o001,
        };
        found.mode() & bit == 0 && rustix::fs::getxattr(*directory, ACCESS_LIST, &mut [0_u8; 0]).is_err()
    });
    match closed {
        None => Ok(()),
        Some(closed) => {
            let closed = closed.to_owned();
            Err(IsolationError::Closed { user: account.name.clone(), path, closed })
        }
    }
}

/// Where file systems keep access lists.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// What keeps the workers of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walls {
    /// Their own OS user.
    pub user: Option<String>,
    /// What Landlock does; `None` if the namespace does without.
    pub landlock: Option<Landlock>,
}

impl fmt::Display for Walls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "user {user}; ")?;
        }
        match self.landlock {
            None => f.write_str("no Landlock: `confined = false`"),
            Some(Landlock::Missing) => f.write_str("no Landlock: this kernel has none (Linux 5.13 and newer do)"),
            Some(Landlock::Disabled) => f.write_str("no Landlock: it is switched off in this kernel (`lsm=` at boot)"),
            Some(landlock @ Landlock::Version(version)) => {
                let (covered, missing) = landlock.covers();
                write!(f, "Landlock ABI {version}: {}", covered.join(", "))?;
                if missing.is_empty() { Ok(()) } else { write!(f, "; not {}", missing.join(", ")) }
            }
        }
    }
}

/// What is wrong with the walls of these applications, before any of them starts: a user that the gateway may not
/// become is an error, a wall with a gap a warning.
#[must_use]
pub fn problems(config: &Config, applications: &[Arc<Application>]) -> Vec<Problem> {
    let file = config.file.display().to_string();
    let warning = |text: String| Problem { severity: Severity::Warning, ..Problem::file(&file, text) };
    let mut found = Vec::new();
    let here: Vec<_> = applications.iter().filter(|app| app.enabled && !app.elsewhere).collect();
    let as_root = |app: &&&Arc<Application>| config.namespace(&app.namespace).account.is_none();
    let as_root: Vec<_> = here.iter().filter(as_root).map(|app| &*app.name).collect();
    if geteuid().is_root() && !as_root.is_empty() {
        let text = format!("the gateway is root, and so are the workers of {}", as_root.join(", "));
        found.push(warning(text).help("give their namespaces a `user`, or start the gateway as an ordinary one"));
    }
    for app in here {
        let namespace = config.namespace(&app.namespace);
        let isolation = Isolation::of(config, &namespace);
        if let Err(error) = isolation.switch() {
            found.push(Problem::file(&file, format!("[namespace.{}] {error}", namespace.name)));
        }
        if !namespace.confined {
            let text =
                format!("[namespace.{}] is not confined: {} may do whatever its user may", namespace.name, app.name);
            found.push(
                warning(text).help("leave out `confined = false`, and list what it needs in `readable` and `writable`"),
            );
            continue;
        }
        for (directory, what, inside) in exposed(config, app, &namespace) {
            let text = format!(
                "{} may reach {what} ({}), because it lies in {}",
                app.name,
                inside.display(),
                directory.display()
            );
            found.push(warning(text).help("move one of the two: a directory is allowed with everything in it"));
        }
    }
    found.dedup();
    found
}

/// What of the gateway's lies in a directory that an application may reach: the directory, what it is, where it is.
fn exposed(config: &Config, app: &Application, namespace: &Namespace) -> Vec<(PathBuf, &'static str, PathBuf)> {
    let own = [Some(&app.directory), namespace.directory.as_ref(), Some(&namespace.data)].into_iter().flatten();
    let allowed = own.chain(&namespace.readable).chain(&namespace.writable).cloned();
    allowed.chain(SYSTEM.map(PathBuf::from)).flat_map(|directory| inside(config, &directory)).collect()
}

/// What of the gateway's lies in a directory.
fn inside(config: &Config, directory: &Path) -> Vec<(PathBuf, &'static str, PathBuf)> {
    let found = private(config).into_iter().filter(|(_, path)| lies_in(path, directory));
    found.map(|(what, path)| (directory.to_owned(), what, path)).collect()
}

fn lies_in(path: &Path, directory: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(path).starts_with(real(directory))
}

/// What no worker may reach, and what it is.
fn private(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let certificates = config.tls.certificates.iter().map(|files| ("the key of a certificate", files.key.clone()));
    let ours = [
        ("the store", config.store.clone()),
        ("the configuration", config.file.clone()),
        ("the policies", config.policies.clone()),
        ("the logs", config.logs.directory.clone()),
        ("the gateway's data", config.data.clone()),
    ];
    ours.into_iter().chain(certificates).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_worker_reads_well() {
        let walls = |user: Option<&str>, landlock| Walls { user: user.map(str::to_owned), landlock }.to_string();
        assert_eq!(
            walls(Some("notes"), Some(Landlock::Version(7))),
            "user notes; Landlock ABI 7: files, truncation, device controls, signals, abstract sockets"
        );
        assert_eq!(
            walls(None, Some(Landlock::Version(2))),
            "Landlock ABI 2: files; not truncation, device controls, signals, abstract sockets"
        );
        assert!(walls(None, Some(Landlock::Missing)).starts_with("no Landlock: this kernel has none"));
        assert_eq!(walls(None, None), "no Landlock: `confined = false`");
    }

    #[test]
    fn a_directory_on_the_way_that_is_closed_is_named() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let close = |mode| std::fs::set_permissions(outer.path(), Permissions::from_mode(mode)).unwrap();
        close(0o700);
        let account = Account { name: "somebody".to_owned(), uid: 54_321, gid: 54_321, home: None };
        let Err(IsolationError::Closed { closed, .. }) = passable(&inner, &account) else { panic!("it is 0700") };
        assert_eq!(closed, outer.path().canonicalize().unwrap());
        close(0o711);
        passable(&inner, &account).unwrap();
    }
}
