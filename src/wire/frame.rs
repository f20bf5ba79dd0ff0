//! The frame itself: header, kinds, limits.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Malformed;

/// Bytes before the payload.
pub const HEADER: usize = 9;

/// The largest payload either side accepts. A request head is at most 128 KiB, a [`MAX_CHUNK`] half of that; the
/// rest is room for a complete [`Kind::Response`]. More than this is a broken peer.
pub const MAX_FRAME: usize = 512 * 1024;

/// The most body bytes in one [`Kind::Body`] or [`Kind::Data`] frame: small enough that other requests on the lane are
/// not held up behind it.
pub const MAX_CHUNK: usize = 64 * 1024;

/// Body bytes that may be under way in one direction of one request before the reader has to grant more. Bounds the
/// memory that a slow reader can tie up.
pub const INITIAL_WINDOW: u32 = 256 * 1024;

/// What [`Kind::Progress`] says of a request that no thread has taken yet.
pub const NOT_BEGUN: u32 = u32::MAX;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Gateway: a request head, see [`crate::RequestHead`], and its body when that is complete.
    Request = 1,
    /// Gateway: a piece of the request's body, at most [`MAX_CHUNK`].
    Body = 2,
    /// Gateway: the body is complete.
    BodyEnd = 3,
    /// Gateway: the client went away in mid-body; reading raises `OSError`.
    BodyAbort = 4,
    /// Gateway: the worker may send `u32` more bytes of this response.
    Credit = 5,
    /// Gateway: the answer is not wanted any more.
    Cancel = 6,
    /// Gateway: how is that request doing? The answer is [`Kind::Progress`].
    Probe = 7,
    /// Gateway: its time in the queue is up. The worker drops it if it has not begun, and says so with [`Kind::Fail`];
    /// else the answer is [`Kind::Progress`].
    Withdraw = 8,

    /// Worker: a complete answer, head and body.
    Response = 16,
    /// Worker: status and headers, the body follows.
    Head = 17,
    /// Worker: a piece of the response's body, at most [`MAX_CHUNK`].
    Data = 18,
    /// Worker: the response is complete, `close()` has been called.
    End = 19,
    /// Worker: the application failed; see [`crate::FailKind`].
    Fail = 20,
    /// Worker: the gateway may send `u32` more bytes of the request's body.
    BodyCredit = 21,
    /// Worker: the next bytes of the response are those of a file, see [`crate::FileRange`]; its descriptor has been sent on
    /// the lane's second socket before this frame.
    File = 22,
    /// Worker: the request has been running for `u32` milliseconds, or has not begun: [`NOT_BEGUN`].
    Progress = 23,

    /// Control, gateway: what to run, see [`crate::Boot`].
    Boot = 32,
    /// Control, gateway: `u32` lanes are attached to this frame as descriptors (`SCM_RIGHTS`).
    Lanes = 33,
    /// Control, gateway: raise in the thread that runs a request, see [`crate::Interrupt`].
    Interrupt = 34,
    /// Control, gateway: finish what is running, run `atexit`, leave.
    Stop = 35,
    /// Control, gateway: is the interpreter alive?
    Ping = 36,
    /// Control, gateway, to a process that has preloaded its application: fork a worker with the attached descriptors: its
    /// control socket, standard output, standard error, and `u32` lanes.
    Fork = 37,
    /// Control, worker: the callable is imported, see [`crate::Ready`].
    Ready = 48,
    /// Control, worker: it could not be imported; the payload is the traceback as UTF-8. The worker leaves.
    BootError = 49,
    /// Control, worker: a line for the application's log, see [`crate::Log`].
    Log = 50,
    /// Control, worker: Python code can run; the answer to [`Kind::Ping`].
    Pong = 51,
    /// Control, worker: `u32` is the process id of the worker that was ordered by [`Kind::Fork`]; its pidfd is attached.
    Forked = 52,
    /// Control, worker: the process `u32` has ended with the wait status `i32`.
    Exited = 53,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Body,
            3 => Self::BodyEnd,
            4 => Self::BodyAbort,
            5 => Self::Credit,
            6 => Self::Cancel,
            7 => Self::Probe,
            8 => Self::Withdraw,
            16 => Self::Response,
            17 => Self::Head,
            18 => Self::Data,
            19 => Self::End,
            20 => Self::Fail,
            21 => Self::BodyCredit,
            22 => Self::File,
            23 => Self::Progress,
            32 => Self::Boot,
            33 => Self::Lanes,
            34 => Self::Interrupt,
            35 => Self::Stop,
            36 => Self::Ping,
            37 => Self::Fork,
            48 => Self::Ready,
            49 => Self::BootError,
            50 => Self::Log,
            51 => Self::Pong,
            52 => Self::Forked,
            53 => Self::Exited,
            _ => return None,
        })
    }
}

