//! A proxy that counts writes to a forge, and can cut the connection after some of them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Behaviour and counters of the proxy.
#[derive(Debug, Default)]
struct State {
    writes: Vec<String>,
    /// Number of writes that are still forwarded; at 0 the connection is cut.
    writes_left: Option<usize>,
    /// Whether only the response to the last write is lost, and later requests succeed.
    loses_answer: bool,
}

/// A proxy between a program and its forge.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Listens on a free port of `host` and forwards to the server at `to`.
    pub(crate) fn listen(host: &str, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let proxy = Self { address: listener.local_addr()?, state: Arc::default() };
        let state = proxy.state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = state.clone();
                thread::spawn(move || drop(pass(client, to, &state)));
            }
        });
        Ok(proxy)
    }

    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the writes since the last call.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.state(|state| std::mem::take(&mut state.writes))
    }

    /// Forwards `writes` more writes, then cuts every connection.
    pub(crate) fn die_after(&self, writes: usize) {
        self.state(|state| (state.writes_left, state.loses_answer) = (Some(writes), false));
    }

    /// Forwards `writes` more writes, loses the response to the next one, then works again.
    pub(crate) fn lose_the_answer_after(&self, writes: usize) {
        self.state(|state| (state.writes_left, state.loses_answer) = (Some(writes), true));
    }

    pub(crate) fn heal(&self) {
        self.state(|state| (state.writes_left, state.loses_answer) = (None, false));
    }
}

enum Fate {
    Pass,
    LoseAnswer,
    Refuse,
}

/// Forwards one request and its response over HTTP/1.1, with `Connection: close`.
fn pass(mut client: TcpStream, to: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let (head, rest) = read_head(&mut client)?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let is_write = !line.starts_with("GET ") && !line.contains("git-upload-pack");
    let fate = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let fate = match (state.writes_left, is_write) {
            (Some(0), _) if !state.loses_answer => Fate::Refuse,
            (Some(0), true) => {
                (state.writes_left, state.loses_answer) = (None, false);
                Fate::LoseAnswer
            }
            (Some(left), true) => {
                state.writes_left = Some(left - 1);
                Fate::Pass
            }
            (None, _) | (Some(_), false) => Fate::Pass,
        };
        if is_write && !matches!(fate, Fate::Refuse) {
            state.writes.push(line.trim_end_matches(" HTTP/1.1").to_owned());
        }
        fate
    };
    if matches!(fate, Fate::Refuse) {
        return client.shutdown(Shutdown::Both);
    }
    let mut server = TcpStream::connect(to)?;
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    let headers = head.split("\r\n").filter(|line| !line.to_lowercase().starts_with("connection:"));
    let headers: Vec<_> = headers.collect();
    let head = headers.join("\r\n").replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&rest)?;
    let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || drop(io::copy(&mut up_from, &mut up_to)));
    if matches!(fate, Fate::LoseAnswer) {
        server.read_to_end(&mut Vec::new())?;
    } else {
        io::copy(&mut server, &mut client)?;
    }
    client.shutdown(Shutdown::Both)
}

/// Reads the head of a request to the empty line, and the bytes that arrived with it.
fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        match client.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if bytes.len() < 1 << 20 => bytes.extend(&chunk[..read]),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
