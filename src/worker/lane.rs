//! One lane: frames to and from one data thread of the gateway.
//!
//! Anybody may put a frame into the output at any time; it is held there until somebody flushes, so that many small
//! answers leave in one write. Only one thread writes to the socket at a time, and whoever finds it busy leaves: the
//! writer looks again before it goes.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;
use portcullis_wire::{FileRange, Frame, Malformed, take_frame};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg},
};

use crate::control::forked;

/// Room made for one read: a whole turn of the gateway's event loop, or one chunk of a body with its header.
const READ: usize = 80 * 1024;

/// A write buffer that grew beyond this is given back instead of being kept for the next batch.
const KEEP: usize = 256 * 1024;

/// One way to the gateway.
pub(crate) struct Lane {
    pub(crate) socket: OwnedFd,
    /// What descriptors of files leave by.
    pub(crate) files: OwnedFd,
    gone: AtomicBool,
    /// Held while frames are read *and* routed, which keeps their order whoever reads.
    input: Mutex<BytesMut>,
    held: AtomicBool,
    output: Mutex<Output>,
}

#[derive(Default)]
struct Output {
    /// Whole frames that wait for the next flush.
    ready: BytesMut,
    /// The buffer before, of which `sent` bytes have left already.
    leaving: BytesMut,
    sent: usize,
    writing: bool,
}

/// Whether a flush may wait for the gateway to make room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Come back instead: the caller holds the GIL.
    None,
    /// Wait; the caller holds neither the GIL nor a lock.
    Endless,
}

impl Lane {
    fn new(socket: OwnedFd, files: OwnedFd) -> Self {
        Self {
            socket,
            files,
            gone: AtomicBool::new(false),
            input: Mutex::default(),
            held: AtomicBool::new(false),
            output: Mutex::default(),
        }
    }

    /// Lanes out of sockets in the order in which they are sent: frames, files, and so on.
    pub(crate) fn of_pairs(sockets: Vec<OwnedFd>) -> Vec<Self> {
        let mut sockets = sockets.into_iter();
        let mut lanes = Vec::new();
        while let (Some(frames), Some(files)) = (sockets.next(), sockets.next()) {
            lanes.push(Self::new(frames, files));
        }
        lanes
    }

    /// Whether the other end is closed or broken.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Marks the lane as useless; true for the first to say so.
    pub(crate) fn abandon(&self) -> bool {
        !self.gone.swap(true, Ordering::Relaxed)
    }

    /// Lets `write` add whole frames to the output; tells how many bytes are held back now.
    pub(crate) fn put(&self, write: impl FnOnce(&mut BytesMut)) -> usize {
        let mut output = self.output();
        if self.is_gone() || forked() {
            return 0;
        }
        write(&mut output.ready);
        self.held.store(true, Ordering::Relaxed);
        output.ready.len()
    }

    /// Hands a part of a file over as the next part of an answer's body. False when that cannot be done now, and nothing
    /// was sent.
    pub(crate) fn put_file(&self, request: u32, file: BorrowedFd<'_>, range: FileRange) -> bool {
        // Held over both, so that descriptors leave in the order of their frames.
        let mut output = self.output();
        if self.is_gone() || forked() {
            return false;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file];
        let name = request.to_le_bytes();
        let sent = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors))
            && sendmsg(&self.files, &[IoSlice::new(&name)], &mut ancillary, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                == Ok(name.len());
        if sent {
            range.put(&mut output.ready, request);
            self.held.store(true, Ordering::Relaxed);
        }
        sent
    }

    /// Hands what is held to the socket. False when the socket is full and the caller had no patience.
    pub(crate) fn flush(&self, patience: Patience) -> bool {
        if !self.held.load(Ordering::Relaxed) || forked() {
            return true;
        }
        let mut output = self.output();
        if output.writing {
            return true;
        }
        output.writing = true;
        loop {
            if output.sent == output.leaving.len() {
                output.sent = 0;
                output.recycle();
                if output.leaving.is_empty() {
                    output.writing = false;
                    self.held.store(false, Ordering::Relaxed);
                    return true;
                }
            }
            let (leaving, sent) = (std::mem::take(&mut output.leaving), output.sent);
            drop(output);
            let result = send(&self.socket, &leaving[sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            if result == Err(Errno::AGAIN) && patience == Patience::Endless {
                self.wait_for_room();
            }
            output = self.output();
            output.leaving = leaving;
            match result {
                Ok(more) => output.sent = sent + more,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if patience == Patience::Endless => {}
                Err(Errno::AGAIN) => {
                    output.writing = false;
                    return false;
                }
                // The reader of this lane finds the same and tells the requests.
                Err(_) => {
                    *output = Output::default();
                    self.held.store(false, Ordering::Relaxed);
                    return true;
                }
            }
        }
    }

    /// Takes what one read gives and hands every whole frame to `route`, in order. Tells whether there may be more.
    ///
    /// # Errors
    /// The lane is over: closed by the gateway, or a frame that is none.
    pub(crate) fn read(&self, route: impl FnOnce(&mut Vec<Frame>)) -> Result<bool, Malformed> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.reserve(READ);
        let room = input.spare_capacity_mut();
        let size = room.len();
        let read = match recv(&self.socket, room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Malformed("closed by the gateway")),
            Ok((_, read)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(_) => return Err(Malformed("broken connection")),
        };
        let length = input.len() + read;
        // SAFETY: `recv` has initialised the first `read` bytes of the spare capacity.
        unsafe { input.set_len(length) };
        let mut frames = Vec::with_capacity(32);
        let mut end = Ok(read == size);
        loop {
            match take_frame(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(malformed) => {
                    end = Err(malformed);
                    break;
                }
            }
        }
        route(&mut frames);
        end
    }

    fn wait_for_room(&self) {
        let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], None);
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output {
    /// What was ready is leaving now; the buffer that has left takes its place, empty.
    fn recycle(&mut self) {
        std::mem::swap(&mut self.ready, &mut self.leaving);
        self.ready.clear();
        if self.ready.capacity() > KEEP {
            self.ready = BytesMut::new();
        }
    }
}
