//! A small HTTP server for tests, with git's own server behind it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use serde_json::Value;

/// Token that the forge of these tests accepts.
pub(crate) const TOKEN: &str = "github_pat_example";

/// Status, body and additional headers.
pub(crate) type Answer = (u16, Value, Vec<(&'static str, String)>);

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn serve(
    mut client: TcpStream,
    answer: impl FnOnce(&Request) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 8192]);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut chunk)? {
            0 => return Ok(()),
            read => bytes.extend(&chunk[..read]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line: Vec<_> = lines.next().unwrap_or_default().split(' ').map(str::to_owned).collect();
    let header = |line: &str| {
        line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
    };
    let headers: BTreeMap<_, _> = lines.filter_map(header).collect();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        match client.read(&mut chunk)? {
            0 => break,
            read => body.extend(&chunk[..read]),
        }
    }
    let (path, query) = line[1].split_once('?').unwrap_or((&line[1], ""));
    let request = Request {
        method: line[0].clone(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body,
    };
    client.write_all(&answer(&request)?)
}

/// Serves git's own HTTP backend. Demands the token as GitHub does.
pub(crate) fn git(
    request: &Request,
    folder: &std::path::Path,
    refuses: Option<(&str, u16, String)>,
) -> io::Result<Vec<u8>> {
    let basic = format!("Basic {}", BASE64.encode(format!("x-access-token:{TOKEN}").as_bytes()));
    if request.headers.get("authorization") != Some(&basic) {
        return Ok(b"HTTP/1.1 401 Mock\r\nWWW-Authenticate: Basic realm=\"GitHub\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec());
    }
    let asked = format!("{} {}", request.path, request.query);
    if let Some((_, status, text)) = refuses.filter(|(service, ..)| asked.contains(service)) {
        let length = text.len();
        let location = if (300..400).contains(&status) { &text } else { "" };
        return Ok(format!("HTTP/1.1 {status} Mock\r\nLocation: {location}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}").into_bytes());
    }
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "owner")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = backend.stdin.take() {
        input.write_all(&request.body)?;
    }
    let output = backend.wait_with_output()?.stdout;
    let status = if output.starts_with(b"Status: ") { &output[8..11] } else { b"200" };
    Ok([b"HTTP/1.1 ", status, b" Mock\r\nConnection: close\r\n", &output].concat())
}

/// Returns one page of a list, with a link to the next page.
pub(crate) fn page(
    request: &Request,
    next: &str,
    all: &[Value],
    shape: impl Fn(&[Value]) -> Value,
) -> Answer {
    let query = |name: &str, otherwise: usize| {
        let found =
            request.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|number| number.parse().ok()).unwrap_or(otherwise)
    };
    let most = if request.path.ends_with("/variables") { 30 } else { 100 };
    let (size, page) = (query("per_page", 30).min(most), query("page", 1));
    let start = (size * (page - 1)).min(all.len());
    let end = (start + size).min(all.len());
    let more = end < all.len();
    let link = ("Link", format!("<{next}/x?page={}>; rel=\"next\"", page + 1));
    (200, shape(&all[start..end]), more.then_some(link).into_iter().collect())
}
