//! The response head, written by the worker and read by the gateway; the worker is not trusted.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Kind, Malformed, begin, end,
    frame::{Reader, put_count, put_string},
    request::Pairs,
};

/// Status and headers of an answer: the payload of [`crate::Kind::Head`], and the beginning of that of
/// [`crate::Kind::Response`], whose remainder is the body.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    /// Three digits.
    pub status: u16,
    /// The reason phrase as the application gave it, latin-1.
    pub reason: &'a [u8],
    /// How long the request waited in the worker before it ran, microseconds.
    pub queued_us: u32,
    /// In order, as the application gave them.
    pub headers: Pairs<'a>,
}

impl<'a> ResponseHead<'a> {
    /// Writes a head; what follows it in the same frame is the body.
    pub fn put<'h>(
        out: &mut BytesMut,
        status: u16,
        reason: &[u8],
        queued_us: u32,
        headers: impl ExactSizeIterator<Item = (&'h [u8], &'h [u8])>,
    ) {
        out.put_u16_le(status);
        out.put_u32_le(queued_us);
        put_string(out, reason);
        put_count(out, headers.len());
        for (name, value) in headers {
            put_string(out, name);
            put_string(out, value);
        }
    }

    /// Reads a head and tells how many bytes of the payload it took.
    ///
    /// # Errors
    /// Any payload that [`ResponseHead::put`] could not have written.
    pub fn parse(payload: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let mut r = Reader(payload);
        let head = Self {
            status: r.u16("status")?,
            queued_us: r.u32("queue time")?,
            reason: r.string("reason phrase")?,
            headers: Pairs::parse(&mut r)?,
        };
        Ok((head, payload.len() - r.0.len()))
    }
}

/// The part of a file that is the body of a response, or its rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    /// Where it begins in the file, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
}

impl FileRange {
    /// Writes a [`crate::Kind::File`] frame.
    pub fn put(self, out: &mut BytesMut, request: u32) {
        let start = begin(out, request, Kind::File);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.length);
        end(out, start);
    }

    /// Reads its payload.
    ///
    /// # Errors
    /// Another size than two numbers, or a range that ends beyond what a file can have.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(payload);
        let range = Self { offset: r.u64("offset")?, length: r.u64("length")? };
        r.finish("bytes after a file")?;
        match range.offset.checked_add(range.length) {
            Some(end) if i64::try_from(end).is_ok() => Ok(range),
            _ => Err(Malformed("a file longer than any")),
        }
    }
}

/// Why there is no (whole) answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailKind {
    /// The application raised; its traceback is in its log.
    Exception = 1,
    /// The application broke PEP 3333 (no `start_response`, a chunk that is not bytes, ..).
    Protocol = 2,
    /// The body ended before its Content-Length.
    Truncated = 3,
    /// The request was cancelled or interrupted by the gateway and has come to its end.
    Cancelled = 4,
    /// It was withdrawn before it had begun.
    NotBegun = 5,
}

/// Writes a [`crate::Kind::Fail`] frame; `queued_us` as in [`ResponseHead`].
pub fn put_fail(out: &mut BytesMut, request: u32, kind: FailKind, queued_us: u32) {
    let start = begin(out, request, Kind::Fail);
    out.put_u8(kind as u8);
    out.put_u32_le(queued_us);
    end(out, start);
}

/// Reads the payload of a [`crate::Kind::Fail`] frame: why, and the queue time in microseconds.
///
/// # Errors
/// An unknown kind or another size.
pub fn fail_payload(payload: &Bytes) -> Result<(FailKind, u32), Malformed> {
    let mut r = Reader(payload);
    let kind = match r.u8("kind of failure")? {
        1 => FailKind::Exception,
        2 => FailKind::Protocol,
        3 => FailKind::Truncated,
        4 => FailKind::Cancelled,
        5 => FailKind::NotBegun,
        _ => return Err(Malformed("kind of failure")),
    };
    let queued_us = r.u32("queue time")?;
    r.finish("bytes after a failure")?;
    Ok((kind, queued_us))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            status in 0u16..1000,
            headers in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..20)), 0..9),
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut out = BytesMut::new();
            ResponseHead::put(&mut out, status, b"Fine", 7, headers.iter().map(|(n, v)| (n.as_slice(), v.as_slice())));
            out.put_slice(&body);
            let range = FileRange { offset: u64::from(status), length: body.len() as u64 };
            let mut frame = BytesMut::new();
            range.put(&mut frame, 7);
            prop_assert_eq!(FileRange::parse(&frame[crate::HEADER..]), Ok(range));
            let (head, used) = ResponseHead::parse(&out).unwrap();
            prop_assert_eq!(head.status, status);
            prop_assert_eq!(head.queued_us, 7);
            prop_assert_eq!(head.reason, b"Fine");
            prop_assert_eq!(head.headers.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect::<Vec<_>>(), headers);
            prop_assert_eq!(&out[used..], body.as_slice());
        }

        #[test]
        fn any_bytes_are_a_head_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((head, used)) = ResponseHead::parse(&bytes) {
                prop_assert!(used <= bytes.len());
                prop_assert_eq!(head.headers.iter().count(), usize::from(head.headers.count()));
            }
            if let Ok(FileRange { offset, length }) = FileRange::parse(&bytes) {
                prop_assert!(i64::try_from(offset + length).is_ok());
            }
            let _ = fail_payload(&Bytes::from(bytes));
        }
    }
}
