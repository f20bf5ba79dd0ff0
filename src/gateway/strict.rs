//! HTTP/1 read strictly, underneath the library that reads it.
//!
//! hyper forgives what others in front of us or behind us may read differently: a bare LF as the end of a line, two
//! equal Content-Length fields, a Content-Length beside a Transfer-Encoding, a raw `#` in the request-target. Every
//! request smuggling attack begins with two readings of the same bytes, so a message that has two is refused whole
//! (RFC 9112 sections 2.2, 3.2, 5.1, 5.2, 6.1, 6.3, 7.1), and nothing that stands behind it is read.
//!
//! The [`Scanner`] sees every byte before hyper does and follows the same connection: one [`Verdict`] per head, in order.
//! If hyper ever finds a head that the scanner has not finished, there is no verdict for it, and it is refused as well:
//! a disagreement between the two cannot open anything.

use std::{collections::VecDeque, mem, sync::LazyLock};

/// The longest line of a chunk's size with its extensions. Nobody uses extensions; long ones are an attack.
const CHUNK_LINE_MOST: usize = 256;

/// The most bytes of trailer fields, which are dropped anyway.
const TRAILERS_MOST: usize = 8 * 1024;

/// What the scanner thinks of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has one reading.
    Fine,
    /// It has none, or more than one.
    Bad(&'static str),
}

/// Follows the bytes that a client sends on one connection.
pub struct Scanner {
    state: State,
    /// A line, or a head, that has not ended yet.
    partial: Vec<u8>,
    begun: bool,
    bad_body: Option<BadBody>,
    verdicts: VecDeque<Verdict>,
    head_most: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers(usize),
    /// After a bad head: no byte is passed on any more.
    Stopped,
}

/// The body's framing is broken: the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's body is refused: {0}")]
pub struct BadBody(pub &'static str);

impl Scanner {
    /// Heads are at most `head_most` bytes long.
    #[must_use]
    pub fn new(head_most: usize) -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
            begun: false,
            bad_body: None,
            verdicts: VecDeque::new(),
            head_most,
        }
    }

    /// The verdict on the next head; `None` when that head has not ended, as far as the scanner can tell.
    pub fn verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    /// Whether bytes of a head have come and its end has not.
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.state == State::Head && self.begun
    }

    /// Takes in bytes and tells how many of them may be passed on; the rest is not to be read by anybody.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.state != State::Stopped {
            match self.step(rest) {
                Ok(used) => rest = &rest[used..],
                Err(bad) => {
                    self.bad_body = Some(bad);
                    self.state = State::Stopped;
                }
            }
        }
        bytes.len() - rest.len()
    }

    /// Why the body that was passed on so far cannot be read to its end.
    #[must_use]
    pub fn bad_body(&self) -> Option<BadBody> {
        self.bad_body
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, BadBody> {
        match self.state {
            State::Head => Ok(self.head(bytes)),
            State::Body(left) => Ok(self.skip(bytes, left, State::Body, State::Head)),
            State::ChunkData(left) => Ok(self.skip(bytes, left, State::ChunkData, State::ChunkEnd)),
            State::ChunkSize => self.line(bytes, CHUNK_LINE_MOST, |line| {
                Ok(match chunk_size(line)? {
                    0 => State::Trailers(0),
                    size => State::ChunkData(size),
                })
            }),
            State::ChunkEnd => self.line(bytes, 0, |_| Ok(State::ChunkSize)),
            State::Trailers(seen) => self.line(bytes, TRAILERS_MOST, |line| match line.len() {
                0 => Ok(State::Head),
                more if seen + more > TRAILERS_MOST => Err(BadBody("its trailer fields are too long")),
                more => Ok(State::Trailers(seen + more)),
            }),
            State::Stopped => Ok(0),
        }
    }

    fn skip(&mut self, bytes: &[u8], left: u64, again: impl Fn(u64) -> State, after: State) -> usize {
        let used = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - used as u64;
        self.state = if left == 0 { after } else { again(left) };
        used
    }

    /// A line of a chunked body, without its CRLF; at most `most` bytes.
    fn line(
        &mut self,
        bytes: &[u8],
        most: usize,
        next: impl FnOnce(&[u8]) -> Result<State, BadBody>,
    ) -> Result<usize, BadBody> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.partial.extend_from_slice(bytes);
            return if self.partial.len() > most + 1 { Err(BadBody("a line is too long")) } else { Ok(bytes.len()) };
        };
        self.partial.extend_from_slice(&bytes[..end]);
        let line = mem::take(&mut self.partial);
        let line = line.strip_suffix(b"\r").ok_or(BadBody("a line does not end with CRLF"))?;
        if line.len() > most {
            return Err(BadBody("a line is too long"));
        }
        if line.contains(&b'\r') {
            return Err(BadBody("a bare CR stands in a line"));
        }
        self.state = next(line)?;
        Ok(end + 1)
    }

    /// As much of a head as there is.
    fn head(&mut self, bytes: &[u8]) -> usize {
        self.begun = true;
        if self.partial.is_empty() {
            // An empty line before a request is skipped, as RFC 9112 section 2.2 asks.
            if let Some(rest) = bytes.strip_prefix(b"\r\n") {
                return bytes.len() - rest.len();
            }
            if let Some(end) = end_of_head(bytes) {
                self.judge(&bytes[..end]);
                return end;
            }
            self.partial.extend_from_slice(bytes);
        } else {
            let seen = self.partial.len();
            self.partial.extend_from_slice(bytes);
            // The end may stand across the border of two reads.
            let from = seen.saturating_sub(3);
            if let Some(end) = end_of_head(&self.partial[from..]) {
                let head = mem::take(&mut self.partial);
                self.judge(&head[..from + end]);
                return from + end - seen;
            }
        }
        if self.partial.len() > self.head_most {
            // hyper has its own limit and answers 431; from here on there is no verdict.
            self.state = State::Stopped;
        }
        bytes.len()
    }

    fn judge(&mut self, head: &[u8]) {
        let (verdict, next) = match framing(head) {
            Ok(next) => (Verdict::Fine, next),
            Err(why) => (Verdict::Bad(why), State::Stopped),
        };
        self.verdicts.push_back(verdict);
        self.begun = false;
        self.state = next;
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    // Preparing the search costs as much as a search in a head of usual size.
    static END: LazyLock<memchr::memmem::Finder<'static>> = LazyLock::new(|| memchr::memmem::Finder::new("\r\n\r\n"));
    END.find(bytes).map(|at| at + 4)
}

