//! The WSGI contract, behaviour by behaviour, through the real door: `environ`, the answer, the request's body.

mod answer;
mod closing;
mod environ;
mod input;
mod letter;
mod logs;
mod validated;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    harness::{Answer, Gate, Http, PATIENCE, Setup},
    stream::Stream,
};

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
