//! From what an application needs to a process that runs it.
//!
//! A worker is the application's own Python with our extension loaded into it. It inherits three descriptors: the
//! control socket as standard input, and the write ends of two pipes as standard output and error. Everything else is
//! close-on-exec. Its lanes reach it over the control socket, so that nothing has to be inherited by number and the
//! gateway needs no `unsafe` code between fork and exec.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use bytes::BytesMut;
use portcullis_wire::{Boot, Kind, begin, end, put_u32};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::process::{Child, Command};

use crate::{
    config::Config,
    policy::{Application, Interface},
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
    /// The interpreter as written: a virtualenv, an interpreter, or `None` for `python3` on `PATH`.
    pub python: Option<PathBuf>,
    /// Working directory.
    pub cwd: PathBuf,
    /// The namespace's private writable directory.
    pub data: PathBuf,
    /// The whole environment.
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
    /// The interpreter is not there.
    #[error("there is no Python at {0}: create the virtualenv, or correct `python` in the policy")]
    NoPython(PathBuf),
    /// No interpreter on `PATH`.
    #[error(
        "`python3` is not on PATH: install Python 3.10 or newer, or name an interpreter with `python` in the policy"
    )]
    NoPythonOnPath,
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
        let mut environment: BTreeMap<OsString, OsString> =
            INHERITED.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect();
        environment.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
        let platform = [
            ("PORTCULLIS_NAMESPACE", namespace.name.clone().into()),
            ("PORTCULLIS_DATA_DIR", namespace.data.clone().into_os_string()),
            ("DATABASE_URL", namespace.database_url.clone().into()),
        ];
        environment.extend(platform.into_iter().map(|(name, value): (&str, OsString)| (name.into(), value)));
        for (name, value) in namespace.environment.iter().chain(&application.environment) {
            environment.insert(name.into(), value.into());
        }
        if let Some(venv) = application.python.as_deref().filter(|python| python.join("pyvenv.cfg").exists()) {
            environment.insert("VIRTUAL_ENV".into(), venv.into());
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
                asgi: application.interface == Interface::Asgi,
                software: concat!("Portcullis/", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            python: application.python.clone(),
            cwd: namespace.directory.clone().unwrap_or_else(|| application.directory.clone()),
            data: namespace.data.clone(),
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
    pub fn spawn(&self, lanes: usize) -> Result<Launched, LaunchError> {
        let python = interpreter(self.python.as_deref(), self.environment.get(&OsString::from("PATH")))?;
        let directory = Path::new(&self.boot.directory);
        for directory in [directory, &self.cwd] {
            if !directory.is_dir() {
                return Err(LaunchError::NoDirectory(directory.to_owned()));
            }
        }
        private_directory(&self.data)?;
        let extension = extension()?;
        let (control, theirs) = pair()?;
        let child = Command::new(&python)
            .args(["-c", BOOTSTRAP])
            .arg(&extension)
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.cwd)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the gateway, which then stops its workers in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(io(format!("{} could not be started", python.display())))?;
        let pairs: Vec<_> = (0..lanes.min(MAX_LANES)).map(|_| LaneSockets::pair()).collect::<Result<_, _>>()?;
        let (lanes, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        self.instruct(&control, &theirs).map_err(io("the worker could not be told what to run".to_owned()))?;
        Ok(Launched { child, control, lanes })
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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2 * MAX_LANES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(std::io::Error::other("too many lanes for one message"));
        }
        let sent = sendmsg(control, &[IoSlice::new(&message)], &mut ancillary, SendFlags::empty())?;
        if sent == message.len() { Ok(()) } else { Err(std::io::Error::other("the lanes were sent only in part")) }
    }
}

/// The interpreter to run.
fn interpreter(written: Option<&Path>, path: Option<&OsString>) -> Result<PathBuf, LaunchError> {
    let Some(written) = written else {
        let path = path.ok_or(LaunchError::NoPythonOnPath)?;
        return std::env::split_paths(path)
            .map(|directory| directory.join("python3"))
            .find(|candidate| candidate.is_file())
            .ok_or(LaunchError::NoPythonOnPath);
    };
    let python = if written.is_dir() { written.join("bin/python") } else { written.to_owned() };
    if python.exists() { Ok(python) } else { Err(LaunchError::NoPython(python)) }
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

/// Makes a directory that only we may enter.
fn private_directory(path: &Path) -> Result<(), LaunchError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io(format!("the data directory {} could not be made", path.display())))
}

fn io(what: String) -> impl FnOnce(std::io::Error) -> LaunchError {
    move |source| LaunchError::Io { what, source }
}
