//! Where a password comes from: a file, a terminal, or thin air. Never an argument, which every user of the machine
//! could read in the process list.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use zeroize::Zeroizing;

use super::{Failure, Result};
use crate::{authn::password::MAX_PASSWORD, control::passwords, secret::Secret};

/// A password, and whether it was made up and has to be shown.
pub(super) struct Chosen {
    pub password: Secret<String>,
    pub generated: bool,
}

/// From the file if one is named, else asked for on a terminal, else made up.
pub(super) fn choose(file: Option<&Path>) -> Result<Chosen> {
    if let Some(file) = file {
        return Ok(Chosen { password: read(file)?, generated: false });
    }
    let asked = if io::stdin().is_terminal() && io::stderr().is_terminal() { ask()? } else { None };
    Ok(match asked {
        Some(password) => Chosen { password, generated: false },
        None => Chosen { password: passwords::generate(), generated: true },
    })
}

/// The first line of a file, or of standard input for `-`.
pub(super) fn read(file: &Path) -> Result<Secret<String>> {
    let failed =
        |error: io::Error| Failure::Failed(format!("cannot read the password from {}: {error}", file.display()));
    let source: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(file).map_err(failed)?),
    };
    first_line(source).map_err(failed)
}

fn first_line(source: impl Read) -> io::Result<Secret<String>> {
    // Two more than fit, so that one that is too long is refused instead of cut.
    let limit = MAX_PASSWORD + 2;
    let mut text = Zeroizing::new(String::with_capacity(limit));
    source.take(limit as u64).read_to_string(&mut text)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty"));
    }
    Ok(Secret::new(line.to_owned()))
}

/// Asks twice; nothing means "make one up".
fn ask() -> Result<Option<Secret<String>>> {
    let prompt = |text: &str| {
        let asked = dialoguer::Password::new().with_prompt(text).allow_empty_password(true).interact();
        asked.map(Secret::new).map_err(|error| Failure::Failed(format!("no password was given: {error}")))
    };
    let password = prompt("Password (empty: make one up)")?;
    if password.reveal().is_empty() {
        return Ok(None);
    }
    if prompt("The same again")?.reveal() != password.reveal() {
        return Err(Failure::Failed("the two passwords differ".to_owned()));
    }
    Ok(Some(password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_is_one_line_and_its_spaces_count() {
        let read = |text: &str| first_line(text.as_bytes()).map(|secret| secret.reveal().clone());
        assert_eq!(read("open sesame \r\nmore").unwrap(), "open sesame ");
        assert_eq!(read("open").unwrap(), "open");
        assert!(read("\nopen").is_err());
        assert!(read("").is_err());
    }
}
