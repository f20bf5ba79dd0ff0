//! Sockets: bound or inherited from systemd, accepted on every data thread, counted, and told apart from the proxies
//! in front of us.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Pending connections the kernel keeps while all threads are busy.
const BACKLOG: i32 = 4096;

/// The longest PROXY header: version 2 with TLVs; longer ones are refused.
const PROXY_HEADER_MOST: usize = 4096;

/// Binds every address.
///
/// # Errors
/// Which address could not be had, and why.
pub fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<StdListener>> {
    addresses.iter().map(|address| bind_one(*address)).collect()
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let explain = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "another program listens there; stop it or choose another port with --listen",
            io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "the address cannot be used",
        };
        io::Error::new(error.kind(), format!("{address}: {error} ({hint})"))
    };
    let socket = rustix::net::socket(
        if address.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 },
        rustix::net::SocketType::STREAM,
        None,
    )
    .map_err(|error| explain(error.into()))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(|error| explain(error.into()))?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).map_err(|error| explain(error.into()))?;
    rustix::net::bind(&socket, &address).map_err(|error| explain(error.into()))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| explain(error.into()))?;
    Ok(socket.into())
}

/// Listeners that systemd passed to us (socket activation, sd_listen_fds(3)); empty when there are none.
#[must_use]
pub fn inherited() -> Vec<StdListener> {
    let mut passed = listenfd::ListenFd::from_env();
    (0..passed.len()).filter_map(|index| passed.take_tcp_listener(index).ok().flatten()).collect()
}

/// Connections that are open now, over all threads, and the most there may be.
#[derive(Clone)]
pub struct Connections {
    open: Arc<AtomicUsize>,
    most: usize,
}

/// One open connection.
pub struct Open(Arc<AtomicUsize>);

impl Connections {
    /// At most `most` at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// Counts one more, unless that is too many.
    #[must_use]
    pub fn admit(&self) -> Option<Open> {
        let open = Open(Arc::clone(&self.open));
        (self.open.fetch_add(1, Ordering::AcqRel) < self.most).then_some(open)
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads the PROXY protocol header (v1 or v2) that a load balancer puts in front of a connection, and returns the
/// client it names, with a stream that still holds what came behind the header.
///
/// # Errors
/// No header, a broken one, or a connection that ends first. Where it is configured it is required: without it anybody
/// in those networks could claim any address.
pub async fn proxied(mut stream: TcpStream, peer: SocketAddr) -> io::Result<(Prefixed, SocketAddr)> {
    let mut buffer = BytesMut::with_capacity(512);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = ppp::HeaderResult::parse(&buffer);
        if let Some((length, client)) = read_proxy_header(&header)? {
            let rest = buffer.split_off(length);
            return Ok((Prefixed { prefix: rest, stream }, client.unwrap_or(peer)));
        }
        if buffer.len() > PROXY_HEADER_MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "PROXY header too long"));
        }
    }
}

/// Length of the header and the client it names; `None` when more bytes are needed.
fn read_proxy_header(header: &ppp::HeaderResult<'_>) -> io::Result<Option<(usize, Option<SocketAddr>)>> {
    use ppp::{HeaderResult, PartialResult, v1, v2};
    match header {
        HeaderResult::V1(Ok(header)) => Ok(Some((
            header.header.len(),
            match header.addresses {
                v1::Addresses::Tcp4(a) => Some(SocketAddr::new(a.source_address.into(), a.source_port)),
                v1::Addresses::Tcp6(a) => Some(SocketAddr::new(a.source_address.into(), a.source_port)),
                v1::Addresses::Unknown => None,
            },
        ))),
        HeaderResult::V2(Ok(header)) => Ok(Some((
            header.len(),
            match header.addresses {
                // LOCAL: the proxy's own health check, the socket's address stands.
                _ if header.command == v2::Command::Local => None,
                v2::Addresses::IPv4(a) => Some(SocketAddr::new(a.source_address.into(), a.source_port)),
                v2::Addresses::IPv6(a) => Some(SocketAddr::new(a.source_address.into(), a.source_port)),
                _ => None,
            },
        ))),
        incomplete if incomplete.is_incomplete() => Ok(None),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no PROXY header")),
    }
}

/// Whether `address` is in one of `networks`; IPv4 inside IPv6 counts as IPv4.
#[must_use]
pub fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// A stream of which some bytes have been read already.
pub struct Prefixed {
    prefix: BytesMut,
    stream: TcpStream,
}

impl From<TcpStream> for Prefixed {
    fn from(stream: TcpStream) -> Self {
        Self { prefix: BytesMut::new(), stream }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return std::pin::Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(length));
        std::task::Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
