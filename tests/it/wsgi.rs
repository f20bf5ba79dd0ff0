//! The WSGI contract, behaviour by behaviour, through the real door: `environ`, the answer, the request's body.

mod answer;
mod closing;
mod environ;
mod input;
mod logs;
mod validated;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::harness::{Answer, Gate, Http, PATIENCE, Setup};

/// Nobody signs in: what is asked for is what is asked about.
pub const OPEN: &str = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\n";

/// `contract.py` at `/app` for everybody, with more lines of its policy.
fn contract(more: &str) -> Gate {
    Setup::level("minimal").app("/app", "contract", &format!("{OPEN}{more}")).start()
}

/// An answer that cannot be taken for a whole one.
fn is_broken(answer: &Answer) -> bool {
    answer.cut || answer.code() >= 500
}

/// An answer that is read piece by piece.
pub struct Stream {
    pub status: u16,
    pub headers: http::HeaderMap,
    body: Incoming,
}

impl Stream {
    /// Asks for `path` over a connection of its own and waits for the head only.
    pub async fn open(gate: &Gate, http: Http, path: &str) -> Self {
        let body = BoxBody::new(Empty::<Bytes>::new().map_err(|never| match never {}));
        let exchange = async {
            match http {
                Http::One => {
                    let request = http::Request::get(path).header("host", "localhost").body(body).unwrap();
                    gate.http1().await.send_request(request).await
                }
                Http::Two => {
                    let request = http::Request::get(format!("https://localhost{path}")).body(body).unwrap();
                    gate.http2().await.send_request(request).await
                }
            }
        };
        let response = tokio::time::timeout(PATIENCE, exchange).await.expect("a head in time").expect("a head");
        let (parts, body) = response.into_parts();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The next piece as text; `None` at the end, an error where it broke off.
    pub async fn next(&mut self) -> Option<Result<String, hyper::Error>> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a piece in time")?;
            match frame.map(|frame| frame.into_data().unwrap_or_default()) {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Some(Ok(String::from_utf8_lossy(&data).into_owned())),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next piece, which has to be there.
    pub async fn piece(&mut self) -> String {
        self.next().await.expect("a piece").expect("a whole piece")
    }
}

/// Lets a `..._when_told` behaviour go on.
async fn tell(gate: &Gate) {
    assert_eq!(gate.get("/app/tell").over(Http::One).await.code(), 200);
}

/// A connection on which we write what we like.
struct Wire(TlsStream<TcpStream>);

impl Wire {
    async fn open(gate: &Gate) -> Self {
        Self(gate.connect(&[b"http/1.1"]).await)
    }

    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.expect("the gateway reads");
        self.0.flush().await.expect("the gateway reads");
    }

    /// Everything up to and including `end`.
    async fn hear_until(&mut self, end: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            let read = tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("more in time");
            match read {
                Ok(byte) => heard.push(byte),
                Err(error) => panic!("{error} before {end:?}: {}", String::from_utf8_lossy(&heard)),
            }
        }
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Everything until the gateway closes.
    async fn hear_rest(&mut self) -> String {
        let mut heard = Vec::new();
        // A connection that is cut is not always closed politely: what was said before counts.
        let _ = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut heard)).await.expect("the gateway closes");
        String::from_utf8_lossy(&heard).into_owned()
    }
}
