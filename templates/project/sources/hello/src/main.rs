//! Answers every HTTP request with `hello`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// Longest wait for a client's request.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest request, in bytes.
const BYTES_MAX: u64 = 16 * 1024;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    for client in listener.incoming() {
        // A failed connection is ignored, so that one client cannot end the service.
        let _ = client.map(|stream| thread::spawn(move || answer(&stream)));
    }
    Ok(())
}

fn answer(mut client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(READ_TIMEOUT))?;
    // Reads the whole request, because closing a socket with unread data discards the answer.
    for line in BufReader::new(client.take(BYTES_MAX)).lines() {
        if line?.is_empty() {
            break;
        }
    }
    client.write_all(response("hello\n").as_bytes())
}

fn response(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_with_hello() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        client.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")?;
        answer(&listener.accept()?.0)?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nhello\n"), "{answer}");
        Ok(())
    }
}
