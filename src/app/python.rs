//! Which interpreter runs an application: found, asked who it is, and refused with what to do about it.
//!
//! `python` in a policy is a path (a virtualenv, a prefix of conda's kind, an interpreter) or a bare name. A name is a
//! directory of that name in one of the `[workers] environments`, or a program on `PATH`.
//!
//! An interpreter is asked once, before it runs anything, confined and without site packages (`-I -S`): its version, so
//! that a Python that is too old is refused in words; where its parts are, so that a worker may read them; and where it
//! really is, because what is on `PATH` may be a script that chooses one (pyenv's shims).

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{io::AsyncReadExt as _, sync::OnceCell};

use crate::{
    app::{
        confine::{self, Orders},
        isolation::{Isolation, IsolationError},
    },
    policy::Python,
    written::nearest,
};

/// What it is asked.
const ASK: &str = include_str!("ask.py");

/// The first line of the answer: what does not say this is no Python.
const GREETING: &str = "portcullis";

/// An interpreter answers within tens of milliseconds; a shim on a busy disk takes seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer is a dozen paths.
const MOST: u64 = 64 * 1024;

/// A script may choose another interpreter the next time, for reasons that do not show in it. This long is enough for
/// the workers that start together.
const SCRIPT_IS_GOOD_FOR: Duration = Duration::from_secs(5);

/// The oldest version whose stable ABI our extension is built against.
const OLDEST: (u32, u32) = (3, 10);

/// A Python that can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The program to run.
    pub program: PathBuf,
    /// The environment it belongs to.
    pub environment: Option<Environment>,
    /// Everything of it that a worker has to be able to read.
    pub parts: Vec<PathBuf>,
}

/// A directory with packages of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environment {
    /// Made by `venv` or `virtualenv`: it has a `pyvenv.cfg`.
    Virtual(PathBuf),
    /// A prefix with `conda-meta`.
    Conda(PathBuf),
}

/// Why there is no interpreter.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// Nothing at that path.
    #[error("there is no Python at {}: create the virtualenv, or correct `python` in the policy", .0.display())]
    Missing(PathBuf),
    /// Nothing of that name.
    #[error("there is no Python called `{name}`, neither in {} nor on PATH{}: correct `python` in the policy, or make the virtualenv",
        looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or "),
        meant.as_ref().map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default())]
    Unknown {
        /// As written.
        name: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// No interpreter on `PATH`.
    #[error(
        "`python3` is not on PATH: install Python 3.10 or newer, or name an interpreter with `python` in the policy"
    )]
    NotOnPath,
    /// The interpreter that a virtualenv was made from is gone.
    #[error("the virtualenv {} was made from a Python that is no longer at {}: make it anew with `python3 -m venv --clear {}` and install its packages again", venv.display(), home.display(), venv.display())]
    Dangling {
        /// The virtualenv.
        venv: PathBuf,
        /// Where its interpreter was.
        home: PathBuf,
    },
    /// Too old.
    #[error("{} is Python {version}; Python 3.10 or newer is needed: correct `python` in the policy, or make the virtualenv with a newer one", program.display())]
    TooOld {
        /// Which.
        program: PathBuf,
        /// What it says.
        version: String,
    },
    /// Not the implementation that our extension is for.
    #[error("{} is {implementation}; the worker needs CPython: correct `python` in the policy", program.display())]
    NotCPython {
        /// Which.
        program: PathBuf,
        /// What it says.
        implementation: String,
    },
    /// It ran, or did not, and gave no sensible answer.
    #[error("{} does not answer like a Python{}: correct `python` in the policy", program.display(), its_words(.said))]
    NoPython {
        /// Which.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// It ran on and on.
    #[error("{} did not say within {} s which Python it is: see whether it starts by hand", .0.display(), PATIENCE.as_secs())]
    Silent(PathBuf),
    /// Its walls could not be built.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// The operating system refused.
    #[error("{} could not be asked which Python it is: {source}", program.display())]
    Io {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn its_words(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(", it said: {text}") }
}

/// Where interpreters are looked for, and what for.
pub struct Search<'a> {
    /// As written; `None` is `python3`.
    pub written: Option<&'a Python>,
    /// `[workers] environments`.
    pub environments: &'a [PathBuf],
    /// The worker's environment: `PATH`, and what a script may go by.
    pub variables: &'a [(OsString, OsString)],
    /// The worker's working directory, which a script may go by too.
    pub directory: &'a Path,
    /// The worker's walls.
    pub isolation: &'a Isolation,
}

