//! The control socket: what the gateway says about the worker as a whole, and the application's log lines.
//!
//! Reading is the business of one native thread that blocks without the GIL, so an interruption gets through however
//! busy the application is. Writing is for anybody, whole frames at a time.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::{ManuallyDrop, MaybeUninit},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;
use portcullis_wire::{Frame, Kind, put_frame, take_frame};
use pyo3::prelude::*;
use rustix::{
    fs::{Mode, OFlags},
    io::{DupFlags, Errno},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, send, sendmsg,
    },
};

use crate::crew::{Crew, crew};

/// The most lanes one worker can have: one bit each where lanes are listed, and far more than data threads.
pub(crate) const MAX_LANES: usize = 64;

/// What one read of the control socket asks for: its frames are rare and small.
const READ: usize = 16 * 1024;

static CONTROL: OnceLock<Control> = OnceLock::new();

/// That of a worker that was forked from the process which imported its application.
static OF_FORKED_WORKER: OnceLock<Control> = OnceLock::new();

/// The next fork makes a worker, and no child of the application's own.
static EXPECTED: AtomicBool = AtomicBool::new(false);

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
    OF_FORKED_WORKER.get().or_else(|| CONTROL.get()).filter(|_| !forked())
}

/// The process is about to be forked by us, for a worker.
pub(crate) fn expect_worker() {
    EXPECTED.store(true, Ordering::Relaxed);
}

/// In such a worker: takes its own control socket, standard output and standard error instead of those of its parent.
pub(crate) fn begin_anew(descriptors: Vec<OwnedFd>) -> rustix::io::Result<()> {
    let Ok([socket, out, err]) = <[OwnedFd; 3]>::try_from(descriptors) else { return Err(Errno::PROTO) };
    replace_by_null(CONTROL.get().map(|control| &control.socket))?;
    rustix::stdio::dup2_stdout(&out)?;
    rustix::stdio::dup2_stderr(&err)?;
    let _ = OF_FORKED_WORKER.set(Control { socket, writing: Mutex::new(()) });
    Ok(())
}

/// Whether this process is a child that the application forked.
pub(crate) fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Called in a forked child: from here on its output goes to the pipes, and it never speaks for the worker. Its copies
/// of the sockets are replaced, so that the gateway sees them close when the worker itself ends.
#[pyfunction]
pub(crate) fn after_fork() {
    if EXPECTED.swap(false, Ordering::Relaxed) {
        return;
    }
    FORKED.store(true, Ordering::Relaxed);
    let controls = [&CONTROL, &OF_FORKED_WORKER].into_iter().filter_map(OnceLock::get);
    let sockets = controls.map(|control| &control.socket).chain(crew().into_iter().flat_map(Crew::sockets));
    // Without a descriptor to spare they stay what they are, and nothing of ours uses them.
    let _ = replace_by_null(sockets);
}

/// Makes descriptors of other files stand for nothing, under the same numbers.
fn replace_by_null<'a>(descriptors: impl IntoIterator<Item = &'a OwnedFd>) -> rustix::io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    descriptors.into_iter().try_for_each(|descriptor| {
        // SAFETY: the descriptor is open and stays so under the same number; `ManuallyDrop` keeps this second owner
        // from closing it.
        let mut descriptor = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor.as_raw_fd()) });
        rustix::io::dup3(&null, &mut descriptor, DupFlags::CLOEXEC)
    })
}

impl Control {
    /// Writes one frame, waiting while the gateway is slow; call it without the GIL. A gateway that is gone is noticed
    /// by the reader, so nothing is reported here.
    pub(crate) fn send(&self, kind: Kind, payload: &[u8]) {
        let mut frame = BytesMut::with_capacity(payload.len() + portcullis_wire::HEADER);
        put_frame(&mut frame, 0, kind, payload);
        self.send_bytes(&frame);
    }

    /// Writes a whole frame, as [`Control::send`] does.
    pub(crate) fn send_bytes(&self, frame: &[u8]) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = frame;
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// The same with a descriptor attached to its first byte.
    pub(crate) fn send_with(&self, frame: &[u8], descriptor: BorrowedFd<'_>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return;
        }
        let sent = {
            let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            sendmsg(&self.socket, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL)
        };
        // A frame of a few bytes leaves whole or not at all; a gateway that is gone is noticed by the reader.
        debug_assert!(sent.is_err() || sent == Ok(frame.len()));
    }

    /// For waiting until there is something to receive.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The next frame of those that have been read; `None` in place of a peer that does not follow the protocol.
    pub(crate) fn received(&self, inbox: &mut Inbox) -> Option<Option<Frame>> {
        take_frame(&mut inbox.buffer).ok()
    }

    /// Reads what there is; false when the gateway is gone.
    pub(crate) fn read_more(&self, inbox: &mut Inbox) -> bool {
        matches!(self.read(inbox), Ok(1..) | Err(Errno::INTR))
    }

    /// Waits for the next frame; `None` when the gateway is gone or does not follow the protocol.
    pub(crate) fn receive(&self, inbox: &mut Inbox) -> Option<Frame> {
        loop {
            if let Some(frame) = self.received(inbox)? {
                return Some(frame);
            }
            if !self.read_more(inbox) {
                return None;
            }
        }
    }

    fn read(&self, inbox: &mut Inbox) -> rustix::io::Result<usize> {
        let mut bytes = [0; READ];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3 + 2 * MAX_LANES))];
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
