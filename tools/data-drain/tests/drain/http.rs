//! Parser of HTTP requests on a connection.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// Whether the next request opens a WebSocket. The stream is only peeked.
pub(crate) fn is_websocket(stream: &TcpStream) -> bool {
    let mut head = [0; 2048];
    for _ in 0..200 {
        let Ok(length) = stream.peek(&mut head) else { return false };
        let text = String::from_utf8_lossy(&head[..length]).to_lowercase();
        if text.contains("\r\n\r\n") || length == head.len() || length == 0 {
            return text.contains("upgrade: websocket");
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Reads one request; `None` at the end of the connection.
pub(crate) fn read(reader: &mut BufReader<TcpStream>, stream: &mut TcpStream) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    if headers.contains_key("expect") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}