/// One frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which request of this lane; 0 on the control socket.
    pub request: u32,
    /// What it says.
    pub kind: Kind,
    /// What follows the header.
    pub payload: Bytes,
}

/// Takes the next complete frame off the front of `buffer`, without copying.
///
/// `Ok(None)` means that more bytes are needed.
///
/// # Errors
/// An unknown kind or a payload larger than [`MAX_FRAME`], told from the header alone.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let request = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let kind = Kind::from_byte(header[8]).ok_or(Malformed("unknown kind of frame"))?;
    if length > MAX_FRAME {
        return Err(Malformed("frame longer than the limit"));
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let mut whole = buffer.split_to(HEADER + length).freeze();
    Ok(Some(Frame { request, kind, payload: whole.split_off(HEADER) }))
}

/// Opens a frame whose payload is written straight into `out`; [`end`] closes it. Returns where it began.
pub fn begin(out: &mut BytesMut, request: u32, kind: Kind) -> usize {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u32_le(request);
    out.put_u8(kind as u8);
    start
}

/// Closes the frame that [`begin`] opened at `start`.
///
/// # Panics
/// If the payload exceeds `u32`; callers stay below [`MAX_FRAME`], which the other side enforces.
pub fn end(out: &mut BytesMut, start: usize) {
    let length = u32::try_from(out.len() - start - HEADER).expect("a frame below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Writes a whole frame.
pub fn put_frame(out: &mut BytesMut, request: u32, kind: Kind, payload: &[u8]) {
    let start = begin(out, request, kind);
    out.put_slice(payload);
    end(out, start);
}

/// Writes a frame without a payload.
pub fn put_empty(out: &mut BytesMut, request: u32, kind: Kind) {
    put_frame(out, request, kind, &[]);
}

/// Writes a frame whose payload is one number: [`Kind::Credit`], [`Kind::BodyCredit`], [`Kind::Lanes`].
pub fn put_u32(out: &mut BytesMut, request: u32, kind: Kind, value: u32) {
    put_frame(out, request, kind, &value.to_le_bytes());
}

/// Reads the payload that [`put_u32`] wrote.
///
/// # Errors
/// A payload of another size.
pub fn u32_payload(payload: &[u8]) -> Result<u32, Malformed> {
    payload.try_into().map(u32::from_le_bytes).map_err(|_| Malformed("a number of four bytes"))
}

/// Reads a payload from the front; every step is bounds-checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.bytes(1, what).map(|b| b[0])
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.bytes(2, what).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.bytes(4, what).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.bytes(8, what).map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A `u32` length and that many bytes.
    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let length = self.u32(what)? as usize;
        self.bytes(length, what)
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string(what)?).map_err(|_| Malformed(what))
    }

    pub(crate) fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed(what)) }
    }
}

/// Writes a `u32` length and the bytes.
pub(crate) fn put_string(out: &mut BytesMut, bytes: &[u8]) {
    // A longer string would be cut here; the frame it makes is over MAX_FRAME and refused whole by the reader.
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

/// Writes a `u16` count.
pub(crate) fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16_le(u16::try_from(count).unwrap_or(u16::MAX));
}
