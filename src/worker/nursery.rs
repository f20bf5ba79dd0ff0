//! `preload`: the application is imported once, and workers are forked from that process.
//!
//! What the import has made is shared between them until somebody writes to it, and a further worker costs a fork instead
//! of an import. The process that imported never serves: it waits for orders, forks, and tells how its children end.
//! Everything that speaks to the gateway as a worker (lanes, crew, native threads) is made after the fork, because no
//! thread but the forking one survives it.

use std::os::fd::{AsFd, OwnedFd};

use bytes::{BufMut, BytesMut};
use portcullis_wire::{Kind, begin, end, put_u32, u32_payload};
use pyo3::{exceptions::PyRuntimeError, intern, prelude::*};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, set_parent_process_death_signal, waitpid},
};

use crate::{
    control::{self, Control, Inbox},
    lane::Lane,
};

/// Descriptors that come with [`Kind::Fork`] before those of the lanes: control socket, standard output, standard error.
const PERSONAL: usize = 3;

/// A forked worker, as its parent knows it.
struct Child {
    pid: Pid,
    /// Readable when it has ended.
    handle: OwnedFd,
}

/// Forks workers on order. Returns in each of them, with its lanes; in the process that imported, when the gateway has no
/// more orders.
///
/// # Errors
/// There cannot be a further process.
pub(crate) fn tend(py: Python<'_>, control: &'static Control, inbox: &mut Inbox) -> PyResult<Option<Vec<Lane>>> {
    freeze(py)?;
    let mut children = Vec::new();
    loop {
        let order = py.detach(|| next_order(control, inbox, &mut children));
        let Some(mut descriptors) = order else { return Ok(None) };
        let lanes = descriptors.split_off(PERSONAL);
        control::expect_worker();
        let pid: i32 = py.import("os")?.call_method0(intern!(py, "fork"))?.extract()?;
        if pid == 0 {
            control::begin_anew(descriptors).map_err(broken)?;
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(broken)?;
            *inbox = Inbox::new();
            return Ok(Some(Lane::of_pairs(lanes)));
        }
        // Nobody else waits for it, so its number is its own until we have.
        let child = Pid::from_raw(pid).ok_or_else(|| PyRuntimeError::new_err("fork() gave no process"))?;
        let handle = pidfd_open(child, PidfdFlags::empty()).map_err(broken)?;
        let mut message = BytesMut::new();
        put_u32(&mut message, 0, Kind::Forked, pid.cast_unsigned());
        control.send_with(&message, handle.as_fd());
        children.push(Child { pid: child, handle });
    }
}

/// Objects that exist now are taken out of the garbage collector's sight: looking at them would write to every page.
fn freeze(py: Python<'_>) -> PyResult<()> {
    let gc = py.import("gc")?;
    gc.call_method0("collect")?;
    gc.call_method0("freeze").map(|_| ())
}

/// The descriptors of the next worker; `None` when none is wanted any more. Children that end meanwhile are reported.
fn next_order(control: &Control, inbox: &mut Inbox, children: &mut Vec<Child>) -> Option<Vec<OwnedFd>> {
    loop {
        while let Some(frame) = control.received(inbox)? {
            match frame.kind {
                Kind::Fork => {
                    let lanes = u32_payload(&frame.payload).ok()? as usize;
                    let descriptors = std::mem::take(&mut inbox.attached);
                    return Some(descriptors).filter(|all| all.len() == PERSONAL + 2 * lanes && lanes > 0);
                }
                Kind::Stop => return None,
                // Only a process that serves is asked whether it is alive.
                _ => {}
            }
        }
        let mut watched: Vec<_> = children.iter().map(|child| PollFd::new(&child.handle, PollFlags::IN)).collect();
        watched.push(PollFd::new(control.socket(), PollFlags::IN));
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let speaks = watched.pop().is_some_and(|fd| !fd.revents().is_empty());
        children.retain(|child| !report_if_ended(control, child));
        if speaks && !control.read_more(inbox) {
            return None;
        }
    }
}

fn report_if_ended(control: &Control, child: &Child) -> bool {
    let Ok(Some((_, status))) = waitpid(Some(child.pid), WaitOptions::NOHANG) else { return false };
    let mut message = BytesMut::new();
    let start = begin(&mut message, 0, Kind::Exited);
    message.put_u32_le(child.pid.as_raw_nonzero().get().cast_unsigned());
    message.put_i32_le(status.as_raw());
    end(&mut message, start);
    control.send_bytes(&message);
    true
}

fn broken(error: Errno) -> PyErr {
    PyRuntimeError::new_err(format!("portcullis: a worker cannot be forked: {error}"))
}
