//! The control socket: what the gateway says about the worker as a whole, and the application's log lines.
//!
//! Reading is the business of one native thread that blocks without the GIL, so an interruption gets through however
//! busy the application is. Writing is for anybody, whole frames at a time.

use std::{
    io::IoSliceMut,
    mem::{ManuallyDrop, MaybeUninit},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;
use portcullis_wire::{Frame, Kind, Malformed, put_frame, take_frame};
use pyo3::prelude::*;
use rustix::{
    fs::{Mode, OFlags},
    io::{DupFlags, Errno},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send},
};

use crate::crew::{Crew, crew};

/// The most lanes one worker can have: one bit each where lanes are listed, and far more than data threads.
pub(crate) const MAX_LANES: usize = 64;

/// What one read of the control socket asks for: its frames are rare and small.
const READ: usize = 16 * 1024;

static CONTROL: OnceLock<Control> = OnceLock::new();

/// Set in a child that the application forked: the sockets belong to the parent.
static FORKED: AtomicBool = AtomicBool::new(false);

/// This end of the control socket.
pub(crate) struct Control {
    socket: OwnedFd,
    writing: Mutex<()>,
}

/// The reading half: what has come but is not a whole frame yet.
pub(crate) struct Inbox {
    buffer: BytesMut,
    /// Descriptors that came along with the bytes.
    pub(crate) attached: Vec<OwnedFd>,
}

/// Takes the control socket from descriptor 0, where a child of the application could inherit it, to one that closes
/// on exec, and leaves `/dev/null` there.
pub(crate) fn adopt_stdin() -> rustix::io::Result<()> {
    // SAFETY: descriptor 0 is open (the gateway put the socket there), nothing else in this process owns it, and it
    // stays open: `ManuallyDrop` keeps this owner from closing it.
    let mut zero = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(0) });
    let socket = rustix::io::fcntl_dupfd_cloexec(&*zero, 3)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())?;
    rustix::io::dup2(&null, &mut zero)?;
    let _ = CONTROL.set(Control { socket, writing: Mutex::new(()) });
    Ok(())
}

/// The control socket, once [`adopt_stdin`] has run.
pub(crate) fn control() -> Option<&'static Control> {
    CONTROL.get().filter(|_| !forked())
}

/// Whether this process is a child that the application forked.
pub(crate) fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Called in a forked child: from here on its output goes to the pipes, and it never speaks for the worker. Its copies
/// of the sockets are replaced, so that the gateway sees them close when the worker itself ends.
#[pyfunction]
pub(crate) fn after_fork() {
    FORKED.store(true, Ordering::Relaxed);
    let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { return };
    let control = CONTROL.get().map(|control| &control.socket);
    for socket in control.into_iter().chain(crew().into_iter().flat_map(Crew::sockets)) {
        // SAFETY: the descriptor is open and stays so under the same number; `ManuallyDrop` keeps this second owner
        // from closing it.
        let mut socket = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(socket.as_raw_fd()) });
        let _ = rustix::io::dup3(&null, &mut socket, DupFlags::CLOEXEC);
    }
}

impl Control {
    /// Writes one frame, waiting while the gateway is slow; call it without the GIL. A gateway that is gone is noticed
    /// by the reader, so nothing is reported here.
    pub(crate) fn send(&self, kind: Kind, payload: &[u8]) {
        let mut frame = BytesMut::with_capacity(payload.len() + portcullis_wire::HEADER);
        put_frame(&mut frame, 0, kind, payload);
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits for the next frame; `None` when the gateway is gone or does not follow the protocol.
    pub(crate) fn receive(&self, inbox: &mut Inbox) -> Option<Frame> {
        loop {
            match take_frame(&mut inbox.buffer) {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(Malformed(_)) => return None,
            }
            match self.read(inbox) {
                Ok(0) => return None,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn read(&self, inbox: &mut Inbox) -> rustix::io::Result<usize> {
        let mut bytes = [0; READ];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2 * MAX_LANES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message =
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        inbox.buffer.extend_from_slice(&bytes[..message.bytes]);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                inbox.attached.extend(descriptors);
            }
        }
        Ok(message.bytes)
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: BytesMut::new(), attached: Vec::new() }
    }
}
