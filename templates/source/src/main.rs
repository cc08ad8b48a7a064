//! Answers whoever asks over HTTP.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that a client may say.
const BYTES_MAX: u64 = 16 * 1024;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    for client in listener.incoming() {
        // A client that leaves early is no reason to end.
        let _ = client.map(|it| thread::spawn(move || answer(&it)));
    }
    Ok(())
}

fn answer(mut client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    // To the end of the question: one that is not read is reset, and takes the answer with it.
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
    fn whoever_asks_is_answered() -> io::Result<()> {
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
