//! The client against a stand-in of a store on loopback: one that is slow, that stalls, that cuts
//! its answers, or whose objects are locked. Limits are short, so that a test takes seconds.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use super::*;

const KEY: &str = "holistic/prod/0123/0/00000-4567.zst.age";
const MIB: usize = 1 << 20;
/// More than the buffers of the kernel on both sides hold.
const LARGE: usize = 24 * MIB;
const SHORT: Limits = Limits {
    attempts: 2,
    backoff: Duration::from_millis(10),
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(1),
    upload_bytes_per_second: 2 << 20,
};

type Answer = Box<dyn Fn(usize, &str, &mut TcpStream) -> io::Result<()> + Send + Sync>;

/// The stand-in: one thread and one request for each connection.
struct Server {
    folder: TempDir,
    url: String,
    /// The head of every request, in lower case.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts it. `answer` gets the number of the request, its head and the connection.
    fn start(
        answer: impl Fn(usize, &str, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (heads.clone(), Arc::new(answer));
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                thread::spawn(move || {
                    let head = head(&mut stream)?;
                    let number = {
                        let mut seen = seen.lock().expect("no test has panicked with it");
                        seen.push(head.clone());
                        seen.len() - 1
                    };
                    answer(number, &head, &mut stream)?;
                    stream.shutdown(Shutdown::Both)
                });
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        let secret = r#"{"accessKeyId": "a", "secretAccessKey": "b"}"#;
        std::fs::write(folder.path().join("s3"), secret).expect("written");
        Self { folder, url, heads }
    }

    fn reader(&self, limits: Limits) -> Reader {
        let credentials = json!({"file": self.folder.path().join("s3")});
        let store = json!({"s3": {
            "url": self.url, "region": "here", "bucket": "drain", "credentials": credentials,
        }});
        let store = serde_json::from_value(store).expect("a store");
        let keyring::Store::S3 { credentials, .. } = &store;
        Reader::with(&store, credentials, limits).expect("a client")
    }

    fn writer(&self, limits: Limits) -> Writer {
        Writer(self.reader(limits))
    }

    fn heads(&self, method: &str) -> Vec<String> {
        let heads = self.heads.lock().expect("no test has panicked with it");
        heads.iter().filter(|head| head.starts_with(method)).cloned().collect()
    }
}

/// Reads up to the empty line, byte by byte, so that the body stays in the connection.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).to_lowercase())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} S\r\n{headers}Content-Length: {length}\r\n");
    stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes())
}

/// Reads so many bytes of a body, `pause` after each MiB.
fn take(stream: &mut TcpStream, bytes: usize, pause: Duration) -> io::Result<()> {
    let mut left = bytes;
    let mut buffer = vec![0; MIB];
    while left > 0 {
        let part = left.min(MIB);
        stream.read_exact(&mut buffer[..part])?;
        left -= part;
        thread::sleep(pause);
    }
    Ok(())
}

fn content(bytes: usize) -> Vec<u8> {
    let byte = |number: usize| u8::try_from(number * number / 7 % 251).unwrap_or(0);
    (0..bytes).map(byte).collect()
}

// hazard: An upload over a slow line is ended by a limit that is meant for an answer, each time.
// class: One limit for all steps.
// members: a line that is slow, a store that takes its time after the last byte
// now: an upload has as long as a line of 256 kbit/s needs, and ends
#[test]
fn upload_that_takes_longer_than_an_answer_may_take_is_no_failure() {
    let server = Server::start(|_, _, stream| {
        take(stream, LARGE, Duration::from_millis(100))?;
        respond(stream, 200, "", "")
    });
    let began = Instant::now();
    let created = server.writer(SHORT).create(KEY, vec![7; LARGE], &Metadata::new());
    assert!(matches!(created, Ok(true)), "{created:?}");
    assert!(began.elapsed() > 2 * SHORT.answer, "the upload was slow");
    assert_eq!(server.heads("put").len(), 1, "it was sent once");
}

