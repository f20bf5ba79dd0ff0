//! The door between a command and a running gateway on the same machine.
//!
//! A Unix socket beside the store, mode 0600, one JSON object per line each way: a [`Command`], then its [`Reply`].
//! Who asks is checked against the kernel's word (`SO_PEERCRED`), not only the file's mode: the same user, or root. And
//! against a key: workers may be the same user, and Landlock keeps them from reading files, not from connecting to
//! sockets that have a name. So every connection begins with the line that stands in `control.key`, which is made anew
//! with the socket and which a worker cannot read.
//!
//! A command changes the store first and then says [`Command::Changed`]; the reply comes when every data thread works
//! with the change, so the next request anywhere sees it. No gateway running is a good answer too: it reads the store
//! when it starts.
//!
//! One gateway per data directory: [`Listener::bind`] holds a lock on `control.lock` for as long as the process lives,
//! so a socket file that is left behind by a dead one is known to be stale and replaced.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::status::{AppStatus, ReloadReport, Status};
use crate::{
    clock::random,
    written::{self, Problem},
};

/// What can be asked of a running gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Identity data changed: forget what was remembered of it.
    Changed,
    /// Read configuration and policies again.
    Reload,
    /// How are you.
    Status,
    /// Replace the workers of one application.
    ReloadApp {
        /// `/notes`
        name: String,
    },
    /// The applications alone.
    Apps,
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is in force everywhere.
    Done,
    /// The reload worked.
    Reloaded(ReloadReport),
    /// The reload was refused; what was in force still is.
    Refused {
        /// One line each: `policies/notes.toml:12:3: …`.
        problems: Vec<String>,
        /// The same with the lines themselves, to be printed.
        rendered: String,
    },
    /// How it is.
    Status(Box<Status>),
    /// The applications.
    Apps {
        /// In the order of their names.
        applications: Vec<AppStatus>,
    },
    /// It did not work.
    Failed {
        /// Why: a sentence, or a traceback.
        why: String,
    },
}

/// A future that a [`Handler`] gives back.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the gateway does when it is asked. Everything is in force when the future is done.
pub trait Handler: Send + Sync + 'static {
    /// Forget remembered credentials everywhere.
    fn changed(&self) -> Doing<'_, Result<(), String>>;
    /// Read configuration and policies again, or keep the old ones and say why.
    fn reload(&self) -> Doing<'_, Result<ReloadReport, Vec<Problem>>>;
    /// How it is.
    fn status(&self) -> Doing<'_, Status>;
    /// Replace the workers of one application, or keep the old ones and give the traceback.
    fn reload_app(&self, name: String) -> Doing<'_, Result<(), String>>;
    /// The applications.
    fn apps(&self) -> Doing<'_, Vec<AppStatus>>;
}

/// Name of the socket in the data directory.
const SOCKET: &str = "control.sock";
/// Name of the lock in the data directory.
const LOCK: &str = "control.lock";
/// Name of the key in the data directory.
const KEY: &str = "control.key";
/// A key is 32 random bytes in hexadecimal.
const KEY_LENGTH: u64 = 64;
/// The longest line: a status with hundreds of applications and their tracebacks fits.
const MAX_LINE: u64 = 8 * 1024 * 1024;
/// `sockaddr_un` has 108 bytes for the path and its NUL.
const MAX_SOCKET_PATH: usize = 107;
/// How long a connection may take to show the key: a command has it at hand.
const KEY_TIME: Duration = Duration::from_secs(5);
/// Connections at once that have not shown the key.
const STRANGERS: usize = 16;
/// How long an administrator's connection may be silent.
const IDLE: Duration = Duration::from_secs(60);

/// Where the socket of a data directory is.
#[must_use]
pub fn path(data: &Path) -> PathBuf {
    data.join(SOCKET)
}

/// The server's end, bound.
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    key: Arc<str>,
    /// Held until the process ends or this is dropped.
    _lock: File,
}

/// Why the control socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody holds the lock.
    #[error("a gateway is already running with the data directory {}: `portcullis status` shows it", .0.display())]
    Running(PathBuf),
    /// The operating system refused.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Io {
        /// The socket or the lock.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Listener {
    /// Binds the socket of a data directory; needs a tokio runtime around it.
    ///
    /// # Errors
    /// A gateway is running there already, or the directory cannot be written.
    pub fn bind(data: &Path) -> Result<Self, BindError> {
        let lock_path = data.join(LOCK);
        let failed = |path: &Path, source: io::Error| BindError::Io { path: path.to_path_buf(), source };
        let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
        private.map_err(|error| failed(data, error))?;
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|error| failed(&lock_path, error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(BindError::Running(data.to_path_buf())),
            Err(error) => return Err(failed(&lock_path, error.into())),
        }
        let key_path = data.join(KEY);
        let key = new_key(&key_path).map_err(|error| failed(&key_path, error))?.into();
        let path = path(data);
        let listener = bind_stale(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { listener, path, key, _lock: lock })
    }

    /// Answers until it is dropped. One task per connection, on the runtime that runs this.
    pub async fn serve(self, handler: Arc<dyn Handler>) {
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        loop {
            // Workers of the same user can knock, but not use up our descriptors by it.
            let Ok(stranger) = Arc::clone(&strangers).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) if is_ours(&stream) => {
                    let (handler, key) = (Arc::clone(&handler), Arc::clone(&self.key));
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &key, stranger, &*handler).await {
                            tracing::debug!(%error, "a control connection ended early");
                        }
                    });
                }
                Ok(_) => tracing::warn!("another user tried the control socket"),
                // Out of descriptors, most likely: wait for some to come back.
                Err(error) => {
                    tracing::error!(%error, "the control socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nothing to be done about a failure: the next gateway replaces what is left.
        let _left_behind = fs::remove_file(&self.path);
    }
}

