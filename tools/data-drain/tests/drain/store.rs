//! A simulated object store and its faults.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use testing::http::{Request, Response};

use crate::cluster::Server;

/// An object of the store: its bytes and its `x-amz-meta-` headers.
pub(crate) type Stored = (Vec<u8>, Vec<(String, String)>);

#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Number of further objects that the store accepts; `None` is no limit.
    pub(crate) puts: Option<usize>,
    /// Delay of each upload.
    pub(crate) put_delay: Duration,
    /// Number of further objects that are stored without a response, because the connection breaks.
    pub(crate) lost: usize,
    /// Whether objects are locked. The store rejects a write to an existing object and any deletion with
    /// `AccessDenied`, and also an object without a checksum.
    pub(crate) locked: bool,
    /// Bytes of an object that are sent before the connection breaks.
    pub(crate) cut_after: Option<usize>,
}

const DENIED: &str = "<Error><Code>AccessDenied</Code></Error>";
/// Measured: response of versitygw 1.8.0 without versions, with status 403, also to `If-None-Match: *`.
const LOCKED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied because object \
                      protected by object lock.</Message></Error>";
/// Response of AWS, with status 400 (<https://github.com/versity/versitygw/issues/1776>).
const NO_CHECKSUM: &str = "<Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- \
                           HTTP header is required for Put Object requests with Object Lock \
                           parameters</Message></Error>";

impl Server {
    /// Answers one request to the store; `None` closes the connection.
    pub(crate) fn store(&self, request: &Request, stream: &mut TcpStream) -> Option<()> {
        let key = request.path.trim_start_matches("/drain/").to_owned();
        let key = if key == "/drain" { String::new() } else { key };
        match request.method.as_str() {
            "GET" if key.is_empty() => self.list(stream),
            "PUT" => self.put(request, key, stream),
            "DELETE" => {
                self.world().writes.push(format!("DELETE {key}"));
                respond(stream, 403, LOCKED)
            }
            _ => self.get(request, &key, stream),
        }
    }

    fn list(&self, stream: &mut TcpStream) -> Option<()> {
        let world = self.world();
        let keys = world.store.keys().map(|key| format!("<Contents><Key>{key}</Key></Contents>"));
        let keys: String = keys.collect();
        let list =
            format!("<ListBucketResult>{keys}<IsTruncated>false</IsTruncated></ListBucketResult>");
        respond(stream, 200, &list)
    }

    fn put(&self, request: &Request, key: String, stream: &mut TcpStream) -> Option<()> {
        let delay = self.world().faults.store.put_delay;
        thread::sleep(delay);
        let mut world = self.world();
        world.writes.push(format!("PUT {key}"));
        assert_eq!(request.headers.get("if-none-match").map(String::as_str), Some("*"));
        let is_there = world.store.contains_key(&key);
        let faults = &mut world.faults.store;
        if faults.locked && is_there {
            return respond(stream, 403, LOCKED);
        }
        if faults.locked && !request.headers.contains_key("content-md5") {
            return respond(stream, 400, NO_CHECKSUM);
        }
        if is_there {
            return respond(stream, 412, "");
        }
        if let Some(left) = &mut faults.puts {
            if *left == 0 {
                return respond(stream, 403, DENIED);
            }
            *left -= 1;
        }
        let is_lost = faults.lost > 0;
        faults.lost = faults.lost.saturating_sub(1);
        let headers = request.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
        let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
        world.store.insert(key, (request.body.clone(), headers));
        if is_lost { None } else { respond(stream, 200, "") }
    }

    /// Answers `GET` and `HEAD`.
    fn get(&self, request: &Request, key: &str, stream: &mut TcpStream) -> Option<()> {
        let mut world = self.world();
        let Some((bytes, headers)) = world.store.get(key).cloned() else {
            return respond(stream, 404, "");
        };
        let length = bytes.len();
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        let from = range.and_then(|range| range.strip_suffix('-')?.parse().ok()).unwrap_or(0);
        let mut head = if from == 0 {
            "HTTP/1.1 200 S\r\n".to_owned()
        } else {
            world.writes.push(format!("RANGE {key}"));
            let range = format!("Content-Range: bytes {from}-{}/{length}\r\n", length - 1);
            format!("HTTP/1.1 206 S\r\n{range}")
        };
        for (name, value) in &headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let rest = format!("ETag: \"{length}\"\r\nContent-Length: {}\r\n\r\n", length - from);
        stream.write_all((head + &rest).as_bytes()).ok()?;
        if request.method == "HEAD" {
            return Some(());
        }
        let cut = world.faults.store.cut_after.map_or(length, |left| length.min(from + left));
        stream.write_all(&bytes[from..cut]).ok()?;
        (cut == length).then_some(())
    }
}

fn respond(stream: &mut TcpStream, status: u16, body: &str) -> Option<()> {
    // A response to `HEAD` has an empty body here.
    Response::new(status, body).write("GET", stream).ok()
}
