//! Log files: many threads hand over lines, one thread writes them.
//!
//! Handing over is a lock and a pointer. The writer lingers a moment after it was woken, so that under load it is woken
//! a few times a second and not by every request. What waits is bounded in bytes; beyond it lines are dropped, counted,
//! and the count is written where the lines would have been.
//!
//! Files rotate between lines, never inside one: `access.log` becomes `access.log.1`, that one `access.log.2`, and so on.
//! (The `file-rotate` crate cuts lines and panics when the directory cannot be made.)

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::clock::{Clock, Timestamp};

/// Most bytes that wait to be written, over all files.
const MAX_WAITING: usize = 8 * 1024 * 1024;
/// From so many waiting bytes on the writer does not linger.
const ENOUGH: usize = 256 * 1024;
/// How long lines may wait for company.
const LINGER: Duration = Duration::from_millis(25);
/// How often the same file is complained about on standard error, milliseconds.
const COMPLAIN_EVERY: i64 = 60 * 1000;
/// Log files name users and paths: for the owner, and a group that reads logs.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

type Complain = Box<dyn Fn(&str) + Send>;

/// The writer: one thread for every log file of the process. It ends, and everything is written, when this drops.
pub struct LogWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread. If there is none to be had, everything logged is lost, and said so once.
    #[must_use]
    pub fn start(clock: Clock) -> Self {
        Self::start_complaining(clock, Box::new(on_standard_error))
    }

    fn start_complaining(clock: Clock, complain: Complain) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::default()), bell: Condvar::new(), limit: MAX_WAITING });
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new().name("logs".to_owned()).spawn(move || writer.work(&clock, &complain));
        if let Err(error) = &thread {
            on_standard_error(&format!("nothing can be logged: {error}"));
            shared.queue().closed = true;
        }
        Self { shared, thread: thread.ok() }
    }

    /// The log file at `path`, rotated when it would grow beyond `max_bytes`, with `keep` old ones. Opened at the first
    /// line. The same path is the same file, as it was opened first.
    #[must_use]
    pub fn open(&self, path: &Path, max_bytes: u64, keep: usize) -> LogFile {
        let mut queue = self.shared.queue();
        queue.files.retain(|file| file.strong_count() > 0);
        let mut open = queue.files.iter().filter_map(Weak::upgrade);
        if let Some(known) = open.find(|file| matches!(&file.to, To::File(file) if file.path == path)) {
            return LogFile { to: Arc::clone(&self.shared), file: known };
        }
        let to = To::File(Rotated { path: path.to_path_buf(), max_bytes: max_bytes.max(1), keep });
        let file = Arc::new(Open::new(to));
        queue.files.push(Arc::downgrade(&file));
        LogFile { to: Arc::clone(&self.shared), file }
    }

    /// Standard error, written by the same thread: a terminal that stands still holds up nobody.
    #[must_use]
    pub fn standard_error(&self) -> LogFile {
        LogFile { to: Arc::clone(&self.shared), file: Arc::new(Open::new(To::StandardError)) }
    }

    /// Opens every file anew before its next line.
    pub fn reopen(&self) {
        for file in self.shared.queue().files.iter().filter_map(Weak::upgrade) {
            file.reopen.store(true, Ordering::Release);
        }
    }

    /// Waits until everything that was handed over before is written.
    pub fn flush(&self) {
        let mut queue = self.shared.queue();
        queue.hurry = true;
        self.shared.bell.notify_all();
        while !queue.closed && (!queue.idle || !queue.batches.is_empty()) {
            queue.hurry = true;
            queue = self.shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes what is queued and ends the thread.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A log file that lines can be handed to. Cheap to clone.
#[derive(Clone)]
pub struct LogFile {
    to: Arc<Shared>,
    file: Arc<Open>,
}

impl LogFile {
    /// Hands over whole lines, each with its line feed, in one piece: the more at once, the cheaper. Never waits; what
    /// there is no room for is counted as lost.
    pub fn write_lines(&self, lines: Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut queue = self.to.queue();
        let mine = self.file.waiting.load(Ordering::Relaxed) + lines.len();
        let most = self.file.most.load(Ordering::Relaxed);
        if queue.closed || queue.bytes + lines.len() > self.to.limit || mine > most {
            drop(queue);
            self.file.lost.fetch_add(count(&lines), Ordering::Relaxed);
            return;
        }
        queue.bytes += lines.len();
        self.file.waiting.store(mine, Ordering::Relaxed);
        queue.batches.push((Arc::clone(&self.file), lines));
        // A writer that is awake, or was just woken, looks by itself.
        let wake = queue.idle || (queue.bytes >= ENOUGH && !queue.hurry);
        queue.idle = false;
        queue.hurry |= queue.bytes >= ENOUGH;
        drop(queue);
        if wake {
            self.to.bell.notify_all();
        }
    }

    /// The same file, for which no more than `most` bytes may wait: whoever floods it must not cost other files their lines.
    #[must_use]
    pub fn at_most(self, most: usize) -> Self {
        self.file.most.store(most, Ordering::Relaxed);
        self
    }

    /// How many lines were lost and not yet admitted to in the file.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.file.lost.load(Ordering::Relaxed)
    }
}

struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Queue {
    batches: Vec<(Arc<Open>, Vec<u8>)>,
    bytes: usize,
    files: Vec<Weak<Open>>,
    /// The writer has written everything and sleeps; nothing was handed over since.
    idle: bool,
    /// The writer should not linger.
    hurry: bool,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, clock: &Clock, complain: &Complain) {
        while let Some(batches) = self.take() {
            for (file, lines) in joined(batches) {
                file.write(&lines, clock.now(), complain);
            }
        }
    }

    /// Everything that was handed over since, or `None` at the end.
    fn take(&self) -> Option<Vec<(Arc<Open>, Vec<u8>)>> {
        let mut queue = self.queue();
        while queue.batches.is_empty() {
            if queue.closed {
                return None;
            }
            queue.idle = true;
            self.bell.notify_all();
            queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.idle = false;
        if !queue.hurry && !queue.closed {
            let more = |queue: &mut Queue| !queue.hurry && !queue.closed;
            queue = self.bell.wait_timeout_while(queue, LINGER, more).unwrap_or_else(PoisonError::into_inner).0;
        }
        (queue.bytes, queue.hurry) = (0, false);
        let batches = std::mem::take(&mut queue.batches);
        batches.iter().for_each(|(file, _)| file.waiting.store(0, Ordering::Relaxed));
        Some(batches)
    }
}

/// Batches of the same file in a row, put together up to what is worth one system call.
fn joined(batches: Vec<(Arc<Open>, Vec<u8>)>) -> Vec<(Arc<Open>, Vec<u8>)> {
    let mut joined: Vec<(Arc<Open>, Vec<u8>)> = Vec::new();
    for (file, lines) in batches {
        match joined.last_mut() {
            Some((last, so_far)) if Arc::ptr_eq(last, &file) && so_far.len() + lines.len() <= file.piece() => {
                so_far.extend_from_slice(&lines);
            }
            _ => joined.push((file, lines)),
        }
    }
    joined
}

/// One log file, or standard error.
struct Open {
    to: To,
    lost: AtomicU64,
    reopen: AtomicBool,
    /// Bytes that wait for it; changed only under the lock of the queue.
    waiting: AtomicUsize,
    /// Most bytes that may wait for it, below what may wait for all.
    most: AtomicUsize,
    /// Only the writer's thread looks at it.
    now: Mutex<Now>,
}

enum To {
    File(Rotated),
    StandardError,
}

struct Rotated {
    path: PathBuf,
    max_bytes: u64,
    keep: usize,
}

/// What the writer knows of a file.
#[derive(Default)]
struct Now {
    file: Option<File>,
    size: u64,
    /// The last write ended somewhere inside a line.
    torn: bool,
    complained: Option<Timestamp>,
}

impl Open {
    fn new(to: To) -> Self {
        Self {
            to,
            lost: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            now: Mutex::default(),
        }
    }

    fn piece(&self) -> usize {
        match &self.to {
            To::File(rotated) => usize::try_from(rotated.max_bytes).unwrap_or(ENOUGH).min(ENOUGH),
            To::StandardError => ENOUGH,
        }
    }

    fn write(&self, lines: &[u8], time: Timestamp, complain: &Complain) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &self.to {
            To::File(rotated) => {
                if self.reopen.swap(false, Ordering::AcqRel) {
                    now.file = None;
                }
                let lost = self.lost.load(Ordering::Relaxed);
                let admitted = rotated.write(&mut now, lines, admission(lost, time).as_deref());
                if matches!(admitted, Ok(true)) {
                    self.lost.fetch_sub(lost, Ordering::Relaxed);
                }
                admitted.map(|_| ()).map_err(|error| (rotated.path.display().to_string(), error))
            }
            To::StandardError => io::stderr().lock().write_all(lines).map_err(|error| (String::new(), error)),
        };
        let Err((path, error)) = written else { return };
        self.lost.fetch_add(count(lines), Ordering::Relaxed);
        // Nobody to complain to about standard error.
        let due = now.complained.is_none_or(|last| time.0.saturating_sub(last.0) >= COMPLAIN_EVERY);
        if due && !path.is_empty() {
            now.complained = Some(time);
            complain(&format!("{path}: lines are being lost: {error}"));
        }
    }
}

