//! Between the gateway and a Python: the program itself, started once more, which gives up what the Python must not have
//! and then becomes it.
//!
//! Python runs code before our extension is loaded (`.pth` files, `sitecustomize`), and that code may be the
//! application's. So the walls have to stand before the interpreter starts, and between fork and exec there is no room
//! to build them without `unsafe` code. Hence a process of its own: `main` hands over to [`launcher`] before anything
//! else happens in it, it is single-threaded, and it holds nothing secret of the gateway's.
//!
//! ```text
//! gateway -- spawn --> launcher: reads its orders, limits, no_new_privs, Landlock -- exec as the user --> python
//! ```
//!
//! The orders come over the control socket, before anything the worker reads from it. Not as arguments, because the
//! environment in them may hold passwords and anybody can read arguments; and not as the launcher's own environment,
//! because an application's `LD_LIBRARY_PATH` must not choose the libraries of a process that is still root.

use std::{
    ffi::OsString,
    io::Write as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{ExitCode, Stdio},
    sync::OnceLock,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

/// The hidden first argument that makes a launcher of the program. Nothing that clap would take for a command.
const WORD: &str = "--as-launcher";

/// Exit status of a launcher that could not become what it was told; the reason is on its standard error.
const FAILED: u8 = 126;

/// The newest Landlock that is asked for. Rights that later kernels add are taken over by hand: version 9 governs
/// connections to sockets with a name, and a database must not become unreachable by an upgrade of the kernel.
const NEWEST: ABI = ABI::V7;

/// Orders hold an environment and some paths; more is no order of ours.
const MOST: usize = 16 << 20;

/// The descriptor after standard error.
const FIRST_OTHER: i32 = 3;

/// New files are for the user and its group. The gateway's own mask says nothing about them.
const UMASK: u32 = 0o027;

/// What a launcher has to become.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// The program, absolute.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: OsString,
    /// User and group; `None` is the gateway's own.
    pub account: Option<(u32, u32)>,
    /// Bytes of private memory.
    pub memory: Option<u64>,
    /// Processes and threads of the user.
    pub processes: Option<u64>,
    /// Open files.
    pub files: Option<u64>,
    /// What it may reach; `None` is whatever its user may.
    pub reach: Option<Reach>,
    /// Whether descriptor 0 stays the control socket; otherwise it becomes `/dev/null`.
    pub keeps_control: bool,
}

/// What a confined process may reach in the file system. What does not exist is left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reach {
    /// Read, and run programs from.
    pub run: Vec<OsString>,
    /// Read.
    pub read: Vec<OsString>,
    /// Read and write.
    pub write: Vec<OsString>,
    /// Devices and the like: read and write what is there, and make nothing.
    pub use_: Vec<OsString>,
    /// Whether it may open TCP connections and ports.
    pub network: bool,
}

/// Starts a launcher and gives it its orders: the process, and our end of its control socket.
///
/// # Errors
/// It could not be started, or went away before it had read them.
pub fn spawn(orders: &Orders) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    // Not the path of the program: there may be a newer one by now, whose orders are others.
    let child = Command::new("/proc/self/exe")
        .arg0("portcullis")
        .arg(WORD)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the gateway, which then stops its workers in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let text = serde_json::to_vec(orders)?;
    let length = u32::try_from(text.len()).map_err(std::io::Error::other)?;
    (&ours).write_all(&length.to_le_bytes())?;
    (&ours).write_all(&text)?;
    Ok((child, ours))
}

/// What `main` does first: if this process is to be a launcher, all of it.
#[must_use]
pub fn launcher() -> Option<ExitCode> {
    let is_launcher = std::env::args_os().nth(1).is_some_and(|word| word == WORD);
    is_launcher.then(|| {
        let why = launch();
        let _ = writeln!(std::io::stderr(), "portcullis: {why}");
        ExitCode::from(FAILED)
    })
}

/// Comes back only with a reason.
fn launch() -> String {
    // A gateway that is gone before this line has closed the socket, and there are no orders then.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return format!("the end of the gateway cannot be followed: {error}");
    }
    let orders = match receive() {
        Ok(orders) => orders,
        Err(error) => return format!("this is how the gateway starts Python, and not a command: {error}"),
    };
    // The gateway's own descriptors close by themselves. Those that it was started with (of a shell, of `make`) may not.
    close_fds::set_fds_cloexec(FIRST_OTHER, &[]);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    if let Err(why) = limit(&orders) {
        return why;
    }
    // Set-user-id programs stay what they are for everybody else.
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        return format!("rights cannot be given up: {error}");
    }
    // What systemd lets the gateway do (ports below 1024) would go on to whatever it starts.
    if let Err(error) = rustix::thread::clear_ambient_capability_set() {
        return format!("capabilities cannot be given up: {error}");
    }
    if let Some(reach) = &orders.reach
        && let Err(error) = confine(reach)
    {
        return format!("Landlock refused: {error}");
    }
    become_it(&orders)
}

