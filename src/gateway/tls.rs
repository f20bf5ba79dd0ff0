//! The handshake, bounded in time; which certificate is shown is decided by `certificates`.

use std::{io, time::Duration};

use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{gateway::listener::Prefixed, snapshot::Snapshot};

/// What the client wants to speak, as agreed by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// `http/1.1`, or nothing said.
    Http1,
    /// `h2`.
    Http2,
}

/// Shakes hands.
///
/// # Errors
/// The client is no TLS client, accepts nothing we offer, or is too slow.
pub async fn accept(
    world: &Snapshot,
    stream: Prefixed,
    patience: Duration,
) -> io::Result<(TlsStream<Prefixed>, Speaks)> {
    let acceptor = TlsAcceptor::from(world.certificates.config.clone());
    let stream = tokio::time::timeout(patience, acceptor.accept(stream)).await??;
    let speaks = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Speaks::Http2,
        _ => Speaks::Http1,
    };
    Ok((stream, speaks))
}