impl Search<'_> {
    /// Finds the interpreter and asks it.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub async fn run(&self) -> Result<Interpreter, PythonError> {
        let program = self.find()?;
        let answer = self.ask(&program).await?;
        let program = if answer.is_script { answer.executable.clone() } else { program };
        let environment = Environment::around(&program);
        let own = environment.as_ref().map(|environment| environment.root().to_owned());
        let parts = answer.parts.iter().cloned().chain(own).chain(program.canonicalize()).collect();
        Ok(Interpreter { program, environment, parts: self.isolation.fit(parts) })
    }

    fn find(&self) -> Result<PathBuf, PythonError> {
        let program = match self.written {
            None => self.on_path("python3").ok_or(PythonError::NotOnPath)?,
            Some(Python::Path(path)) => inside(path),
            Some(Python::Named(name)) => self.named(name)?,
        };
        if let Some(Environment::Virtual(venv)) = Environment::around(&program)
            && let Some(home) = home(&venv).filter(|home| !home.is_dir())
        {
            return Err(PythonError::Dangling { venv, home });
        }
        if program.exists() { Ok(program) } else { Err(PythonError::Missing(program)) }
    }

    fn named(&self, name: &str) -> Result<PathBuf, PythonError> {
        let directories = self.environments.iter().map(|parent| parent.join(name));
        let found = directories.into_iter().find(|directory| directory.is_dir()).map(|directory| inside(&directory));
        found.or_else(|| self.on_path(name)).ok_or_else(|| {
            let names = |directory: &Path| {
                let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
            };
            let environments = self.environments.iter().flat_map(|directory| names(directory));
            let programs = self.path().flat_map(|directory| names(&directory));
            let known: Vec<_> = environments.chain(programs.filter(|program| program.starts_with("python"))).collect();
            let meant = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
            PythonError::Unknown { name: name.to_owned(), looked: self.environments.to_vec(), meant }
        })
    }

    fn path(&self) -> impl Iterator<Item = PathBuf> {
        let path = self.variables.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value);
        path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default().into_iter()
    }

    fn on_path(&self, name: &str) -> Option<PathBuf> {
        let is_program = |file: &PathBuf| {
            file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        self.path().filter(|directory| directory.is_absolute()).map(|directory| directory.join(name)).find(is_program)
    }

    /// The answer, which is remembered: all workers of all applications with this interpreter ask once.
    async fn ask(&self, program: &Path) -> Result<Arc<Known>, PythonError> {
        let is_script = is_script(program);
        let key = Key {
            program: program.to_owned(),
            changed: program.metadata().and_then(|found| found.modified()).ok(),
            directory: is_script.then(|| self.directory.to_owned()),
            isolation: self.isolation.clone(),
        };
        let cell = {
            let mut known = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.get_or_insert_default();
            known.retain(|key, (since, _)| key.directory.is_none() || since.elapsed() < SCRIPT_IS_GOOD_FOR);
            Arc::clone(&known.entry(key).or_insert_with(|| (Instant::now(), Arc::default())).1)
        };
        cell.get_or_try_init(|| async { self.really_ask(program, is_script).await.map(Arc::new) }).await.cloned()
    }

    async fn really_ask(&self, program: &Path, is_script: bool) -> Result<Known, PythonError> {
        let answer = match self.exchange(program, is_script, &["-I", "-S", "-c", ASK]).await? {
            // Before 3.4 there was no `-I`. Such a Python shall hear that it is too old, not that it is none.
            Answer { text, complaint } if text.is_empty() && complaint.contains("-I") => {
                self.exchange(program, is_script, &["-E", "-s", "-S", "-c", ASK]).await?
            }
            answer => answer,
        };
        understand(program, is_script, &answer)
    }

    async fn exchange(&self, program: &Path, is_script: bool, arguments: &[&str]) -> Result<Answer, PythonError> {
        let orders = Orders {
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: self.variables.to_vec(),
            directory: self.directory.into(),
            ..self.isolation.orders_to_ask(self.isolation.fit(likely_parts(program)), is_script)?
        };
        let failed = |source| PythonError::Io { program: program.to_owned(), source };
        let (mut child, _control) = confine::spawn(&orders).map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let all = async { tokio::join!(read(out), read(err), child.wait()) };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok((text, complaint, _)) => {
                Ok(Answer { text, complaint: String::from_utf8_lossy(&complaint).into_owned() })
            }
            Err(_) => Err(PythonError::Silent(program.to_owned())),
        }
    }
}

/// What an interpreter printed.
struct Answer {
    text: Vec<u8>,
    complaint: String,
}

async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // The pipe is closed after that, and what prints on is ended by SIGPIPE.
        let _ = pipe.take(MOST).read_to_end(&mut bytes).await;
    }
    bytes
}

/// What is known of an interpreter.
struct Known {
    executable: PathBuf,
    is_script: bool,
    parts: Vec<PathBuf>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    program: PathBuf,
    changed: Option<SystemTime>,
    /// For scripts, whose answer depends on it.
    directory: Option<PathBuf>,
    isolation: Isolation,
}

type Remembered = HashMap<Key, (Instant, Arc<OnceCell<Arc<Known>>>)>;

static REMEMBERED: Mutex<Option<Remembered>> = Mutex::new(None);

