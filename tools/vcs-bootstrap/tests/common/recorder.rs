//! A server that answers every request with a demand for credentials, and records the request.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A host that must never receive a token.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// Listens on a free port of `host`. `demand` is the status line and the challenge.
    pub(crate) fn listen(host: &str, demand: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let heads = Arc::new(Mutex::new(Vec::new()));
        let recorder = Self { address: listener.local_addr()?, heads: heads.clone() };
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let (mut head, mut chunk) = (Vec::new(), [0; 4096]);
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match client.read(&mut chunk) {
                        Ok(read) if read > 0 => head.extend(&chunk[..read]),
                        _ => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
                let answer = format!("{demand}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = client.write_all(answer.as_bytes()); // the client may have closed the connection
            }
        });
        Ok(recorder)
    }

    /// Returns the heads of all requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
