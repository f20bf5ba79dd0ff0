//! A worker's process: started by us, or forked by one that has preloaded the application.

use std::{
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
};

use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use tokio::{process::Child, sync::oneshot};

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
    handle: OwnedFd,
    status: oneshot::Receiver<ExitStatus>,
}

impl Forked {
    /// `handle` is its pidfd; `status` comes from its parent when it has ended.
    pub fn new(pid: u32, handle: OwnedFd, status: oneshot::Receiver<ExitStatus>) -> Self {
        Self { pid, handle, status }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
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
            // A parent that cannot tell has ended, and the kernel ends its children with it.
            Self::Forked(forked) => (&mut forked.status).await.ok(),
        }
    }

    /// Sends a signal, if it is still there.
    pub fn signal(&self, signal: Signal) {
        let _ = match self {
            Self::Started(child) => {
                let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                pid.map_or(Ok(()), |pid| kill_process(pid, signal))
            }
            Self::Forked(forked) => pidfd_send_signal(&forked.handle, signal),
        };
    }
}

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