fn understand(program: &Path, is_script: bool, answer: &Answer) -> Result<Known, PythonError> {
    let program = program.to_owned();
    let mut lines = answer.text.split(|byte| *byte == b'\n');
    let mut line = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (greeting, version, implementation) = (line(), line(), line());
    if greeting != GREETING {
        let text = String::from_utf8_lossy(&answer.text);
        let said = [answer.complaint.trim(), text.trim()].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        // Whatever it is, it may print what it likes; a few lines are enough to recognise it.
        let said: String = said.chars().take(400).map(|c| if c == '\n' || !c.is_control() { c } else { ' ' }).collect();
        return Err(PythonError::NoPython { program, said });
    }
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
        return Err(PythonError::TooOld { program, version });
    }
    if implementation != "cpython" {
        return Err(PythonError::NotCPython { program, implementation });
    }
    let mut paths = lines.map(|line| PathBuf::from(OsStr::from_bytes(line)));
    let executable = paths.next().unwrap_or_default();
    let parts = paths.filter(|path| path.is_absolute()).collect();
    Ok(Known { executable, is_script, parts })
}

/// The interpreter in a directory, or the interpreter itself.
fn inside(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("bin/python") } else { path.to_owned() }
}

/// What an interpreter needs to say who it is, as far as can be told from outside: the directory above its `bin`, of
/// the link and of what it leads to, and the one that a virtualenv names.
fn likely_parts(program: &Path) -> Vec<PathBuf> {
    let above = |program: &Path| program.parent().and_then(Path::parent).map(Path::to_owned);
    let real = program.canonicalize().ok();
    let home = Environment::around(program).and_then(|environment| home(environment.root()));
    let named = home.and_then(|home| home.parent().map(Path::to_owned));
    [above(program), real.as_deref().and_then(above), named, real].into_iter().flatten().collect()
}

/// Programs begin with a number that says so, scripts with `#!`.
fn is_script(program: &Path) -> bool {
    use std::io::Read as _;
    let mut beginning = [0; 2];
    // Whatever else there may be under the name could have us wait for it.
    if !program.metadata().is_ok_and(|found| found.is_file()) {
        return false;
    }
    let read = std::fs::File::open(program).and_then(|mut file| file.read_exact(&mut beginning));
    read.is_ok() && beginning == *b"#!"
}

impl Environment {
    /// The one whose `bin` a program is in.
    fn around(program: &Path) -> Option<Self> {
        let root = program.parent()?.parent()?;
        if root.join("pyvenv.cfg").is_file() {
            return Some(Self::Virtual(root.to_owned()));
        }
        root.join("conda-meta").is_dir().then(|| Self::Conda(root.to_owned()))
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        match self {
            Self::Virtual(root) | Self::Conda(root) => root,
        }
    }

    /// The variable by which programs recognise it.
    #[must_use]
    pub const fn variable(&self) -> &'static str {
        match self {
            Self::Virtual(_) => "VIRTUAL_ENV",
            Self::Conda(_) => "CONDA_PREFIX",
        }
    }
}

/// The `bin` of the Python that a virtualenv was made from.
fn home(venv: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(venv.join("pyvenv.cfg")).ok()?;
    let (_, home) = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == "home")?;
    Some(PathBuf::from(home.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, complaint: &str) -> Result<Known, String> {
        let answer = Answer { text: text.as_bytes().to_vec(), complaint: complaint.to_owned() };
        understand(Path::new("/x/python"), false, &answer).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_understood_or_refused_in_words() {
        let known =
            answer("portcullis\n3.12.1\ncpython\n/x/bin/python\n/x\n/base\n/base\n/base/lib/python3.12\n", "").ok();
        let known = known.unwrap();
        assert_eq!(known.executable, Path::new("/x/bin/python"));
        assert_eq!(known.parts, ["/x", "/base", "/base", "/base/lib/python3.12"].map(PathBuf::from));
        let refused = |text, complaint| answer(text, complaint).err().unwrap();
        assert!(
            refused("portcullis\n3.9.1\ncpython\n", "").contains("is Python 3.9.1; Python 3.10 or newer is needed")
        );
        assert!(refused("portcullis\n2.7.18\npython\n", "").contains("2.7.18"));
        assert!(refused("portcullis\n3.11.1\npypy\n", "").contains("is pypy; the worker needs CPython"));
        assert!(refused("hello", "").contains("it said: hello"));
        assert!(refused("hello", "no\u{1b}[2J").contains("it said: no [2J"));
        assert!(refused("", "").contains("does not answer like a Python: correct"));
    }

    #[test]
    fn environments_are_told_apart_by_what_lies_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, file: &str| {
            let root = directory.path().join(name);
            std::fs::create_dir_all(root.join("bin")).unwrap();
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), "home = /gone/bin\nversion = 3\n").unwrap();
            root
        };
        let (venv, conda, plain) =
            (make("v", "pyvenv.cfg"), make("c", "conda-meta/history"), make("p", "lib/python3.12/os.py"));
        assert_eq!(Environment::around(&inside(&venv)), Some(Environment::Virtual(venv.clone())));
        assert_eq!(Environment::around(&inside(&conda)), Some(Environment::Conda(conda)));
        assert_eq!(Environment::around(&inside(&plain)), None);
        assert_eq!(home(&venv), Some("/gone/bin".into()));
    }
}
