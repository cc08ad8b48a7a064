//! A proxy in front of a real server. It records writes, and can cut connections like a power failure.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::http::listen;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// A fault after some forwarded writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Forwards nothing after the last of these writes.
    Dead(usize),
    /// Refuses the next write, and forwards nothing from then on.
    Refused(usize),
    /// Loses the response to the next write, and forwards nothing from then on.
    LostForever(usize),
    /// Loses the response to the next write, and works from then on.
    LostOnce(usize),
}

/// Returns the response to a request with this head, if the proxy itself answers the request.
type Interceptor = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

#[derive(Default)]
struct State {
    reads: usize,
    /// First line of every forwarded write, for example `PUT /v2/`.
    writes: Vec<String>,
    fault: Option<Fault>,
    interceptor: Option<Interceptor>,
}

/// A running proxy, which listens until the test process ends.
#[derive(Clone)]
pub struct Proxy {
    /// Address at which the proxy listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Listens on `address`, and forwards to the server at `to`. A request is a write unless it is a `GET`
    /// or `HEAD`, or git only reads.
    pub fn listen(address: impl ToSocketAddrs, to: impl ToSocketAddrs) -> io::Result<Self> {
        let to = to.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        // Errors are expected: a cut connection is the purpose of this proxy.
        let address = listen(address, move |client| drop(pass(client, to, &shared)))?;
        Ok(Self { address, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Has this fault from now on, or none.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Answers some requests itself from now on: those for which `interceptor` returns a response.
    pub fn intercept(&self, interceptor: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        self.state().interceptor = Some(Box::new(interceptor));
    }

    /// Forwards everything from now on, and forgets what was forwarded.
    pub fn reset(&self) {
        *self.state() = State::default();
    }

    /// Returns the writes since the last call, and forgets them.
    #[expect(clippy::must_use_candidate, reason = "some tests only forget the writes")]
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    /// Returns the number of forwarded reads and writes.
    #[must_use]
    pub fn counted(&self) -> (usize, usize) {
        let state = self.state();
        (state.reads, state.writes.len())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Treatment of one request.
enum Fate {
    Forward,
    LoseResponse,
    Refuse,
    Answer(String),
}

impl State {
    fn fate(&mut self, head: &str) -> Fate {
        if let Some(response) = self.interceptor.as_ref().and_then(|answer| answer(head)) {
            return Fate::Answer(response);
        }
        let line = head.lines().next().unwrap_or_default();
        let is_write = !["GET ", "HEAD "].iter().any(|method| line.starts_with(method))
            && !line.contains("git-upload-pack");
        let fate = self.next(is_write);
        if !matches!(fate, Fate::Refuse) {
            if is_write {
                self.writes.push(line.trim_end_matches(" HTTP/1.1").to_owned());
            } else {
                self.reads += 1;
            }
        }
        fate
    }

    /// Returns the fate of the next request, and counts a write.
    fn next(&mut self, is_write: bool) -> Fate {
        let (fault, fate) = match (self.fault, is_write) {
            (Some(Fault::Dead(0)), _) => (self.fault, Fate::Refuse),
            (Some(Fault::Refused(0)), true) => (Some(Fault::Dead(0)), Fate::Refuse),
            (Some(Fault::LostForever(0)), true) => (Some(Fault::Dead(0)), Fate::LoseResponse),
            (Some(Fault::LostOnce(0)), true) => (None, Fate::LoseResponse),
            (Some(Fault::Dead(left)), true) => (Some(Fault::Dead(left - 1)), Fate::Forward),
            (Some(Fault::Refused(left)), true) => (Some(Fault::Refused(left - 1)), Fate::Forward),
            (Some(Fault::LostForever(left)), true) => {
                (Some(Fault::LostForever(left - 1)), Fate::Forward)
            }
            (Some(Fault::LostOnce(left)), true) => (Some(Fault::LostOnce(left - 1)), Fate::Forward),
            (fault, _) => (fault, Fate::Forward),
        };
        self.fault = fault;
        fate
    }
}

/// Forwards one request and its response, with `Connection: close`.
fn pass(mut client: TcpStream, to: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let (head, rest) = read_head(&mut client)?;
    let fate = lock(state).fate(&head);
    match fate {
        Fate::Refuse => return client.shutdown(Shutdown::Both),
        Fate::Answer(response) => return client.write_all(response.as_bytes()),
        Fate::Forward | Fate::LoseResponse => {}
    }
    let mut server = TcpStream::connect(to)?;
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    let lines = head.split("\r\n").filter(|line| !line.to_lowercase().starts_with("connection:"));
    let head = lines.collect::<Vec<_>>().join("\r\n");
    server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes())?;
    server.write_all(&rest)?;
    let (mut from, mut up) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || drop(io::copy(&mut from, &mut up)));
    if matches!(fate, Fate::LoseResponse) {
        io::copy(&mut server, &mut io::sink())?;
    } else {
        io::copy(&mut server, &mut client)?;
    }
    client.shutdown(Shutdown::Both)
}

/// Reads the head of a request to the empty line, and the bytes that arrived with the head.
fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        match client.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if bytes.len() < HEAD_BYTES_MAX => bytes.extend_from_slice(&chunk[..read]),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the fates of a write, a read, a write, a read and a write.
    fn fates(fault: Fault) -> String {
        let mut state = State { fault: Some(fault), ..State::default() };
        let fate = |is_write| match state.next(is_write) {
            Fate::Forward => "forward",
            Fate::LoseResponse => "lose",
            Fate::Refuse | Fate::Answer(_) => "refuse",
        };
        [true, false, true, false, true].map(fate).join(" ")
    }

    #[test]
    fn each_fault_comes_after_its_number_of_writes() {
        assert_eq!(fates(Fault::Dead(1)), "forward refuse refuse refuse refuse");
        assert_eq!(fates(Fault::Refused(1)), "forward forward refuse refuse refuse");
        assert_eq!(fates(Fault::LostForever(1)), "forward forward lose refuse refuse");
        assert_eq!(fates(Fault::LostOnce(1)), "forward forward lose forward forward");
    }
}
