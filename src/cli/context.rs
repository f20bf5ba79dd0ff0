//! What most commands need: the configuration, the store, and the running gateway if there is one.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Failure, Result, out::Out};
use crate::{
    authn::password::Cost,
    clock::Clock,
    config::{self, Config},
    control::{
        Actor,
        passwords::PasswordRules,
        socket::{self, Command, Reply},
    },
    store::Store,
};

/// How long a running gateway may take to bring a change into force on every thread.
const PATIENCE: Duration = Duration::from_secs(5);

/// The configuration, and what it leads to.
pub(super) struct Context {
    pub config: Config,
    pub clock: Clock,
    store: Option<Store>,
}

impl Context {
    /// Reads the configuration. Its warnings are for `check` and `serve`, not for every command.
    pub fn load(config: &Path) -> Result<Self> {
        let file = config_file(config)?;
        let (config, _warnings) = config::load(&file)?;
        Ok(Self { config, clock: Clock::System, store: None })
    }

    /// The store, opened when it is first needed.
    pub async fn store(&mut self) -> Result<Store> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store = Store::open(&self.config.store, self.clock.clone()).await?;
        self.store = Some(store.clone());
        Ok(store)
    }

    /// What a password has to be, and what hashing it costs.
    pub fn password_rules(&self) -> PasswordRules {
        let passwords = &self.config.passwords;
        let cost = Cost {
            memory_kib: passwords.memory_kib,
            iterations: passwords.iterations,
            parallelism: passwords.parallelism,
        };
        PasswordRules { level: self.config.security.level, cost }
    }

    /// Asks the running gateway; `None` if there is none.
    pub async fn ask(&self, command: &Command) -> Result<Option<Reply>> {
        Ok(socket::ask(&self.config.data, command, PATIENCE).await?)
    }

    /// Asks the running gateway, which has to be there.
    pub async fn ask_running(&self, command: &Command, patience: Duration) -> Result<Reply> {
        ask_running(&self.config.data, command, patience).await
    }

    /// Tells a running gateway that identity data changed and waits until it works with it everywhere.
    async fn changed(&self) -> Result {
        let failed = |why: &str| Err(Failure::Failed(format!("the change is stored, but {why}")));
        match self.ask(&Command::Changed).await {
            Ok(None | Some(Reply::Done)) => Ok(()),
            Ok(Some(Reply::Failed { why })) => failed(&format!("the running gateway could not take it over: {why}")),
            Ok(Some(_)) => failed("the running gateway gave an answer that makes no sense"),
            Err(Failure::Failed(why)) => failed(&why),
            Err(other) => Err(other),
        }
    }

    /// One line about what was done, for people; for programs, what it is now; then the running gateway is told.
    pub async fn done(&self, out: &mut Out, text: String, value: serde_json::Value) -> Result {
        let printed = if out.json { out.value(&value) } else { out.line(text) };
        self.announce(out, printed).await
    }

    /// Tells the running gateway after the answer was printed: a secret that is shown once must not be lost because
    /// the gateway is slow, and the gateway must be told even if nobody reads the answer.
    pub async fn announce(&self, out: &mut Out, printed: std::io::Result<()>) -> Result {
        let printed = printed.and_then(|()| out.flush());
        self.changed().await?;
        Ok(printed?)
    }
}

/// Asks the gateway that runs with a data directory, which has to be there.
pub(super) async fn ask_running(data: &Path, command: &Command, patience: Duration) -> Result<Reply> {
    socket::ask(data, command, patience).await?.ok_or(Failure::NoGateway)
}

/// Where a gateway would be found: as configured, or where `init` puts it while the configuration has mistakes, which is
/// when its status is most worth asking for.
pub(super) fn data_directory(config: &Path, out: &mut Out) -> Result<PathBuf> {
    let file = config_file(config)?;
    match config::load(&file) {
        Ok((config, _warnings)) => Ok(config.data),
        Err(problems) => {
            let data = file.parent().unwrap_or(Path::new("")).join("data");
            if !socket::path(&data).exists() {
                return Err(problems.into());
            }
            out.warn(format_args!("{} has mistakes now: see `portcullis check`", file.display()));
            Ok(data)
        }
    }
}

/// The configuration file that `--config` means: the file itself, or the one in that directory.
pub(super) fn config_file(path: &Path) -> Result<PathBuf> {
    let file = if path.is_dir() { path.join("portcullis.toml") } else { path.to_path_buf() };
    // A link that leads nowhere is there, and whoever reads it says what is wrong.
    if file.symlink_metadata().is_ok() {
        return Ok(file);
    }
    let what = "`portcullis init` makes one, `--config FILE` names another";
    Err(Failure::Configuration(format!("there is no {}: {what}", file.display())))
}

/// Who sits at the console, as the kernel and the password file say; the environment can say anything.
pub(super) fn actor() -> Actor {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let login = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    Actor::console(&login.unwrap_or(uid))
}
