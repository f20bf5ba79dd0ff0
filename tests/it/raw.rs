//! HTTP/1 by hand: bytes that no client library would send, and the answers to them one by one.

use std::{net::SocketAddr, sync::Arc};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::harness::{Gate, PATIENCE, text};

/// A connection on which anything may be said.
pub struct Raw {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One answer as it came.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    pub code: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl RawAnswer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The reason id of a refusal; nothing when the HTTP library itself refused.
    pub fn reason(&self) -> &str {
        self.header("portcullis-reason").unwrap_or("")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

impl Raw {
    /// A TLS connection that speaks HTTP/1.1.
    pub async fn to(gate: &Gate) -> Self {
        Self::with(gate, &gate.tls(&[b"http/1.1"])).await
    }

    /// The same with a client configuration that is used again and again.
    pub async fn with(gate: &Gate, tls: &Arc<ClientConfig>) -> Self {
        Self::behind(gate, tls, b"").await.expect("TLS")
    }

    /// The same when something is said before TLS begins.
    pub async fn behind(gate: &Gate, tls: &Arc<ClientConfig>, before: &[u8]) -> std::io::Result<Self> {
        Self::at(gate.address, tls, before).await
    }

    /// The same to a server that stands before a gate and shows its certificate.
    pub async fn at(address: SocketAddr, tls: &Arc<ClientConfig>, before: &[u8]) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(before).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let shake = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = tokio::time::timeout(PATIENCE, shake).await.expect("TLS in time")?;
        Ok(Self { stream: Box::new(stream), received: Vec::new() })
    }

    /// Plain TCP to any address.
    pub async fn plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("somebody accepts");
        Self { stream: Box::new(stream), received: Vec::new() }
    }

    /// Says it; a gateway that has closed already is no failure, its answers tell.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// The next answer, or nothing when the connection ends before it is complete.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        tokio::time::timeout(PATIENCE, self.next()).await.expect("an answer in time")
    }

    /// All answers until the gateway closes.
    pub async fn answers(mut self) -> Vec<RawAnswer> {
        let mut all = Vec::new();
        while let Some(answer) = self.answer().await {
            all.push(answer);
        }
        all
    }

    async fn next(&mut self) -> Option<RawAnswer> {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = text(&self.received[..end]);
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{head}"));
        self.received.drain(..end);
        let mut answer = RawAnswer { code, head, body: Vec::new() };
        if answer.header("transfer-encoding").is_some() {
            panic!("nothing is streamed to this client: {}", answer.head);
        }
        let announced = answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        let length = if code < 200 || code == 204 || code == 304 { 0 } else { announced };
        while self.received.len() < length {
            self.more().await?;
        }
        answer.body = self.received.drain(..length).collect();
        Some(answer)
    }

    async fn more(&mut self) -> Option<()> {
        let before = self.received.len();
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk).await.unwrap_or(0);
        self.received.extend_from_slice(&chunk[..read]);
        (self.received.len() > before).then_some(())
    }
}

/// Everything that comes back until the gateway closes, for bytes that end a connection one way or the other.
pub async fn tell(gate: &Gate, bytes: impl AsRef<[u8]>) -> Vec<RawAnswer> {
    let mut raw = Raw::to(gate).await;
    raw.send(bytes).await;
    raw.answers().await
}