// hazard: An upload that makes no progress holds a drain, with everything stopped, for hours.
// class: One limit for all steps.
// members: a connection that is dead, a store that takes everything and does not answer
// now: `Unreachable`, 111, after three minutes without progress at each of eight attempts; the
// message says so, and how much was sent
#[test]
fn upload_that_makes_no_progress_ends_with_an_error_that_says_so() {
    let limits =
        Limits { answer: Duration::from_millis(300), upload_bytes_per_second: 8 << 20, ..SHORT };
    for (bytes, taken) in [(LARGE, MIB), (LARGE, LARGE), (9, 9)] {
        let server = Server::start(move |_, head, stream| {
            if head.starts_with("head") {
                return respond(stream, 404, "", "");
            }
            take(stream, taken, Duration::ZERO)?;
            thread::sleep(Duration::from_secs(60));
            Ok(())
        });
        let began = Instant::now();
        let created = server.writer(limits).create(KEY, vec![7; bytes], &Metadata::new());
        let elapsed = began.elapsed();
        let error = created.expect_err("it was not taken");
        let said = error.to_string();
        assert!(said.contains("no progress for"), "{said}");
        assert!(said.contains(&format!("of {bytes} bytes")), "{said}");
        assert!(matches!(error, Error::Stalled { .. }), "{said}");
        assert_eq!(server.heads("put").len(), 2, "it was tried again");
        // Two attempts with progress may take so long.
        assert!(elapsed < 2 * limits.upload(bytes as u64), "{elapsed:?}");
    }
}

// hazard: A download that is cut in the middle is taken for whole, or begins again for ever.
// class: A truncated stream is taken for whole.
// members: a connection that closes, and one on which nothing comes any more
// now: it goes on where it ended, and the bytes are the same
#[test]
fn download_that_is_cut_goes_on_where_it_ended() {
    let whole = content(300_000);
    for stalls in [false, true] {
        let body = whole.clone();
        let server = Server::start(move |_, head, stream| {
            send(stream, head, &body, 110_000)?;
            if stalls {
                thread::sleep(Duration::from_secs(60));
            }
            Ok(())
        });
        let limits = Limits { answer: Duration::from_millis(500), ..SHORT };
        let reader = server.reader(limits);
        let read = reader.get(KEY, 1 << 20).expect("fetched").expect("it is there");
        assert!(read == whole, "the same bytes");
        let heads = server.heads("get");
        assert_eq!(heads.len(), 3, "{heads:?}");
        assert_eq!(header(&heads[0], "range"), None);
        for head in &heads[1..] {
            assert!(from(head) > 0, "{head}");
            assert_eq!(header(head, "if-match"), Some("\"one\""), "{head}");
        }
    }
}

// hazard: A download that never ends is tried for ever, or what came of it is taken for whole.
// class: A truncated stream is taken for whole.
// members: a store that has another object by now, a store that ignores `Range`
// now: `Unreachable`, 111, or what the store says; never other bytes
#[test]
fn download_that_cannot_go_on_is_an_error() {
    let whole = content(300_000);
    let (body, again) = (whole.clone(), whole.clone());
    let cut: Answer = Box::new(move |number, head, stream| {
        send(stream, head, &body, if number == 0 { 110_000 } else { 0 })
    });
    let replaced: Answer = Box::new(|number, _, stream| {
        if number > 0 {
            return respond(stream, 412, "", "<Error><Code>PreconditionFailed</Code></Error>");
        }
        stream.write_all(b"HTTP/1.1 200 S\r\nETag: \"one\"\r\nContent-Length: 9\r\n\r\nabc")
    });
    let ignored: Answer = Box::new(move |_, _, stream| send(stream, "", &again, 110_000));
    for (what, answer, requests) in
        [("cut", cut, 2), ("replaced", replaced, 2), ("ignored", ignored, 2)]
    {
        let server = Server::start(answer);
        let began = Instant::now();
        let read = server.reader(SHORT).get(KEY, 1 << 20);
        let error = read.expect_err(what);
        assert!(
            matches!(error, Error::Unreachable { .. } | Error::Rejected { .. }),
            "{what}: {error}"
        );
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        assert_eq!(server.heads("get").len(), requests, "{what}: {error}");
    }
}

