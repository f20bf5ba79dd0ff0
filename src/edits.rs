//! Notices that `portcullis.toml` or the policies have been edited.
//!
//! What decides is a [`Stamp`]: which files there are, and of each its inode, size and times. It is taken before files
//! are read, so what changes in between is one more change after it. inotify only says when a look is worth while, and
//! a look every two seconds is the net below: a directory that is exchanged, a link that now leads elsewhere (`..data` of
//! a mounted ConfigMap), a file system without events all end in another stamp.
//!
//! A half-written file must not come into force. So what has changed has to have been still for 300 ms, and a file that
//! has been written to and is still open for writing is waited for ([`Edits::settled`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use notify::{
    Config as Settings, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;

use crate::config;

/// This long after the last change it counts as complete. Editors replace a file within milliseconds; whoever truncates
/// and writes anew, or edits one file after the other, needs a little more.
const QUIET: Duration = Duration::from_millis(300);

/// Changes that do not cease are a change all the same.
const MOST: Duration = Duration::from_secs(5);

/// How often a look is taken without having been told to.
const POLL: Duration = Duration::from_secs(2);

/// A file that is held open for writing for so long is worth a line in the log.
const OPEN_LONG: Duration = Duration::from_secs(10);

/// What there was to read at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(BTreeMap<PathBuf, Seen>);

/// A file, or why there is none: making an unreadable file readable is a change too, and its `ctime` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    There { inode: (u64, u64), length: u64, modified: (i64, i64), changed: (i64, i64) },
    Directory { inode: (u64, u64) },
    Not(io::ErrorKind),
}

impl Seen {
    /// Behind links: what is read is where they lead.
    fn at(path: &Path) -> Self {
        match fs::metadata(path) {
            // What else happens in it is not ours.
            Ok(data) if data.is_dir() => Self::Directory { inode: (data.dev(), data.ino()) },
            Ok(data) => Self::There {
                inode: (data.dev(), data.ino()),
                length: data.len(),
                modified: (data.mtime(), data.mtime_nsec()),
                changed: (data.ctime(), data.ctime_nsec()),
            },
            Err(error) => Self::Not(error.kind()),
        }
    }
}

impl Stamp {
    /// Of `portcullis.toml` and the files of the policies directory.
    #[must_use]
    pub fn of(file: &Path, policies: &Path) -> Self {
        let names = config::policy_names(policies).unwrap_or_default();
        let paths = names.iter().map(|name| policies.join(name));
        let paths = [file.to_owned(), policies.to_owned()].into_iter().chain(paths);
        Self(paths.map(|path| (path.clone(), Seen::at(&path))).collect())
    }

    /// The first path that is not the same in another stamp, and how many more.
    #[must_use]
    pub fn difference(&self, earlier: &Self) -> Option<(PathBuf, usize)> {
        let all: BTreeSet<_> = self.0.keys().chain(earlier.0.keys()).collect();
        let mut changed = all.into_iter().filter(|path| self.0.get(*path) != earlier.0.get(*path));
        changed.next().map(|first| (first.clone(), changed.count()))
    }
}

/// Waits for edits.
pub struct Edits {
    bell: Arc<Bell>,
    watcher: Option<RecommendedWatcher>,
    /// What is watched, and as which inode: a directory of the same name may be another one by now.
    watched: BTreeMap<PathBuf, Seen>,
    complained: bool,
}

/// What inotify's thread tells.
#[derive(Default)]
struct Bell {
    rung: Notify,
    /// Written to and not closed since.
    being_written: Mutex<BTreeSet<OsString>>,
}

impl Edits {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { bell: Arc::default(), watcher: None, watched: BTreeMap::new(), complained: false }
    }

    /// Looks at the files, after having made sure that their next change rings.
    pub async fn look(&mut self, file: &Path, policies: &Path) -> Stamp {
        let (file, policies) = (file.to_owned(), policies.to_owned());
        // A file system over the network may keep one waiting.
        let looked = tokio::task::spawn_blocking(move || (directories(&file, &policies), file, policies)).await;
        let Ok((directories, file, policies)) = looked else { return Stamp(BTreeMap::new()) };
        if directories != self.watched {
            self.watch(directories);
        }
        let stamp = tokio::task::spawn_blocking(move || Stamp::of(&file, &policies)).await;
        stamp.unwrap_or(Stamp(BTreeMap::new()))
    }

    /// Returns when a look is worth while.
    pub async fn wait(&self) {
        let _ = tokio::time::timeout(POLL, self.bell.rung.notified()).await;
    }

    /// Follows a change that has begun until it seems complete: nothing has moved for 300 ms or it does not cease, and
    /// nobody who has written to a file still holds it open.
    pub async fn settled(&mut self, file: &Path, policies: &Path, begun: Stamp) -> Stamp {
        let (began, mut last, mut told) = (Instant::now(), begun, false);
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.look(file, policies).await;
            let open = lock(&self.bell.being_written).first().cloned();
            if open.is_none() && (now == last || began.elapsed() > MOST) {
                return now;
            }
            last = now;
            if let Some(open) = open.filter(|_| began.elapsed() > OPEN_LONG && !told) {
                told = true;
                let file = open.display();
                tracing::warn!(%file, "has been written to and is still open: changes wait until it is closed; `portcullis reload` does not");
            }
        }
    }

    /// Watches nothing any more.
    pub fn rest(&mut self) {
        self.watcher = None;
        self.watched.clear();
        lock(&self.bell.being_written).clear();
    }

    /// Begins anew with these directories.
    fn watch(&mut self, directories: BTreeMap<PathBuf, Seen>) {
        let bell = Arc::clone(&self.bell);
        let made = RecommendedWatcher::new(move |event| bell.hear(event), Settings::default());
        let watched = made.and_then(|mut watcher| {
            for (directory, _) in directories.iter().filter(|(_, seen)| matches!(seen, Seen::Directory { .. })) {
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        self.watched = directories;
        // The one before has listened until now, so nobody has closed a file unheard; what is out of sight is forgotten.
        let is_here = |name: &OsString| self.watched.keys().any(|directory| directory.join(name).exists());
        lock(&self.bell.being_written).retain(is_here);
        self.watcher = match watched {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(
                        "edits are noticed by looking every two seconds only: {error}; see fs.inotify (sysctl)"
                    );
                }
                None
            }
        };
    }
}

