//! From what an application needs to a process that runs it.
//!
//! A worker is the application's own Python with our extension loaded into it. It inherits three descriptors: the
//! control socket as standard input, and the write ends of two pipes as standard output and error. Everything else is
//! close-on-exec. Its lanes reach it over the control socket, so that nothing has to be inherited by number and the
//! gateway needs no `unsafe` code between fork and exec.
//!
//! Which Python that is, `python` finds out; what it is kept from is for `isolation` to say and for `confine` to do.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use portcullis_wire::{Boot, Kind, begin, end, put_u32};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::process::Child;

use crate::{
    app::{
        confine::{self, Orders},
        isolation::{Isolation, IsolationError},
        python::{Interpreter, PythonError, Search},
    },
    config::Config,
    policy::{Application, Interface, Python},
};

/// What Python runs first; it loads our extension and hands over.
const BOOTSTRAP: &str = include_str!("../worker/bootstrap.py");

/// File name of the extension that a worker loads.
const EXTENSION: &str = "libportcullis_worker.so";

/// The most descriptors that are sent in one message; more data threads than this share no lane.
pub const MAX_LANES: usize = 64;

/// Names that a worker takes over from the gateway's own environment; everything else would leak what the operator's
/// shell happened to hold.
const INHERITED: [&str; 6] = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME"];

/// Everything that decides what a worker is. Two equal ones need no restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// What the worker itself is told.
    pub boot: Boot,
    /// The interpreter as written: a virtualenv, an interpreter, a name, or `None` for `python3` on `PATH`.
    pub python: Option<Python>,
    /// Where names of interpreters are looked for.
    pub environments: Vec<PathBuf>,
    /// Working directory.
    pub cwd: PathBuf,
    /// What it is kept from.
    pub isolation: Isolation,
    /// The whole environment, but for what the interpreter adds.
    pub environment: BTreeMap<OsString, OsString>,
    /// How many workers.
    pub workers: u16,
}

/// Stands for a [`Launch`]; equal launches have equal keys within one life of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchKey(u64);

/// A process that has been told what to run.
pub struct Launched {
    /// The process.
    pub child: Child,
    /// Our end of its control socket.
    pub control: UnixStream,
    /// Our ends of its lanes, one per data thread.
    pub lanes: Vec<LaneSockets>,
}

/// One end of a lane.
#[derive(Debug)]
pub struct LaneSockets {
    /// Frames, both ways.
    pub frames: UnixStream,
    /// Descriptors of files that answers consist of, from the worker. A socket of its own: a descriptor can only be taken
    /// in by a kind of read that would cost every other frame a copy.
    pub files: UnixStream,
}

impl LaneSockets {
    /// Both ends.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(super) fn pair() -> Result<(Self, Self), LaunchError> {
        let ((frames, theirs), (files, from)) = (pair()?, pair()?);
        Ok((Self { frames, files }, Self { frames: theirs, files: from }))
    }
}