/// Why a running gateway did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It holds the socket and says nothing.
    #[error("the running gateway did not answer within {} s: see its log, or restart it", .0.as_secs())]
    Silent(Duration),
    /// May not connect.
    #[error("may not talk to the running gateway at {}: run the command as the user it runs as", .0.display())]
    Forbidden(PathBuf),
    /// It hung up.
    #[error("the running gateway closed the connection: it is stopping, or it runs as another user")]
    Closed,
    /// It answered with something else.
    #[error("the running gateway gave an answer that this version does not understand: {0}")]
    Unreadable(String),
    /// The connection broke.
    #[error("the connection to the running gateway broke: {0}")]
    Io(#[from] io::Error),
}

/// Asks the gateway that runs with a data directory; `None` if none runs.
///
/// # Errors
/// One runs, and does not answer in time or not in words that can be read.
pub async fn ask(data: &Path, command: &Command, patience: Duration) -> Result<Option<Reply>, AskError> {
    match tokio::time::timeout(patience, exchange(data, command)).await {
        Ok(answer) => answer,
        Err(_) => Err(AskError::Silent(patience)),
    }
}

async fn exchange(data: &Path, command: &Command) -> Result<Option<Reply>, AskError> {
    let path = path(data);
    let mut stream = match connect(&path).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                io::ErrorKind::PermissionDenied => Err(AskError::Forbidden(path)),
                _ => Err(error.into()),
            };
        }
    };
    let mut said = match fs::read(data.join(KEY)) {
        Ok(key) => key,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(AskError::Forbidden(path)),
        Err(error) => return Err(error.into()),
    };
    said.push(b'\n');
    said.extend(line(command)?);
    // Who has been turned away is told so by the end of the connection.
    let _ = stream.write_all(&said).await;
    let mut answer = String::new();
    let read = BufReader::new(stream).take(MAX_LINE).read_line(&mut answer).await;
    if read.is_err() || answer.is_empty() {
        return Err(AskError::Closed);
    }
    serde_json::from_str(&answer).map(Some).map_err(|error| AskError::Unreadable(error.to_string()))
}

async fn converse(
    stream: UnixStream,
    key: &str,
    stranger: OwnedSemaphorePermit,
    handler: &dyn Handler,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut text = String::new();
    let got = tokio::time::timeout(KEY_TIME, (&mut read).take(KEY_LENGTH + 1).read_line(&mut text)).await;
    if !matches!(got, Ok(Ok(_))) || !bool::from(text.trim_end().as_bytes().ct_eq(key.as_bytes())) {
        tracing::warn!("somebody without the key tried the control socket");
        return Ok(());
    }
    drop(stranger);
    loop {
        text.clear();
        let got = tokio::time::timeout(IDLE, (&mut read).take(MAX_LINE).read_line(&mut text)).await;
        if !matches!(got, Ok(Ok(1..))) {
            return Ok(());
        }
        let reply = match serde_json::from_str(&text) {
            Ok(command) => answer(command, handler).await,
            Err(error) => Reply::Failed { why: format!("not a command that this version knows: {error}") },
        };
        write.write_all(&line(&reply)?).await?;
    }
}

async fn answer(command: Command, handler: &dyn Handler) -> Reply {
    let failed = |why| Reply::Failed { why };
    match command {
        Command::Changed => handler.changed().await.map_or_else(failed, |()| Reply::Done),
        Command::Reload => match handler.reload().await {
            Ok(report) => Reply::Reloaded(report),
            Err(problems) => Reply::Refused {
                rendered: written::render(&problems, false),
                problems: problems.iter().map(ToString::to_string).collect(),
            },
        },
        Command::Status => Reply::Status(Box::new(handler.status().await)),
        Command::ReloadApp { name } => handler.reload_app(name).await.map_or_else(failed, |()| Reply::Done),
        Command::Apps => Reply::Apps { applications: handler.apps().await },
    }
}

fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The kernel's word on who is at the other end.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Binds `path`; the lock says that nobody listens there, so what is left of an earlier gateway is removed.
fn bind_stale(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, _directory) = address(path)?;
    let listener = UnixListener::bind(address)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Writes a new key. The file of an earlier one is removed, not written over: who has it open learns nothing.