/// What follows a head, or why it cannot be told.
fn framing(head: &[u8]) -> Result<State, &'static str> {
    let mut lines = head[..head.len() - 4].split(|byte| *byte == b'\n').peekable();
    let request = lines.next().unwrap_or_default();
    let request = whole_line(request, lines.peek().is_none())?;
    let mut words = request.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("The request line is not well formed.");
    };
    if target.contains(&b'#') {
        return Err("The request-target holds a raw #.");
    }
    let (mut length, mut chunked) = (None, false);
    while let Some(line) = lines.next() {
        let line = whole_line(line, lines.peek().is_none())?;
        if line.first().is_none_or(|byte| matches!(byte, b' ' | b'\t')) {
            return Err("A header field is folded over several lines.");
        }
        let colon = memchr::memchr(b':', line).ok_or("A header field has no colon.")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err("The name of a header field is not well formed.");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = number(value).ok_or("Content-Length is not a number.")?;
            if length.replace(value).is_some() {
                return Err("Content-Length comes twice.");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") || version != b"HTTP/1.1" {
                return Err("Transfer-Encoding is something else than chunked, once, in HTTP/1.1.");
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err("Content-Length and Transfer-Encoding contradict each other."),
        // What follows a CONNECT is no HTTP; it is refused, and nothing behind it is read.
        _ if method == b"CONNECT" => Ok(State::Stopped),
        (None, true) => Ok(State::ChunkSize),
        (None | Some(0), false) => Ok(State::Head),
        (Some(length), false) => Ok(State::Body(length)),
    }
}

/// A line of a head without its CR; the last one has lost its line end with the head's.
fn whole_line(line: &[u8], last: bool) -> Result<&[u8], &'static str> {
    let line = if last { line } else { line.strip_suffix(b"\r").ok_or("A line does not end with CRLF.")? };
    if line.contains(&b'\r') { Err("A bare CR stands in the head.") } else { Ok(line) }
}

/// Digits alone: no sign, no list, no space.
fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

fn chunk_size(line: &[u8]) -> Result<u64, BadBody> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BadBody("the size of a chunk is not a hexadecimal number"));
    }
    let digits = std::str::from_utf8(digits).map_err(|_| BadBody("the size of a chunk is not a number"))?;
    u64::from_str_radix(digits, 16).map_err(|_| BadBody("the size of a chunk is not a number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FINE: &[u8] = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    const CHUNKED: &[u8] =
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n";

    fn verdicts(bytes: &[u8]) -> (Vec<Verdict>, usize) {
        let mut scanner = Scanner::new(1000);
        let passed = scanner.take(bytes);
        (std::iter::from_fn(|| scanner.verdict()).collect(), passed)
    }

    #[test]
    fn bodies_are_followed_and_the_next_head_is_found() {
        let all = [FINE, CHUNKED, FINE, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(verdicts(&all), (vec![Verdict::Fine; 4], all.len()));
    }

    #[test]
    fn what_has_two_readings_is_bad_and_nothing_behind_it_is_passed_on() {
        let bad = [
            "GET /a#b HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\n\nGET /second HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\rB: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\r\r\n\r\n",
            "GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nA : 1\r\n\r\n",
            "GET / HTTP/1.1\r\n: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nnocolon\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0x3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        for head in bad {
            let all = format!("{head}GET /second HTTP/1.1\r\n\r\n");
            let (verdicts, passed) = verdicts(all.as_bytes());
            assert!(matches!(verdicts[..], [Verdict::Bad(_)]), "{head:?}: {verdicts:?}");
            assert!(passed < all.len(), "{head:?}");
        }
    }

    #[test]
    fn a_chunked_body_with_two_readings_breaks_the_connection() {
        for chunks in [
            "3\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n",
            "-1\r\n",
            "3 \r\nabc\r\n",
            "\r\n",
            "3\r\nabcX\r\n",
            "11111111111111111\r\n",
        ] {
            let all = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            let mut scanner = Scanner::new(1000);
            assert!(scanner.take(all.as_bytes()) < all.len() && scanner.bad_body().is_some(), "{chunks:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(cuts in prop::collection::vec(1usize..20, 1..200)) {
            let all = [FINE, CHUNKED, CHUNKED, FINE].concat();
            let mut scanner = Scanner::new(1000);
            let (mut rest, mut cuts) = (&all[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                prop_assert_eq!(scanner.take(now), now.len());
                rest = later;
            }
            prop_assert_eq!(std::iter::from_fn(|| scanner.verdict()).collect::<Vec<_>>(), vec![Verdict::Fine; 4]);
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut scanner = Scanner::new(100);
            prop_assert!(scanner.take(&bytes) <= bytes.len());
        }
    }
}
