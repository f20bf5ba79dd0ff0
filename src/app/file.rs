//! A file that an answer consists of, handed over by the worker as a descriptor and read as the client takes it: the
//! worker is free for its next request, and a slow client holds nothing but a descriptor.
//!
//! The worker is not trusted. Only regular files are accepted, since reading anything else may wait for ever; reading
//! is by position, so that the offset which both processes share does not matter; nothing is mapped, so a file that is
//! cut meanwhile ends the answer and not the gateway.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::{fd::OwnedFd, unix::fs::FileExt},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use portcullis_wire::{FileRange, Malformed};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

/// One read. Large enough that a read costs little beside its TLS records, small enough that other requests of the data
/// thread do not wait for it.
const CHUNK: u64 = 128 * 1024;

/// A part of a file on its way to a client.
#[derive(Debug)]
pub struct SentFile {
    file: Arc<File>,
    range: FileRange,
    /// A read that could not be done from the page cache, on another thread.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl SentFile {
    /// Takes what a worker has sent.
    ///
    /// # Errors
    /// It is no regular file, or shorter than what is to be sent of it.
    pub(super) fn new(descriptor: OwnedFd, range: FileRange) -> Result<Self, Malformed> {
        let file = File::from(descriptor);
        match file.metadata() {
            // Files of /proc look regular and have no size; they would tell us what they tell no worker.
            Ok(data) if data.is_file() && data.len() >= range.offset + range.length => {
                Ok(Self { file: Arc::new(file), range, reading: None })
            }
            _ => Err(Malformed("a descriptor that is no such file")),
        }
    }

    /// The next bytes; `None` at the end. A file that ends too early is an error: the length was promised.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.reading.is_none() && self.range.length == 0 {
            return Poll::Ready(None);
        }
        let read = match self.reading.as_mut() {
            Some(reading) => {
                let done = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                done.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match self.read_at_once() {
                Some(read) => read,
                None => {
                    let (file, offset, length) = (Arc::clone(&self.file), self.range.offset, self.portion());
                    self.reading = Some(tokio::task::spawn_blocking(move || {
                        let mut chunk = vec![0; length];
                        let read = file.read_at(&mut chunk, offset)?;
                        chunk.truncate(read);
                        Ok(chunk)
                    }));
                    return self.poll_chunk(cx);
                }
            },
        };
        Poll::Ready(Some(read.and_then(|chunk| self.passed(chunk))))
    }

    /// What the page cache has, without waiting for a disk; `None` when that cannot be told or is nothing.
    fn read_at_once(&self) -> Option<io::Result<Vec<u8>>> {
        let mut chunk = vec![0; self.portion()];
        let read = preadv2(&self.file, &mut [IoSliceMut::new(&mut chunk)], self.range.offset, ReadWriteFlags::NOWAIT);
        match read {
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(chunk))
            }
            // Some file systems cannot answer the question.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    fn passed(&mut self, chunk: Vec<u8>) -> io::Result<Bytes> {
        if chunk.is_empty() {
            self.range.length = 0;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
        }
        let length = chunk.len() as u64;
        self.range = FileRange { offset: self.range.offset + length, length: self.range.length - length };
        Ok(chunk.into())
    }

    fn portion(&self) -> usize {
        usize::try_from(self.range.length.min(CHUNK)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write};

    use super::*;

    async fn all(mut sent: SentFile) -> io::Result<Vec<u8>> {
        let mut got = Vec::new();
        while let Some(chunk) = poll_fn(|cx| sent.poll_chunk(cx)).await {
            got.extend_from_slice(&chunk?);
        }
        Ok(got)
    }

    #[tokio::test]
    async fn exactly_the_range_is_read_and_a_file_that_is_too_short_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
        file.write_all(&content).unwrap();
        let sent =
            |offset, length| SentFile::new(file.try_clone().unwrap().into(), FileRange { offset, length }).unwrap();
        assert_eq!(all(sent(7, 299_993)).await.unwrap(), content[7..]);
        assert_eq!(all(sent(299_999, 1)).await.unwrap(), content[299_999..]);
        assert!(all(sent(0, 0)).await.unwrap().is_empty());
        let cut = sent(10, 200_000);
        file.set_len(100_000).unwrap();
        assert_eq!(all(cut).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let long = FileRange { offset: 10, length: 100_000 };
        assert!(SentFile::new(file.try_clone().unwrap().into(), long).is_err());
    }

    #[test]
    fn what_may_wait_for_ever_is_not_accepted() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let range = FileRange { offset: 0, length: 1 };
        assert!(SentFile::new(socket.into(), range).is_err());
        assert!(SentFile::new(File::open("/dev/zero").unwrap().into(), range).is_err());
        assert!(SentFile::new(File::open("/").unwrap().into(), range).is_err());
        assert!(SentFile::new(File::open("/proc/self/stat").unwrap().into(), range).is_err());
    }
}