impl Default for Edits {
    fn default() -> Self {
        Self::new()
    }
}

impl Bell {
    fn hear(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.rung.notify_one() };
        let mut being_written = lock(&self.being_written);
        if event.need_rescan() {
            // More happened than the kernel could remember: nobody knows who has closed what.
            being_written.clear();
        }
        for name in event.paths.iter().filter_map(|path| path.file_name()).filter(|name| is_toml(name)) {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => {
                    being_written.insert(name.to_owned());
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_) => {
                    being_written.remove(name);
                }
                _ => {}
            }
        }
        drop(being_written);
        // Our own reading is no change.
        if !matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            self.rung.notify_one();
        }
    }
}

fn is_toml(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "toml")
}

/// Where something happens when what is read changes: the directories of the files and of what they are links to, and
/// those above the policies, in which they may be exchanged as a whole.
fn directories(file: &Path, policies: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeSet::from([policies.to_owned()]);
    let names = config::policy_names(policies).unwrap_or_default();
    let files = names.iter().map(|name| policies.join(name));
    for path in [file.to_owned(), policies.to_owned()].into_iter().chain(files) {
        let real = path.canonicalize().ok();
        found.extend(real.as_deref().and_then(Path::parent).map(Path::to_owned));
        found.extend(path.parent().map(Path::to_owned));
    }
    found.extend(policies.canonicalize().ok());
    found.into_iter().map(|directory| (directory.clone(), Seen::at(&directory))).collect()
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (file, policies) = (root.join("portcullis.toml"), root.join("policies"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("a.toml"), "a").unwrap();
        (directory, file, policies)
    }

    #[test]
    fn whatever_is_read_is_in_the_stamp_and_nothing_else() {
        let (_directory, file, policies) = installation();
        let mut last = Stamp::of(&file, &policies);
        let mut moved = |what: &str, expected: bool| {
            let now = Stamp::of(&file, &policies);
            assert_eq!(now != last, expected, "{what}: {:?}", now.difference(&last));
            last = now;
        };
        moved("nothing", false);
        for (name, expected) in [("b.toml", true), ("b.cases.toml", false), (".b.toml", false), ("b.toml~", false)] {
            fs::write(policies.join(name), "b").unwrap();
            moved(name, expected);
        }
        fs::write(policies.join("new"), "a").unwrap();
        fs::rename(policies.join("new"), policies.join("a.toml")).unwrap();
        moved("the same text in another file", true);
        fs::remove_file(policies.join("b.toml")).unwrap();
        moved("a file is gone", true);
        let (one, two) = (policies.join("..1"), policies.join("..2"));
        for (version, text) in [(&one, "first"), (&two, "other")] {
            fs::create_dir(version).unwrap();
            fs::write(version.join("c.toml"), text).unwrap();
        }
        std::os::unix::fs::symlink("..1", policies.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/c.toml", policies.join("c.toml")).unwrap();
        moved("a link", true);
        std::os::unix::fs::symlink("..2", policies.join("..new")).unwrap();
        fs::rename(policies.join("..new"), policies.join("..data")).unwrap();
        moved("the link it goes through", true);
        fs::rename(&policies, policies.with_extension("old")).unwrap();
        moved("the directory is gone", true);
        fs::write(&file, "x").unwrap();
        moved("the system", true);
    }

    #[tokio::test]
    async fn who_writes_slowly_is_waited_for() {
        use std::io::Write as _;
        let (_directory, file, policies) = installation();
        let mut edits = Edits::new();
        let before = edits.look(&file, &policies).await;
        let mut open = fs::File::create(policies.join("a.toml")).unwrap();
        open.write_all(b"half").unwrap();
        let begun = loop {
            edits.wait().await;
            let now = edits.look(&file, &policies).await;
            if now != before {
                break now;
            }
        };
        let waiting = edits.settled(&file, &policies, begun.clone());
        assert!(tokio::time::timeout(QUIET * 3, waiting).await.is_err(), "it is still open");
        open.write_all(b" and whole").unwrap();
        drop(open);
        let settled = tokio::time::timeout(MOST, edits.settled(&file, &policies, begun)).await.expect("it is closed");
        assert_eq!(settled, Stamp::of(&file, &policies));
    }
}
