//! A distant server: a proxy that delivers every byte later, as a network of this length would.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::http::listen;

/// Listens on `address`, and forwards to the server at `to`. Bytes take half of `round_trip` in each
/// direction, and bytes that follow one another keep their distance. Connections live until an end
/// closes them.
pub fn listen_far_away(
    address: impl ToSocketAddrs,
    to: impl ToSocketAddrs,
    round_trip: Duration,
) -> io::Result<SocketAddr> {
    let to = to.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    listen(address, move |client| {
        // The handshake of TCP takes a round trip, which the client does not notice on this machine.
        thread::sleep(round_trip);
        let both = || -> io::Result<()> {
            let server = TcpStream::connect(to)?;
            let (up, down) = (client.try_clone()?, server.try_clone()?);
            thread::spawn(move || forward(up, server, round_trip / 2));
            forward(down, client, round_trip / 2);
            Ok(())
        };
        let _ = both(); // a cut connection ends with its client
    })
}

/// Forwards bytes from `from` to `to` in `delay` after their arrival.
fn forward(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let _ = to.set_nodelay(true); // a slower test is no failure
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let writer = thread::spawn(move || {
        for (arrived, bytes) in receiver {
            thread::sleep((arrived + delay).saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut chunk = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if sender.send((Instant::now(), chunk[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writer.join();
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn an_answer_takes_the_round_trip_and_parallel_connections_share_it() {
        let echo = listen("127.0.0.1:0", |stream| {
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
            while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                (&stream).write_all(line.as_bytes()).expect("written");
                line.clear();
            }
        });
        let far = listen_far_away("127.0.0.1:0", echo.expect("a port"), Duration::from_millis(60));
        let far = far.expect("a port");
        let began = Instant::now();
        let ask = || {
            let mut stream = TcpStream::connect(far).expect("connected");
            stream.write_all(b"hello\n").expect("written");
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).expect("an answer");
            line
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            for thread in threads {
                assert_eq!(thread.join().expect("answered"), "hello\n");
            }
        });
        let elapsed = began.elapsed();
        assert!(elapsed >= Duration::from_millis(120), "{elapsed:?}: a handshake and an answer");
        assert!(elapsed < Duration::from_millis(960), "{elapsed:?}: less than one after the other");
    }
}