fn new_key(path: &Path) -> io::Result<String> {
    use std::fmt::Write as _;
    use std::io::Write as _;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let key = random::<32>().iter().fold(String::new(), |mut key, byte| {
        let _ = write!(key, "{byte:02x}");
        key
    });
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(key.as_bytes())?;
    Ok(key)
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, _directory) = address(path)?;
    UnixStream::connect(address).await
}

/// What to bind or connect to. A path that is too long for a socket's address is reached through its directory, which
/// has to stay open for as long.
fn address(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), path.as_os_str().len() > MAX_SOCKET_PATH)
    else {
        return Ok((path.to_path_buf(), None));
    };
    let directory = File::open(parent)?;
    Ok((Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name), Some(directory)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[derive(Default)]
    struct Fake {
        changes: AtomicUsize,
    }

    impl Handler for Fake {
        fn changed(&self) -> Doing<'_, Result<(), String>> {
            self.changes.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(()) })
        }
        fn reload(&self) -> Doing<'_, Result<ReloadReport, Vec<Problem>>> {
            Box::pin(async { Ok(ReloadReport { applications: 3, ..ReloadReport::default() }) })
        }
        fn status(&self) -> Doing<'_, Status> {
            Box::pin(std::future::pending())
        }
        fn reload_app(&self, name: String) -> Doing<'_, Result<(), String>> {
            Box::pin(async move { Err(format!("no {name}")) })
        }
        fn apps(&self) -> Doing<'_, Vec<AppStatus>> {
            Box::pin(async { Vec::new() })
        }
    }

    #[tokio::test]
    async fn no_gateway_is_an_answer_and_so_is_one_that_died() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ask(dir.path(), &Command::Changed, PATIENCE).await.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(path(dir.path())).unwrap());
        assert!(ask(dir.path(), &Command::Changed, PATIENCE).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_running_gateway_answers_and_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        // A file that a dead gateway left behind.
        drop(std::os::unix::net::UnixListener::bind(path(dir.path())).unwrap());
        let listener = Listener::bind(dir.path()).unwrap();
        assert!(matches!(Listener::bind(dir.path()), Err(BindError::Running(_))));
        assert_eq!(fs::metadata(path(dir.path())).unwrap().permissions().mode() & 0o777, 0o600);
        let server = tokio::spawn(listener.serve(Arc::clone(&fake) as Arc<dyn Handler>));
        assert!(matches!(ask(dir.path(), &Command::Changed, PATIENCE).await, Ok(Some(Reply::Done))));
        assert_eq!(fake.changes.load(Ordering::SeqCst), 1);
        let reply = ask(dir.path(), &Command::Reload, PATIENCE).await.unwrap().unwrap();
        assert!(matches!(reply, Reply::Reloaded(ReloadReport { applications: 3, .. })));
        let reply = ask(dir.path(), &Command::ReloadApp { name: "/x".to_owned() }, PATIENCE).await.unwrap().unwrap();
        assert!(matches!(reply, Reply::Failed { why } if why == "no /x"));
        let silent = ask(dir.path(), &Command::Status, Duration::from_millis(50)).await;
        assert!(matches!(silent, Err(AskError::Silent(_))));
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        Listener::bind(dir.path()).unwrap();
    }

    #[tokio::test]
    async fn who_does_not_show_the_key_is_not_heard() {
        use std::io::{Read as _, Write as _};
        let dir = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        let listener = Listener::bind(dir.path()).unwrap();
        let key = fs::read_to_string(dir.path().join(KEY)).unwrap();
        assert_eq!(fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        tokio::spawn(listener.serve(Arc::clone(&fake) as Arc<dyn Handler>));
        let changed = line(&Command::Changed).unwrap();
        let wrong = format!("{}{}\n", &key[..63], if key.ends_with('0') { '1' } else { '0' });
        for first in ["", "\n", &key[..63], &wrong, &"0".repeat(100_000)] {
            let socket = path(dir.path());
            let said = [first.as_bytes(), &changed].concat();
            let heard = tokio::task::spawn_blocking(move || {
                let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
                let _ = stream.write_all(&said);
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                answer
            });
            assert_eq!(heard.await.unwrap(), b"", "{first:.80}");
        }
        assert_eq!(fake.changes.load(Ordering::SeqCst), 0);
        assert!(matches!(ask(dir.path(), &Command::Changed, PATIENCE).await, Ok(Some(Reply::Done))));
    }

    #[tokio::test]
    async fn a_deep_directory_works_too() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(60)).join("e".repeat(60));
        fs::create_dir_all(&deep).unwrap();
        let listener = Listener::bind(&deep).unwrap();
        tokio::spawn(listener.serve(Arc::new(Fake::default())));
        assert!(matches!(ask(&deep, &Command::Changed, PATIENCE).await, Ok(Some(Reply::Done))));
    }
}
