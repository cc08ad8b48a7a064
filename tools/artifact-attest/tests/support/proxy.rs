//! A proxy in front of a registry. It counts writes, and can cut the connection before the next
//! write, like a power failure.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

/// Remaining writes once the connection is cut: the proxy then forwards no reads either.
const DEAD: usize = usize::MAX;

/// Counters of forwarded requests, and the remaining number of writes.
#[derive(Debug, Default)]
struct State {
    reads: usize,
    writes: usize,
    left: Option<usize>,
    /// Whether the first blocked write reaches the registry, and only its response is lost.
    answer_lost: bool,
    /// Status line that the proxy returns to requests whose first line contains a word.
    instead: Option<(&'static str, &'static str)>,
    /// Whether the proxy demands a token, which it grants to `holistic:sesame`.
    guarded: bool,
}

/// A running proxy. It listens until the test process ends.
pub(crate) struct Proxy(Arc<Mutex<State>>);

impl Proxy {
    /// Starts a proxy that forwards connections at `address` to `upstream`.
    pub(crate) fn start(address: &str, upstream: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let state = Arc::new(Mutex::new(State::default()));
        let (upstream, shared) = (upstream.to_owned(), state.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, state) = (upstream.clone(), shared.clone());
                // Errors are expected here: a cut connection is the purpose of this proxy.
                thread::spawn(move || pass(client, &upstream, &state));
            }
        });
        Ok(Self(state))
    }

    /// Forwards `writes` more writes, and then no requests at all. `None` forwards everything.
    pub(crate) fn cut_after(&self, writes: Option<usize>, answer_lost: bool) {
        self.with(|state| *state = State { left: writes, answer_lost, ..State::default() });
    }

    /// Returns `answer`, a status line, to requests whose first line contains `word`.
    pub(crate) fn answer(&self, word: &'static str, answer: &'static str) {
        self.with(|state| state.instead = Some((word, answer)));
    }

    /// Demands a token, as GHCR and Docker Hub do, and grants one to clients with the password.
    pub(crate) fn guard(&self) {
        self.with(|state| state.guarded = true);
    }

    /// Returns the number of reads and writes since the last call of `cut_after`.
    pub(crate) fn counted(&self) -> (usize, usize) {
        self.with(|state| (state.reads, state.writes))
    }

    fn with<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        what(&mut self.0.lock().expect("no test panics with the lock in hand"))
    }
}

fn pass(mut client: TcpStream, upstream: &str, state: &Mutex<State>) -> io::Result<()> {
    let (head, mut body) = head(&mut client)?;
    let is_write = !head.starts_with("GET ") && !head.starts_with("HEAD ");
    if let Some(answer) = intercepted(&head, state) {
        return write!(client, "HTTP/1.1 {answer}");
    }
    let lost = {
        let mut state = state.lock().map_err(|_| io::Error::other("poisoned"))?;
        let cut = is_write && state.left == Some(0);
        if state.left == Some(DEAD) || (cut && !state.answer_lost) {
            state.left = Some(DEAD);
            return Ok(());
        }
        state.left =
            if cut { Some(DEAD) } else { state.left.map(|writes| writes - usize::from(is_write)) };
        if is_write {
            state.writes += 1;
        } else {
            state.reads += 1;
        }
        cut
    };
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length:").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    let mut rest = vec![0; length.saturating_sub(body.len())];
    client.read_exact(&mut rest)?;
    body.append(&mut rest);
    let mut server = TcpStream::connect(upstream)?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    if lost {
        io::copy(&mut server, &mut io::sink())?;
    } else {
        io::copy(&mut server, &mut client)?;
    }
    Ok(())
}

/// Returns the proxy's own response to a request that is not forwarded.
fn intercepted(head: &str, state: &Mutex<State>) -> Option<String> {
    let state = state.lock().ok()?;
    let (line, lower) = (head.lines().next().unwrap_or_default(), head.to_ascii_lowercase());
    let whole = |status: &str, header: &str, body: &str| {
        let length = body.len();
        format!("{status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    };
    if let Some((word, status)) = state.instead
        && line.contains(word)
    {
        return Some(whole(status, "", ""));
    }
    if !state.guarded {
        return None;
    }
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

/// Reads the head of a request, and the part of the body that arrived with it.
fn head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        let mut chunk = [0; 4096];
        match client.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
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
