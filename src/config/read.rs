//! Reading files that people wrote: what can go wrong before the first character is understood.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use crate::written::{Problem, Severity};

/// A configuration file larger than this is something else by mistake, bytes.
pub(super) const FILE_MAX: u64 = 4 << 20;

/// The text of a file.
pub(super) fn text(path: &Path, shown: &str) -> Result<String, Problem> {
    let failed = |error: std::io::Error| {
        let problem = Problem::file(shown, format!("cannot be read: {}", plain(&error)));
        match error.kind() {
            ErrorKind::NotFound => problem.help("`portcullis init` writes a working set"),
            ErrorKind::PermissionDenied => problem.help("it has to be readable by the user that the gate runs as"),
            _ => problem,
        }
    };
    // Before it is opened, because opening a device may do something; and after, because it may be another by then.
    check(&std::fs::metadata(path).map_err(failed)?, shown)?;
    let file = open(path).map_err(failed)?;
    check(&file.metadata().map_err(failed)?, shown)?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Problem::file(shown, "is larger than 4 MiB").help("is it the right file?"));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(shown, &error))
}

/// A pipe or a device might never end, or give something else the next time.
fn check(metadata: &std::fs::Metadata, shown: &str) -> Result<(), Problem> {
    if metadata.is_dir() {
        return Err(Problem::file(shown, "is a directory").help("name the file itself"));
    }
    if !metadata.is_file() {
        return Err(Problem::file(shown, "is not a regular file").help("a pipe or a device is never read"));
    }
    Ok(())
}

/// Opening a pipe waits for its other end, unless one says not to: whoever puts one where a policy was must not hold the
/// gateway up.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn not_utf8(shown: &str, error: &std::string::FromUtf8Error) -> Problem {
    let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
    let source: Arc<str> = String::from_utf8_lossy(bytes).into();
    let byte = bytes.get(at).copied().unwrap_or_default();
    let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
    Problem::at(Severity::Error, &shown.into(), &source, span, format!("is not UTF-8: byte 0x{byte:02x} here"))
        .help("save the file as UTF-8")
}

/// The operating system's words without its number.
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
