//! Frames between the gateway and its workers.
//!
//! A *lane* is a stream socket between one data thread of the gateway and one worker. Both sides write
//! [frames](Frame): a nine-byte header and a payload.
//!
//! ```text
//! u32 length of the payload | u32 request | u8 kind | payload      (little-endian)
//! ```
//!
//! Many requests share a lane; `request` tells them apart. A request runs like this, `->` being gateway to worker:
//!
//! ```text
//! -> Request            head, and the body when it is small
//! -> Body .. BodyEnd    otherwise, within the window that BodyCredit renews; BodyAbort if the client goes away
//! <- Response           an answer that is complete at once: the common case, one frame
//! <- Head Data .. End   otherwise, within the window that Credit renews
//! <- Head File End      the body is a file: its descriptor travels on the lane's second socket
//! <- Fail               the application failed: before Head a 500, after it a visible truncation
//! -> Probe, Withdraw    a request that takes long: <- Progress, or <- Fail if it was withdrawn before it had begun
//! -> Cancel             nobody wants the answer any more; the worker still closes with End or Fail
//! ```
//!
//! Each worker also has one *control* socket with the same framing (request 0): [`Kind::Boot`], lanes as
//! descriptors (two sockets each: frames, and files), [`Kind::Ready`] or [`Kind::BootError`], [`Kind::Log`], [`Kind::Interrupt`], [`Kind::Ping`] and [`Kind::Pong`], [`Kind::Stop`].
//!
//! Neither side trusts the other: every length is checked before it is used, every payload parser returns
//! [`Malformed`] instead of panicking, and nothing here allocates by a length that was merely announced.

mod control;
mod frame;
mod request;
mod response;

pub use control::{Boot, Interrupt, Level, Log, Ready};
pub use frame::{
    Frame, HEADER, INITIAL_WINDOW, Kind, MAX_CHUNK, MAX_FRAME, NOT_BEGUN, begin, end, put_empty, put_frame, put_u32,
    take_frame, u32_payload,
};
pub use request::{BodyKind, Identity, Pairs, Protocol, RequestHead, Strings};
pub use response::{FailKind, FileRange, ResponseHead, fail_payload, put_fail};

/// A payload that does not follow this protocol. The peer that sent it is broken or hostile; its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(
    /// What was being read, for the log.
    pub &'static str,
);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed frame: {}", self.0)
    }
}

impl std::error::Error for Malformed {}
