//! A worker's process: started by us, or forked by one that has preloaded the application.

use std::{
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use tokio::{io::unix::AsyncFd, process::Child, sync::oneshot};

/// How long the parent of a process that has ended may take to tell how.
const REPORT: Duration = Duration::from_secs(1);

/// Somebody to wait for and to send signals to. Dropping it kills the process.
pub enum Process {
    /// Our own child.
    Started(Child),
    /// The child of a process that preloaded the application.
    Forked(Forked),
}

/// A process that is no child of ours. Its number could be given to another one behind our back, so signals go to the
/// descriptor that stands for it.
pub struct Forked {
    pid: u32,
    handle: AsyncFd<OwnedFd>,
    status: oneshot::Receiver<ExitStatus>,
}

impl Forked {
    /// `handle` is its pidfd; `status` comes from its parent when it has ended.
    ///
    /// # Errors
    /// The handle cannot be waited for.
    #[allow(deprecated, reason = "what replaces it asks for a promise that `OwnedFd` keeps by itself")]
    pub fn new(pid: u32, handle: OwnedFd, status: oneshot::Receiver<ExitStatus>) -> std::io::Result<Self> {
        Ok(Self { pid, handle: AsyncFd::new(handle)?, status })
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
    }
}

/// Whether a descriptor stands for that process, and it is a child of `parent` which has not been waited for. The
/// application of a preloading process can open a handle to any process, the gateway's too, and send it as its child's.
pub fn is_child(handle: &OwnedFd, pid: u32, parent: u32) -> bool {
    let field = |file: String, name: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok())
    };
    // The handle is looked at last: while it stands for the process, the number was not given to another one before.
    field(format!("/proc/{pid}/status"), "PPid:") == Some(parent)
        && field(format!("/proc/self/fdinfo/{}", handle.as_raw_fd()), "Pid:") == Some(pid)
}

impl Process {
    /// Its number; 0 once it has ended and been waited for.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Started(child) => child.id().unwrap_or_default(),
            Self::Forked(forked) => forked.pid,
        }
    }

    /// Waits for its end; `None` when nobody can tell how it ended. Not to be called again after that.
    pub async fn wait(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Started(child) => child.wait().await.ok(),
            // The kernel tells that it has ended, whatever its parent says about how.
            Self::Forked(forked) => {
                let _ended = forked.handle.readable().await.ok()?;
                tokio::time::timeout(REPORT, &mut forked.status).await.ok()?.ok()
            }
        }
    }

    /// Sends a signal, if it is still there.
    pub fn signal(&self, signal: Signal) {
        let _ = match self {
            Self::Started(child) => {
                let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                pid.map_or(Ok(()), |pid| kill_process(pid, signal))
            }
            Self::Forked(forked) => pidfd_send_signal(forked.handle.get_ref(), signal),
        };
    }
}

/// What [`describe`] says of a process that ended as it should.
pub const GOOD_END: &str = "exited with status 0";

/// How a process ended, in words that follow its name.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(9)) => "was killed by SIGKILL (somebody ran kill -9, or the kernel was out of memory)".to_owned(),
        (None, Some(signal)) => match signal_name(signal) {
            Some(name) => format!("was killed by {name}"),
            None => format!("was killed by signal {signal}"),
        },
        (None, None) => "was lost".to_owned(),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_handle_of_somebody_elses_process_is_no_childs() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (own, pid) = (std::process::id(), child.id());
        let handle =
            |pid: u32| pidfd_open(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
        assert!(is_child(&handle(pid), pid, own));
        assert!(!is_child(&handle(own), pid, own), "a handle of the gateway under the child's number");
        assert!(!is_child(&handle(own), own, own));
        assert!(!is_child(&handle(pid), pid, pid), "somebody else's child");
        assert!(!is_child(&std::fs::File::open("/dev/null").unwrap().into(), pid, own));
        let last = handle(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_child(&last, pid, own), "one that has been waited for");
    }
}