/// Why a worker could not be started at all.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no interpreter.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// What it is to be kept from cannot be had.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// The application's directory is not there.
    #[error("there is no directory {0}: correct `directory` in the policy")]
    NoDirectory(PathBuf),
    /// Our own extension is not where it should be.
    #[error("{EXTENSION} was not found beside the program ({0}): install it there, or name it with PORTCULLIS_WORKER")]
    NoExtension(PathBuf),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Launch {
    /// What `application` needs, its namespace looked up in `config`.
    #[must_use]
    pub fn of(config: &Config, application: &Application) -> Self {
        let namespace = config.namespace(&application.namespace);
        let isolation = Isolation::of(config, &namespace);
        let mut environment: BTreeMap<OsString, OsString> =
            INHERITED.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect();
        environment.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
        if let Some(account) = &isolation.account {
            let home = account.home.as_ref().unwrap_or(&namespace.data);
            environment.insert("HOME".into(), home.into());
        }
        let platform = [
            ("PORTCULLIS_NAMESPACE", namespace.name.clone().into()),
            ("PORTCULLIS_DATA_DIR", namespace.data.clone().into_os_string()),
            ("DATABASE_URL", namespace.database_url.clone().into()),
            // What everybody on the machine can write into is closed to a worker, or should be.
            ("TMPDIR", isolation.temporary().into_os_string()),
        ];
        environment.extend(platform.into_iter().map(|(name, value): (&str, OsString)| (name.into(), value)));
        for (name, value) in namespace.environment.iter().chain(&application.environment) {
            environment.insert(name.into(), value.into());
        }
        Self {
            boot: Boot {
                application: application.name.to_string(),
                namespace: namespace.name.clone(),
                directory: application.directory.to_string_lossy().into_owned(),
                module: application.module.clone(),
                callable: application.callable.clone(),
                threads: application.threads,
                multiprocess: application.workers > 1,
                preload: application.preload,
                identity_headers: application.identity_headers,
                development: application.reload,
                asgi: application.interface == Interface::Asgi,
                software: concat!("Portcullis/", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            python: application.python.clone(),
            environments: config.environments.clone(),
            cwd: namespace.directory.clone().unwrap_or_else(|| application.directory.clone()),
            isolation,
            environment,
            workers: application.workers,
        }
    }

    /// Tells launches apart: a request that was judged by a policy runs only in workers of the same policy's launch.
    #[must_use]
    pub fn key(&self) -> LaunchKey {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        LaunchKey(hasher.finish())
    }

    /// Starts one worker with `lanes` lanes.
    ///
    /// Call it on a thread that lives as long as the gateway: the kernel kills a worker when the *thread* that started
    /// it ends.
    ///
    /// # Errors
    /// Anything that is missing is named with what to do about it.
    pub async fn spawn(&self, lanes: usize) -> Result<Launched, LaunchError> {
        let directory = Path::new(&self.boot.directory);
        for directory in [directory, &self.cwd] {
            if !directory.is_dir() {
                return Err(LaunchError::NoDirectory(directory.to_owned()));
            }
        }
        let extension = extension()?;
        self.isolation.prepare(&[directory, &self.cwd, &extension])?;
        let interpreter = self.interpreter().await?;
        let program = interpreter.program.clone();
        let run = [directory.to_owned(), self.cwd.clone(), extension.clone()];
        let orders = Orders {
            program: program.clone().into(),
            arguments: vec!["-c".into(), BOOTSTRAP.into(), extension.into()],
            environment: self.environment_of(&interpreter).into_iter().collect(),
            directory: self.cwd.clone().into(),
            ..self.isolation.orders(run.into_iter().chain(interpreter.parts))?
        };
        let (child, control) =
            confine::spawn(&orders).map_err(io(format!("{} could not be started", program.display())))?;
        tracing::info!(application = %self.boot.application, pid = child.id(), python = %program.display(), "worker started: {}", self.isolation.walls());
        let pairs: Vec<_> = (0..lanes.min(MAX_LANES)).map(|_| LaneSockets::pair()).collect::<Result<_, _>>()?;
        let (lanes, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        self.instruct(&control, &theirs).map_err(io("the worker could not be told what to run".to_owned()))?;
        Ok(Launched { child, control, lanes })
    }

    async fn interpreter(&self) -> Result<Interpreter, PythonError> {
        let variables: Vec<_> = self.environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let search = Search {
            written: self.python.as_ref(),
            environments: &self.environments,
            variables: &variables,
            directory: &self.cwd,
            isolation: &self.isolation,
        };
        search.run().await
    }

    /// The environment as it is once the interpreter is known: as if its virtualenv had been activated.
    fn environment_of(&self, interpreter: &Interpreter) -> BTreeMap<OsString, OsString> {
        let mut environment = self.environment.clone();
        let Some(active) = &interpreter.environment else { return environment };
        environment.entry(active.variable().into()).or_insert_with(|| active.root().into());
        let path = environment.get(&OsString::from("PATH")).cloned().unwrap_or_default();
        let first = [active.root().join("bin")];
        // A directory with a colon in its name cannot stand in PATH.
        if let Ok(path) = std::env::join_paths(first.into_iter().chain(std::env::split_paths(&path))) {
            environment.insert("PATH".into(), path);
        }
        environment
    }

    fn instruct(&self, control: &UnixStream, lanes: &[LaneSockets]) -> std::io::Result<()> {
        let mut message = BytesMut::new();
        let start = begin(&mut message, 0, Kind::Boot);
        self.boot.put(&mut message);
        end(&mut message, start);
        std::io::Write::write_all(&mut &*control, &message)?;

        message.clear();
        put_u32(&mut message, 0, Kind::Lanes, u32::try_from(lanes.len()).unwrap_or(0));
        let descriptors: Vec<BorrowedFd<'_>> =
            lanes.iter().flat_map(|lane| [lane.frames.as_fd(), lane.files.as_fd()]).collect();
        send_with(control, &message, &descriptors)
    }
}

/// Sends a whole frame with descriptors attached to its first byte.
///
/// # Errors
/// The other side is gone or does not listen, or there are more descriptors than any worker gets.
pub(super) fn send_with(control: impl AsFd, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3 + 2 * MAX_LANES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(std::io::Error::other("too many descriptors for one message"));
    }
    let sent = sendmsg(control, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent == frame.len() { Ok(()) } else { Err(std::io::Error::other("a message was sent only in part")) }
}

/// The extension: named by `PORTCULLIS_WORKER`, else beside the program, else in `../lib/portcullis`.
fn extension() -> Result<PathBuf, LaunchError> {
    if let Some(named) = std::env::var_os("PORTCULLIS_WORKER") {
        let named = PathBuf::from(named);
        return if named.is_file() { Ok(named) } else { Err(LaunchError::NoExtension(named)) };
    }
    let program = std::env::current_exe().map_err(io("the program's own path is unknown".to_owned()))?;
    let home = program.parent().unwrap_or(Path::new("/")).to_owned();
    // Test programs stand one directory below the build's products.
    [home.join(EXTENSION), home.join("../lib/portcullis").join(EXTENSION), home.join("..").join(EXTENSION)]
        .into_iter()
        .find(|candidate| candidate.is_file())
        .ok_or(LaunchError::NoExtension(home))
}

fn pair() -> Result<(UnixStream, UnixStream), LaunchError> {
    UnixStream::pair().map_err(io("a socket pair could not be made".to_owned()))
}

fn io(what: String) -> impl FnOnce(std::io::Error) -> LaunchError {
    move |source| LaunchError::Io { what, source }
}