fn receive() -> std::io::Result<Orders> {
    let mut length = [0; 4];
    read_exactly(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MOST {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    read_exactly(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Not a byte more than that: what follows is the worker's. So not through the buffer of [`std::io::stdin`].
fn read_exactly(buffer: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(std::io::stdin().as_fd(), &mut buffer[filled..]) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Soft and hard limits alike: what the application could raise again is no limit.
///
/// `memory` is `RLIMIT_DATA`, private memory that can be written. `RLIMIT_AS` counts what is merely reserved too, and
/// allocators reserve 64 MiB for every thread; the resident size cannot be limited this way at all.
fn limit(orders: &Orders) -> Result<(), String> {
    let limits = [
        (Resource::Core, "core files", Some(0)),
        (Resource::Data, "`memory`", orders.memory),
        (Resource::Nproc, "`processes`", orders.processes),
        (Resource::Nofile, "`files`", orders.files),
    ];
    for (resource, name, value) in limits {
        let Some(value) = value else { continue };
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .map_err(|error| format!("{name} cannot be set to {value}, the gateway itself has less: {error}"))?;
    }
    Ok(())
}

fn confine(reach: &Reach) -> Result<RestrictionStatus, RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let run = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let use_ = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    // Nodes of devices are doors around every path.
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(NEWEST))?;
    if !reach.network {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    rules
        .create()?
        .add_rules(path_beneath_rules(&reach.run, run))?
        .add_rules(path_beneath_rules(&reach.read, read))?
        .add_rules(path_beneath_rules(&reach.use_, use_))?
        .add_rules(path_beneath_rules(&reach.write, write))?
        .restrict_self()
}

fn become_it(orders: &Orders) -> String {
    let mut command = std::process::Command::new(&orders.program);
    command
        .args(&orders.arguments)
        .env_clear()
        .envs(orders.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&orders.directory);
    if let Some((uid, gid)) = orders.account {
        // `exec` below also drops root's supplementary groups before it changes the user.
        command.gid(gid).uid(uid);
    }
    if !orders.keeps_control {
        command.stdin(Stdio::null());
    }
    let error = command.exec();
    let (program, directory) = (Path::new(&orders.program).display(), Path::new(&orders.directory).display());
    let who = orders.account.map(|(uid, gid)| format!(" as user {uid} of group {gid}")).unwrap_or_default();
    format!("{program} could not be started in {directory}{who}: {error}")
}

/// What Landlock does on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landlock {
    /// Version of its interface.
    Version(u32),
    /// The kernel has none.
    Missing,
    /// It is there and switched off.
    Disabled,
}

impl Landlock {
    /// That of the running kernel; asked once.
    #[must_use]
    pub fn of_kernel() -> Self {
        static FOUND: OnceLock<Landlock> = OnceLock::new();
        // The interface tells only who restricts itself. A thread may do that for itself alone, and ends then.
        *FOUND.get_or_init(|| std::thread::spawn(Self::ask).join().unwrap_or(Self::Missing))
    }

    fn ask() -> Self {
        let asked = Ruleset::default().handle_access(AccessFs::Execute).and_then(Ruleset::create);
        match asked.and_then(landlock::RulesetCreated::restrict_self).map(|status| status.landlock) {
            Ok(LandlockStatus::Available { effective_abi, kernel_abi }) => {
                let known = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9, ABI::V10];
                let version = known.into_iter().filter(|version| *version <= effective_abi).count();
                let newer = kernel_abi.and_then(|version| u32::try_from(version).ok());
                Self::Version(newer.unwrap_or_else(|| u32::try_from(version).unwrap_or_default()))
            }
            Ok(LandlockStatus::NotEnabled) => Self::Disabled,
            Ok(LandlockStatus::NotImplemented) | Err(_) => Self::Missing,
        }
    }

    /// What a worker is kept from, and what not for want of a newer kernel.
    #[must_use]
    pub fn covers(self) -> (Vec<&'static str>, Vec<&'static str>) {
        let Self::Version(version) = self else { return (Vec::new(), ALL.map(|(what, _)| what).to_vec()) };
        let (covered, missing): (Vec<_>, Vec<_>) = ALL.into_iter().partition(|(_, since)| *since <= version);
        let names = |list: Vec<(&'static str, u32)>| list.into_iter().map(|(what, _)| what).collect();
        (names(covered), names(missing))
    }
}

/// What is used of Landlock, and since which version of it.
const ALL: [(&str, u32); 5] =
    [("files", 1), ("truncation", 3), ("device controls", 5), ("signals", 6), ("abstract sockets", 6)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_way_with_bytes_that_are_no_text() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = OsString::from_vec(vec![0xff, b'/', 0xfe]);
        let orders = Orders {
            program: odd.clone(),
            arguments: vec![odd.clone()],
            environment: vec![("A".into(), odd.clone())],
            directory: odd.clone(),
            account: Some((1, 2)),
            memory: Some(3),
            processes: None,
            files: Some(4),
            reach: Some(Reach { run: vec![odd.clone()], ..Reach::default() }),
            keeps_control: true,
        };
        let read: Orders = serde_json::from_slice(&serde_json::to_vec(&orders).unwrap()).unwrap();
        assert_eq!((read.program, &read.environment[0].1, &read.reach.unwrap().run[0]), (odd.clone(), &odd, &odd));
    }

    #[test]
    fn what_an_old_kernel_lacks_is_named() {
        assert_eq!(Landlock::Missing.covers().0, Vec::<&str>::new());
        assert_eq!(Landlock::Version(2).covers().0, ["files"]);
        assert_eq!(Landlock::Version(5).covers().1, ["signals", "abstract sockets"]);
        assert_eq!(Landlock::Version(7).covers().1, Vec::<&str>::new());
    }
}
