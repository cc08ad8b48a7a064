//! A minimal HTTP/1.1 server: one request per connection, and a limit on every resource.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Counter, log};

/// Longest request line and headers together, in bytes.
const REQUEST_BYTES_MAX: u64 = 8 * 1024;
/// Largest number of concurrent connections. Further connections get status 503.
const CONNECTIONS_MAX: usize = 64;
/// Longest wait for a client to send its request, and to receive the answer, in seconds.
const CLIENT_SECONDS_MAX: u64 = 5;
/// Longest wait for open connections after a signal, in seconds.
const STOP_SECONDS_MAX: u64 = 8;

/// Answers requests on `listener` until `SIGTERM` or `SIGINT`, then waits for open connections.
///
/// # Errors
///
/// An error if the listener has no address or the signal handlers cannot be installed.
pub fn run(listener: &TcpListener, counter: &Arc<Counter>) -> io::Result<()> {
    let address = listener.local_addr()?;
    let stopping = Arc::new(AtomicBool::new(false));
    stop_on_signal(address, &stopping)?;
    let open = Arc::new(AtomicUsize::new(0));
    log::line("listening", &[("address", &address), ("greeted", &counter.count())]);
    for stream in listener.incoming() {
        if stopping.load(Ordering::SeqCst) {
            break;
        }
        match stream {
            Ok(stream) if open.load(Ordering::SeqCst) >= CONNECTIONS_MAX => {
                let _ = respond(
                    &stream,
                    &Answer::new("503 Service Unavailable", "too many connections\n"),
                );
            }
            Ok(stream) => {
                let (counter, open) = (counter.clone(), open.clone());
                open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    if let Err(error) = serve(&stream, &counter) {
                        log::line("unanswered", &[("message", &error)]);
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
            Err(error) => {
                log::line("unaccepted", &[("message", &error)]);
                thread::sleep(Duration::from_millis(50)); // the likely cause is that no file descriptor is free
            }
        }
    }
    let mut waits = STOP_SECONDS_MAX * 100;
    while open.load(Ordering::SeqCst) > 0 && waits > 0 {
        thread::sleep(Duration::from_millis(10));
        waits -= 1;
    }
    let left = open.load(Ordering::SeqCst);
    log::line("stopped", &[("greeted", &counter.count()), ("unfinished", &left)]);
    Ok(())
}

/// Starts a thread that waits for a signal and then connects to the listener, because `accept` does
/// not return on a signal.
fn stop_on_signal(address: SocketAddr, stopping: &Arc<AtomicBool>) -> io::Result<()> {
    let (mut receiver, sender) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, sender.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, sender)?;
    let stopping = stopping.clone();
    thread::spawn(move || {
        if receiver.read(&mut [0]).is_ok() {
            stopping.store(true, Ordering::SeqCst);
            let mut address = address;
            if address.ip().is_unspecified() {
                address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        }
    });
    Ok(())
}

/// Status line and body of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    text: String,
}

impl Answer {
    fn new(status: &'static str, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

fn serve(stream: &TcpStream, counter: &Counter) -> io::Result<()> {
    let timeout = Some(Duration::from_secs(CLIENT_SECONDS_MAX));
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(timeout)?;
    let Some(request) = read(stream)? else { return Ok(()) };
    let answer = answer(&request, counter);
    respond(stream, &answer)?;
    if !request.contains(" /healthz ") {
        log::line("answered", &[("request", &request.trim_end()), ("status", &answer.status)]);
    }
    Ok(())
}

/// Reads a request and returns its first line, or `None` if the client sent nothing. Headers are read
/// and discarded.
fn read(stream: &TcpStream) -> io::Result<Option<String>> {
    let mut lines = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    let mut request = String::new();
    if lines.read_line(&mut request)? == 0 {
        return Ok(None);
    }
    let mut header = String::new();
    loop {
        header.clear();
        match lines.read_line(&mut header)? {
            0 => return Err(io::Error::other("the request is too long or incomplete")),
            _ if header.trim_end().is_empty() => return Ok(Some(request)),
            _ => {}
        }
    }
}

fn answer(request: &str, counter: &Counter) -> Answer {
    let mut words = request.split_whitespace();
    let (method, path) = (words.next(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    match (method, path) {
        (Some("GET"), "/") => match counter.next() {
            Ok(count) => Answer::new("200 OK", format!("Hello. You are number {count}.\n")),
            Err(error) => {
                log::line("uncounted", &[("message", &error)]);
                Answer::new("500 Internal Server Error", "the counter cannot be written\n")
            }
        },
        (Some("GET"), "/healthz") => Answer::new("200 OK", "ok\n"),
        (Some("GET"), _) => Answer::new("404 Not Found", "the paths are / and /healthz\n"),
        (Some(_), _) => Answer::new("405 Method Not Allowed", "the only method is GET\n"),
        (None, _) => Answer::new("400 Bad Request", "the request is empty\n"),
    }
}

fn respond(mut stream: &TcpStream, Answer { status, text }: &Answer) -> io::Result<()> {
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )?;
    stream.flush()?;
    stream.shutdown(Shutdown::Write)
}
