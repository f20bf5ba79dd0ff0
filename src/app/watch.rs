//! Development: notices that the files of an application have changed (`reload = true` in its policy).
//!
//! Each such application has a native thread here, because walking through directories may take a while and the control
//! thread has others to serve. It watches the application's directory with everything below it, and the directories that
//! its modules came from besides ([`Places`]); gathers changes until none has come for 200 ms; hands them over as one
//! [`Change`]; and goes on when that has been dealt with, so that what changes during a reload is one more reload after it.
//!
//! What counts is decided by the names of files, not by where they are: an application that keeps its database or uploads
//! beside its code must not be reloaded by its own writing.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use notify::{
    Config as Settings, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::Config,
    policy::{Application, ServeFiles},
};

/// This long after the last change it counts as complete: editors and version control write in several steps.
const QUIET: Duration = Duration::from_millis(200);

/// Changes that do not cease are a change all the same.
const MOST: Duration = Duration::from_secs(3);

/// What an application is made of: code, templates, and configuration that is read at the start.
const SOURCES: [&str; 17] = [
    "py", "html", "htm", "xhtml", "jinja", "jinja2", "j2", "tmpl", "tpl", "mako", "djhtml", "toml", "yaml", "yml",
    "json", "ini", "cfg",
];

/// Directories that hold what nobody edits; hidden ones and virtualenvs besides.
const NEVER: [&str; 4] = ["__pycache__", "node_modules", "site-packages", "dist-packages"];

/// What to watch for one application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    application: Arc<str>,
    directory: PathBuf,
    /// Directories and files below it that are not the application's own.
    spared: Vec<PathBuf>,
}

impl Watched {
    /// Nothing, unless its policy says so.
    #[must_use]
    pub fn of(config: &Config, application: &Application) -> Option<Self> {
        if !(application.reload && application.enabled) {
            return None;
        }
        let namespace = config.namespace(&application.namespace);
        let mut spared = vec![
            namespace.data.clone(),
            config.data.clone(),
            config.logs.directory.clone(),
            // Policies come into force by a reload of their own.
            config.policies.clone(),
            config.file.clone(),
        ];
        if application.serve_files != ServeFiles::No {
            spared.push(application.directory.join("static"));
        }
        let directory = real(&application.directory);
        let below = |path: PathBuf| Some(real(&path)).filter(|path| path.starts_with(&directory) && *path != directory);
        let spared = spared.into_iter().filter_map(below).collect();
        Some(Self { application: Arc::clone(&application.name), directory, spared })
    }
}

/// Files of an application have changed.
pub struct Change {
    /// Whose.
    pub application: Arc<str>,
    /// The first of them, relative to the application's directory if it is below that.
    pub file: PathBuf,
    /// How many more.
    pub others: usize,
    /// Dropped when it has been dealt with; the next change comes after that.
    pub done: oneshot::Sender<()>,
}

/// The directories outside an application's own that its modules came from, as its workers tell.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    directories: BTreeSet<PathBuf>,
    watcher: Option<std_mpsc::Sender<Message>>,
}

impl Places {
    /// Adds what a worker tells.
    pub fn add(&self, directories: Vec<String>) {
        let mut known = lock(&self.0);
        known.directories.extend(directories.into_iter().map(PathBuf::from));
        if let Some(watcher) = &known.watcher {
            let _ = watcher.send(Message::Places);
        }
    }
}

/// All applications that are being developed.
pub struct Watchers {
    changes: mpsc::UnboundedSender<Change>,
    running: Mutex<HashMap<Arc<str>, Running>>,
    places: Mutex<HashMap<Arc<str>, Places>>,
}

struct Running {
    watched: Watched,
    messages: std_mpsc::Sender<Message>,
}

impl Watchers {
    /// None yet, and where changes will come from.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (changes, changed) = mpsc::unbounded_channel();
        (Self { changes, running: Mutex::default(), places: Mutex::default() }, changed)
    }

    /// Where workers of that application tell where its modules came from.
    #[must_use]
    pub fn places(&self, application: &Arc<str>) -> Places {
        lock(&self.places).entry(Arc::clone(application)).or_default().clone()
    }

    /// Watches these from now on and nothing else; what is watched already goes on.
    pub fn follow(&self, wanted: Vec<Watched>) {
        let mut running = lock(&self.running);
        running.retain(|_, old| {
            let stays = wanted.contains(&old.watched);
            if !stays {
                let _ = old.messages.send(Message::Stop);
            }
            stays
        });
        for watched in wanted {
            if !running.contains_key(&watched.application) {
                let places = self.places(&watched.application);
                if let Some(messages) = start(watched.clone(), places, self.changes.clone()) {
                    running.insert(Arc::clone(&watched.application), Running { watched, messages });
                }
            }
        }
    }
}

