//! An answer that is read piece by piece.

use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::harness::{Ask, Gate, Http, PATIENCE};

/// Head and the pieces that have not been read.
pub struct Stream {
    pub status: u16,
    pub headers: http::HeaderMap,
    body: Incoming,
}

impl Stream {
    /// Asks for `path` over a connection of its own and waits for the head only.
    pub async fn open(gate: &Gate, http: Http, path: &str) -> Self {
        Self::ask(&gate.get(path), http).await
    }

    /// The same for any request.
    pub async fn ask(ask: &Ask<'_>, http: Http) -> Self {
        let (parts, body) = ask.begin(http, false).await.into_parts();
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
