//! A proxy in front of a registry, which can answer in the registry's place.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use testing::proxy::Fault;

/// A running proxy. It listens until the test process ends.
pub(crate) struct Proxy(testing::proxy::Proxy);

impl Proxy {
    /// Starts a proxy that forwards connections at `address` to `upstream`.
    pub(crate) fn start(address: &str, upstream: &str) -> io::Result<Self> {
        testing::proxy::Proxy::listen(address, upstream).map(Self)
    }

    /// Forwards `writes` more writes, and then no requests at all. `None` forwards everything.
    pub(crate) fn cut_after(&self, writes: Option<usize>, answer_lost: bool) {
        self.0.reset();
        let fault = if answer_lost { Fault::LostForever } else { Fault::Refused };
        self.0.set_fault(writes.map(fault));
    }

    /// Returns `answer`, a status line, to requests whose first line contains `word`.
    pub(crate) fn answer(&self, word: &'static str, answer: &'static str) {
        self.0.intercept(move |head| {
            let line = head.lines().next().unwrap_or_default();
            line.contains(word).then(|| whole(answer, "", ""))
        });
    }

    /// Demands a token, as GHCR and Docker Hub do, and grants one to clients with the password.
    pub(crate) fn guard(&self) {
        self.0.intercept(guarded);
    }

    /// Returns the number of reads and writes since the last call of `cut_after`.
    pub(crate) fn counted(&self) -> (usize, usize) {
        self.0.counted()
    }
}

/// Returns a response that ends the connection.
fn whole(status: &str, header: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Returns the response to a request for a token, and to a request without one.
fn guarded(head: &str) -> Option<String> {
    let (line, lower) = (head.lines().next().unwrap_or_default(), head.to_ascii_lowercase());
    let host = lower.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    if line.starts_with("GET /token?service=test&scope=repository:test/") {
        // Base64 of holistic:sesame.
        return Some(if head.contains("Basic aG9saXN0aWM6c2VzYW1l") {
            whole("200 OK", "", r#"{"token":"a-token"}"#)
        } else {
            whole("401 Unauthorized", "", "")
        });
    }
    let challenge =
        format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"test\"\r\n");
    (!head.contains("Bearer a-token")).then(|| whole("401 Unauthorized", &challenge, ""))
}

/// Sends one request without this program. Returns the status and the body.
pub(crate) fn request(
    address: &str,
    line: &str,
    kind: &str,
    body: &[u8],
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let location = head.lines().find_map(|line| line.strip_prefix("Location: "));
    Ok((status, location.map_or(body.to_owned(), str::to_owned)))
}