enum Message {
    Event(Event),
    Places,
    Stop,
}

fn start(
    watched: Watched,
    places: Places,
    changes: mpsc::UnboundedSender<Change>,
) -> Option<std_mpsc::Sender<Message>> {
    let (sender, messages) = std_mpsc::channel();
    lock(&places.0).watcher = Some(sender.clone());
    let events = sender.clone();
    let handler = move |event: notify::Result<Event>| {
        // An import opens and reads thousands of files; none of that is a change.
        if let Some(event) = event.ok().filter(is_change) {
            let _ = events.send(Message::Event(event));
        }
    };
    let application = Arc::clone(&watched.application);
    let notifier = match RecommendedWatcher::new(handler, Settings::default().with_follow_symlinks(false)) {
        Ok(notifier) => notifier,
        Err(error) => {
            tracing::error!(%application, "its files cannot be watched, `reload = true` does nothing: {error}; see fs.inotify.max_user_instances");
            return None;
        }
    };
    let watcher = Watcher { watched, places, notifier, messages, changes, complained: false };
    match thread::Builder::new().name("watch".to_owned()).spawn(move || watcher.run()) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::error!(%application, "its files cannot be watched, `reload = true` does nothing: {error}");
            None
        }
    }
}

/// What the thread of one application has.
struct Watcher {
    watched: Watched,
    places: Places,
    notifier: RecommendedWatcher,
    messages: std_mpsc::Receiver<Message>,
    changes: mpsc::UnboundedSender<Change>,
    complained: bool,
}

impl Watcher {
    fn run(mut self) {
        let root = self.watched.directory.clone();
        self.walk(&root, &mut Vec::new());
        self.watch_places();
        while let Ok(message) = self.messages.recv() {
            match message {
                Message::Stop => return,
                Message::Places => self.watch_places(),
                Message::Event(event) => {
                    let files = self.files(&event);
                    if !files.is_empty() && !self.changed(files) {
                        return;
                    }
                }
            }
        }
    }

    /// Gathers what belongs to the change and has it dealt with; false when it is time to leave.
    fn changed(&mut self, mut files: Vec<PathBuf>) -> bool {
        let began = Instant::now();
        let mut last = began;
        while began.elapsed() < MOST {
            match self.messages.recv_timeout(QUIET.saturating_sub(last.elapsed())) {
                Ok(Message::Event(event)) => {
                    let more = self.files(&event);
                    if !more.is_empty() {
                        last = Instant::now();
                        files.extend(more);
                    }
                }
                Ok(Message::Places) => self.watch_places(),
                Ok(Message::Stop) | Err(std_mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(std_mpsc::RecvTimeoutError::Timeout) => break,
            }
        }
        let first = files[0].clone();
        let all: BTreeSet<PathBuf> = files.into_iter().collect();
        all.iter().for_each(|file| forget_bytecode(file));
        let (done, dealt_with) = oneshot::channel();
        let sent = self.changes.send(Change {
            application: Arc::clone(&self.watched.application),
            file: first.strip_prefix(&self.watched.directory).map(Path::to_owned).unwrap_or(first),
            others: all.len() - 1,
            done,
        });
        let _ = dealt_with.blocking_recv();
        sent.is_ok()
    }

    /// The files of an application that an event is about. New directories are watched from here on, and what is in them
    /// already counts as changed.
    fn files(&mut self, event: &Event) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let appears = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)));
        for path in &event.paths {
            if appears && path.starts_with(&self.watched.directory) && is_directory(path) {
                self.walk(path, &mut files);
            } else if self.is_source(path) {
                files.push(path.clone());
            }
        }
        if event.need_rescan() {
            // More happened than the kernel could remember.
            let root = self.watched.directory.clone();
            self.walk(&root, &mut files);
        }
        files
    }

    /// Watches a directory and all below it, and finds the sources in them.
    fn walk(&mut self, directory: &Path, found: &mut Vec<PathBuf>) {
        if directory != self.watched.directory && !self.is_walked(directory) {
            return;
        }
        // Before it is read: what comes in between is seen twice, and not lost.
        self.watch(directory);
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if is_directory(&path) {
                self.walk(&path, found);
            } else if self.is_source(&path) {
                found.push(path);
            }
        }
    }

    fn is_walked(&self, directory: &Path) -> bool {
        let name = directory.file_name().and_then(OsStr::to_str).unwrap_or_default();
        !name.starts_with('.') && !NEVER.contains(&name) && !self.is_spared(directory) && !is_virtualenv(directory)
    }

    fn is_source(&self, path: &Path) -> bool {
        // A virtualenv that is only being made was none when its directory appeared.
        let own =
            |directory: &&Path| directory.starts_with(&self.watched.directory) && **directory != self.watched.directory;
        path.file_name().and_then(OsStr::to_str).is_some_and(is_source)
            && !self.is_spared(path)
            && !path.ancestors().skip(1).take_while(own).any(is_virtualenv)
    }

    fn is_spared(&self, path: &Path) -> bool {
        self.watched.spared.iter().any(|spared| path.starts_with(spared))
    }

    /// The directories of modules from elsewhere; not what is below them, which may be anything.
    fn watch_places(&mut self) {
        let directories = lock(&self.places.0).directories.clone();
        for directory in directories {
            if !directory.starts_with(&self.watched.directory) {
                self.watch(&directory);
            }
        }
    }

    fn watch(&mut self, directory: &Path) {
        let Err(error) = self.notifier.watch(directory, RecursiveMode::NonRecursive) else { return };
        let gone = matches!(error.kind, ErrorKind::PathNotFound) && *directory != self.watched.directory;
        if gone || self.complained {
            return;
        }
        self.complained = true;
        let hint = match error.kind {
            ErrorKind::MaxFilesWatch => "; raise fs.inotify.max_user_watches (sysctl)",
            _ => "",
        };
        let (application, directory) = (&self.watched.application, directory.display());
        tracing::warn!(%application, %directory, "changes here are not noticed: {error}{hint}");
    }
}

fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Metadata(_)) => event.need_rescan(),
        _ => true,
    }
}

fn is_source(name: &str) -> bool {
    if name.starts_with(".env") {
        // What editors leave beside it is not it.
        return !name.ends_with('~') && !name.ends_with(".swp") && !name.ends_with(".swx");
    }
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !name.starts_with('.') && extension.is_some_and(|extension| SOURCES.contains(&extension))
}

fn is_virtualenv(directory: &Path) -> bool {
    directory.join("pyvenv.cfg").exists()
}

/// A link to a directory is none: it could lead in circles. Modules behind it are found as [`Places`].
fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|data| data.is_dir())
}

/// Python tells an outdated bytecode file by whole seconds and the length of the source: too little for somebody who
/// mends a character right after having saved. It is a cache, so whatever keeps it from being removed does not matter.
fn forget_bytecode(source: &Path) {
    let (Some(directory), Some(name)) = (source.parent(), source.file_name().and_then(OsStr::to_str)) else { return };
    let Some(stem) = name.strip_suffix(".py") else { return };
    for entry in fs::read_dir(directory.join("__pycache__")).into_iter().flatten().flatten() {
        let cached = entry.file_name();
        let rest = cached.to_str().and_then(|cached| cached.strip_prefix(stem));
        if rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".pyc")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Events name real paths, and what is spared is compared with them, also before it exists.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_templates_and_settings_are_sources_and_data_is_not() {
        for name in ["app.py", "page.html", "mail.txt.j2", "settings.toml", "db.json", ".env", ".env.local"] {
            assert!(is_source(name), "{name}");
        }
        for name in [
            "data.sqlite3",
            "data.sqlite3-journal",
            "app.pyc",
            "app.py~",
            ".app.py.swp",
            ".#app.py",
            ".env.swp",
            "4913",
            "photo.jpg",
            "app.log",
            "README",
            "py",
        ] {
            assert!(!is_source(name), "{name}");
        }
    }

    #[test]
    fn only_the_bytecode_of_the_changed_file_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("__pycache__");
        fs::create_dir(&cache).unwrap();
        for name in
            ["app.cpython-311.pyc", "app.cpython-311.opt-1.pyc", "app_two.cpython-311.pyc", "app.cpython-311.txt"]
        {
            fs::write(cache.join(name), "").unwrap();
        }
        forget_bytecode(&home.path().join("app.py"));
        let mut left: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["app.cpython-311.txt", "app_two.cpython-311.pyc"]);
    }
}
