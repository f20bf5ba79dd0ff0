//! A log file and its rotated predecessors as one series of lines, read piece by piece.
//!
//! `wsgi.log` becomes `wsgi.log.1`, that one `wsgi.log.2`, at any time, also between two calls here. A file is therefore
//! known by its inode, not by its name; and the series is opened from the newest to the oldest, so that a rotation in
//! between shows a file twice, which is noticed, and never leaves one out.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::clock::Timestamp;

/// Where a series is.
pub(super) struct LogFiles {
    newest: PathBuf,
}

/// One file of it.
pub(super) struct Part {
    reader: BufReader<File>,
    id: (u64, u64),
    /// When it was last written to, as it was opened.
    pub written: Timestamp,
    /// A line that has begun.
    begun: Vec<u8>,
}

impl LogFiles {
    pub fn new(newest: PathBuf) -> Self {
        Self { newest }
    }

    pub fn path(&self) -> &Path {
        &self.newest
    }

    /// Every file there is, the newest first.
    pub fn open(&self) -> io::Result<Vec<Part>> {
        let known = self.highest_number();
        let mut parts: Vec<Part> = Vec::new();
        for number in 0.. {
            match Part::open(&self.numbered(number)) {
                Ok(part) if parts.iter().any(|other| other.id == part.id) => {}
                Ok(part) => parts.push(part),
                // A rotation under way leaves gaps for a moment, and may push the last one further.
                Err(error) if error.kind() == io::ErrorKind::NotFound && number > known => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(parts)
    }

    /// The files that are newer than `part`, the oldest first; all if it is not there any more.
    pub fn newer_than(&self, part: &Part) -> io::Result<Vec<Part>> {
        let mut newer: Vec<_> = self.open()?.into_iter().take_while(|other| other.id != part.id).collect();
        newer.reverse();
        Ok(newer)
    }

    /// Whether another file than `part` has its name now.
    pub fn has_moved_on_from(&self, part: &Part) -> bool {
        fs::metadata(&self.newest).is_ok_and(|data| (data.dev(), data.ino()) != part.id)
    }

    fn numbered(&self, number: u64) -> PathBuf {
        let mut path = self.newest.clone().into_os_string();
        if number > 0 {
            path.push(format!(".{number}"));
        }
        path.into()
    }

    fn highest_number(&self) -> u64 {
        let name = self.newest.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
        let entries = self.newest.parent().and_then(|directory| fs::read_dir(directory).ok());
        let names =
            entries.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|entry| entry.strip_prefix(&name)?.parse().ok()).max().unwrap_or(0)
    }
}

impl Part {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let data = file.metadata()?;
        let written = Timestamp(data.mtime().saturating_mul(1000).saturating_add(data.mtime_nsec() / 1_000_000));
        Ok(Self { reader: BufReader::new(file), id: (data.dev(), data.ino()), written, begun: Vec::new() })
    }

    /// The next whole line, without its end; `None` if there is none yet. One that has begun is finished by a later call.
    pub fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.reader.read_until(b'\n', &mut self.begun)?;
        if self.begun.pop_if(|last| *last == b'\n').is_none() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.begun)))
    }

    /// Starts over if the file has been emptied in place since, as some tools rotate.
    pub fn notice_truncation(&mut self) -> io::Result<()> {
        if self.reader.get_ref().metadata()?.len() < self.reader.stream_position()? {
            self.reader.rewind()?;
            self.begun.clear();
        }
        Ok(())
    }

    /// The last lines that `wanted` lets pass, at most so many, the oldest first.
    pub fn last(&mut self, most: usize, wanted: impl Fn(&[u8]) -> bool) -> io::Result<VecDeque<Vec<u8>>> {
        let mut last = VecDeque::new();
        while let Some(line) = self.line()? {
            if wanted(&line) {
                if last.len() == most {
                    last.pop_front();
                }
                last.push_back(line);
            }
        }
        // Nothing is wanted: the file has been read to its end all the same.
        last.truncate(most);
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn series() -> (tempfile::TempDir, LogFiles) {
        let home = tempfile::tempdir().unwrap();
        let files = LogFiles::new(home.path().join("wsgi.log"));
        (home, files)
    }

    fn all(part: &mut Part) -> Vec<String> {
        std::iter::from_fn(|| part.line().unwrap()).map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn the_series_is_opened_from_the_newest_to_the_oldest() {
        let (home, files) = series();
        for (name, text) in [("wsgi.log", "5\n"), ("wsgi.log.1", "4\n"), ("wsgi.log.3", "2\n"), ("wsgi.log.10", "1\n")]
        {
            fs::write(home.path().join(name), text).unwrap();
        }
        fs::write(home.path().join("wsgi.log.old"), "0\n").unwrap();
        let lines: Vec<_> = files.open().unwrap().iter_mut().flat_map(all).collect();
        assert_eq!(lines, ["5", "4", "2", "1"]);
        assert!(LogFiles::new(home.path().join("none/wsgi.log")).open().unwrap().is_empty());
    }

    #[test]
    fn a_line_that_has_begun_is_finished_later() {
        let (_home, files) = series();
        let mut file = File::create(files.path()).unwrap();
        file.write_all(b"one\ntw").unwrap();
        let mut part = files.open().unwrap().remove(0);
        assert_eq!(all(&mut part), ["one"]);
        file.write_all(b"o\n").unwrap();
        assert_eq!(all(&mut part), ["two"]);
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(b"3\n").unwrap();
        part.notice_truncation().unwrap();
        assert_eq!(all(&mut part), ["3"]);
    }

    #[test]
    fn several_rotations_between_two_looks_lose_nothing() {
        let (home, files) = series();
        let name = |name: &str| home.path().join(name);
        fs::write(files.path(), "1\n").unwrap();
        let mut part = files.open().unwrap().remove(0);
        assert!(all(&mut part) == ["1"] && !files.has_moved_on_from(&part));
        for (number, text) in [(2, "2\n"), (1, "3\n")] {
            fs::rename(files.path(), name(&format!("wsgi.log.{number}"))).unwrap();
            fs::write(files.path(), text).unwrap();
        }
        assert!(files.has_moved_on_from(&part));
        let newer: Vec<_> = files.newer_than(&part).unwrap().iter_mut().flat_map(all).collect();
        assert_eq!(newer, ["2", "3"]);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let (_home, files) = series();
        fs::write(files.path(), "a1\nb\na2\na3\n").unwrap();
        let last = |most| {
            let lines = files.open().unwrap().remove(0).last(most, |line| line.starts_with(b"a")).unwrap();
            lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((last(2), last(9)), (vec!["a2".into(), "a3".into()], vec!["a1".into(), "a2".into(), "a3".into()]));
        assert!(last(0).is_empty());
    }
}