impl Rotated {
    /// Writes `lines`, and before them what there is to admit. `Ok(true)` if that was written too.
    fn write(&self, now: &mut Now, lines: &[u8], admit: Option<&str>) -> io::Result<bool> {
        let incoming = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        if now.file.is_none() {
            self.open(now)?;
        }
        if now.size > 0 && now.size.saturating_add(incoming) > self.max_bytes {
            self.rotate(now)?;
        }
        let separator = if now.torn { "\n" } else { "" };
        let admitted = admit.is_some();
        if now.torn || admitted {
            now.put(format!("{separator}{}", admit.unwrap_or_default()).as_bytes())?;
        }
        now.put(lines)?;
        Ok(admitted)
    }

    fn open(&self, now: &mut Now) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(&self.path)?;
        now.size = file.metadata()?.len();
        now.file = Some(file);
        Ok(())
    }

    fn rotate(&self, now: &mut Now) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        now.file = None;
        for number in (1..self.keep).rev() {
            absent_is_fine(fs::rename(numbered(number), numbered(number + 1)))?;
        }
        absent_is_fine(if self.keep == 0 { fs::remove_file(&self.path) } else { fs::rename(&self.path, numbered(1)) })?;
        now.torn = false;
        self.open(now)
    }
}

impl Now {
    /// Writes all of it, or notes that the file ends inside a line.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = self.file.as_mut() else { return Err(io::ErrorKind::NotConnected.into()) };
        let written = file.write_all(bytes);
        self.torn = written.is_err();
        match &written {
            Ok(()) => self.size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            // Opened again next time: the disk may be another by then.
            Err(_) => self.file = None,
        }
        written
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The line that stands where lines were lost.
fn admission(lost: u64, time: Timestamp) -> Option<String> {
    let time = time.rfc3339();
    let said = "lines before this one were lost, more than could be written";
    (lost > 0).then(|| format!(r#"{{"timestamp":"{time}","level":"WARN","message":"{said}","lost":{lost}}}"#) + "\n")
}

fn count(lines: &[u8]) -> u64 {
    u64::try_from(memchr::memchr_iter(b'\n', lines).count()).unwrap_or(u64::MAX)
}

fn on_standard_error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
#[path = "log_file_tests.rs"]
mod tests;