/// Sends what `head` asks for, and at most so many bytes of it.
fn send(stream: &mut TcpStream, head: &str, whole: &[u8], bytes_max: usize) -> io::Result<()> {
    let (from, end) = (from(head), whole.len());
    let (status, range) = if from > 0 {
        (206, format!("Content-Range: bytes {from}-{}/{end}\r\n", end - 1))
    } else {
        (200, String::new())
    };
    let length = end - from;
    let head = format!("HTTP/1.1 {status} S\r\n{range}ETag: \"one\"\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n").as_bytes())?;
    stream.write_all(&whole[from..end.min(from + bytes_max)])
}

/// The first byte that `head` asks for.
fn from(head: &str) -> usize {
    let range = header(head, "range").and_then(|range| range.strip_prefix("bytes="));
    range.and_then(|range| range.strip_suffix('-')?.parse().ok()).unwrap_or(0)
}

// hazard: A bucket with Object Lock takes no object, and a drain fails after everything stopped.
// class: What cannot be drained is found out too late.
// members: buckets with a default retention, which refuse an object without a checksum
// now: every object goes with its MD5
#[test]
fn every_object_goes_with_the_checksum_that_object_lock_requires() {
    let server = Server::start(|_, head, stream| {
        take(stream, 9, Duration::ZERO)?;
        // What AWS says: github.com/aws/aws-sdk-php/issues/1694.
        let why = "<Error><Code>InvalidRequest</Code><Message>Content-MD5 HTTP header is required \
                   for Put Object requests with Object Lock parameters</Message></Error>";
        match header(head, "content-md5") {
            None => respond(stream, 400, "", why),
            Some(_) => respond(stream, 200, "", ""),
        }
    });
    let created = server.writer(SHORT).create(KEY, b"the bytes".to_vec(), &Metadata::new());
    assert!(matches!(created, Ok(true)), "{created:?}");
    // `printf 'the bytes' | openssl md5 -binary | base64`, in lower case as all of the head.
    let heads = server.heads("put");
    assert_eq!(header(&heads[0], "content-md5"), Some("q0jocdd+xz++ewy5seipsa=="), "{heads:?}");
}

// hazard: An answer is lost, the object is locked by then, and the drain fails although all is there.
// class: An answer that got lost is taken for a failure.
// members: stores that say `AccessDenied`, `InvalidRequest` or `PreconditionFailed` of a locked object
// now: what lies there is looked at, and adopted only if it is ours and whole
#[test]
fn object_that_is_locked_since_its_answer_was_lost_is_looked_at() {
    // Measured: versitygw 1.8.0 without versions; `ErrObjectLocked` of MinIO; AWS.
    let answers = [
        (
            403,
            "<Error><Code>AccessDenied</Code><Message>protected by object lock</Message></Error>",
        ),
        (400, "<Error><Code>InvalidRequest</Code><Message>WORM protected</Message></Error>"),
        (412, "<Error><Code>PreconditionFailed</Code></Error>"),
    ];
    for (status, body) in answers {
        let server = Server::start(move |number, head, stream| {
            if head.starts_with("head") {
                return respond(stream, 200, "x-amz-meta-proof: ours\r\n", "");
            }
            take(stream, 9, Duration::ZERO)?;
            // The first one arrives, and its answer does not.
            if number == 0 { Ok(()) } else { respond(stream, status, "", body) }
        });
        let created = server.writer(SHORT).create(KEY, b"the bytes".to_vec(), &Metadata::new());
        assert!(matches!(created, Ok(false)), "{status}: {created:?}");
        assert_eq!(server.heads("put").len(), 2, "{status}");
    }
}

#[test]
fn object_that_is_refused_and_not_there_is_an_error_with_the_words_of_the_store() {
    let server = Server::start(|_, head, stream| {
        if head.starts_with("head") {
            return respond(stream, 404, "", "");
        }
        take(stream, 9, Duration::ZERO)?;
        respond(stream, 403, "", "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
    });
    let created = server.writer(SHORT).create(KEY, b"the bytes".to_vec(), &Metadata::new());
    let error = created.expect_err("it was not taken");
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("AccessDenied no"), "{error}");
}
