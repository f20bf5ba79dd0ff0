//! Clients that ask again and again, and remember every answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::client::conn::http1::SendRequest;

use crate::harness::{ADMIN, Gate};

/// A kept-alive connection.
pub type Connection = SendRequest<BoxBody<Bytes, std::io::Error>>;

/// Clients that ask for `path` as the administrator on kept-alive connections until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<u16>>>,
}

impl Load {
    pub async fn start(gate: &Gate, path: &str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for _ in 0..clients {
            let mut sender = gate.http1().await;
            let (stop, path) = (Arc::clone(&stop), path.to_owned());
            running.push(tokio::spawn(async move {
                let mut codes = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    codes.push(get(&mut sender, &path).await);
                    if sender.is_closed() {
                        break;
                    }
                }
                codes
            }));
        }
        Self { stop, clients: running }
    }

    /// The status of every answer; 0 for one that did not come, or not whole.
    pub async fn finish(self) -> Vec<u16> {
        self.stop.store(true, Ordering::Relaxed);
        let mut codes = Vec::new();
        for client in self.clients {
            codes.extend(client.await.unwrap());
        }
        codes
    }

    /// What was not 200.
    pub fn failures(codes: &[u16]) -> Vec<u16> {
        codes.iter().copied().filter(|code| *code != 200).collect()
    }
}

/// One request: the status of its answer; 0 when none came, or not whole.
pub async fn get(sender: &mut Connection, path: &str) -> u16 {
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", ADMIN.0, ADMIN.1));
    let request = http::Request::get(path)
        .header("host", "localhost")
        .header("authorization", format!("Basic {credentials}"))
        .body(BoxBody::new(Empty::new().map_err(|never| match never {})))
        .unwrap();
    match sender.send_request(request).await {
        Ok(response) => {
            let code = response.status().as_u16();
            if response.into_body().collect().await.is_ok() { code } else { 0 }
        }
        Err(_) => 0,
    }
}
