//! Tests of the client with a simulated store on loopback. The store is slow, stalls, truncates its
//! responses, or locks its objects. Limits are short, so that a test takes seconds.

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
/// Size of an upload that exceeds the kernel's buffers on both sides.
const LARGE: usize = 24 * MIB;
const SHORT: Limits = Limits {
    attempts: 2,
    backoff: Duration::from_millis(10),
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(1),
    upload_bytes_per_second: 2 << 20,
};

type Answer = Box<dyn Fn(usize, &str, &mut TcpStream) -> io::Result<()> + Send + Sync>;

/// A simulated store with one thread and one request for each connection.
struct Server {
    folder: TempDir,
    url: String,
    /// Head of every request in lower case.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts the store. `answer` gets the number of the request, its head and the connection.
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
        let contract::Store::S3 { credentials, .. } = &store;
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

/// Reads `bytes` of a body and pauses after each MiB.
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

// hazard: Every upload over a slow connection fails at a limit that is meant for a response.
// class: One limit for all steps.
// members: a slow connection, a store that is slow after the last byte
// now: the limit of an upload is the time that a connection of 256 kbit/s needs
#[test]
fn an_upload_may_take_longer_than_the_limit_of_a_response() {
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

// hazard: An upload without progress delays a drain for hours, while every workload is stopped.
// class: One limit for all steps.
// members: a dead connection, a store that accepts every byte and does not answer
// now: `Unreachable`, 111, after three minutes without progress at each of eight attempts; the
// message states the time and the bytes that were sent
#[test]
fn an_upload_without_progress_fails_with_an_error_that_names_the_stall() {
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
        // Upper limit of two attempts with progress.
        assert!(elapsed < 2 * limits.upload(bytes as u64), "{elapsed:?}");
    }
}

// hazard: A truncated download counts as complete, or restarts for ever.
// class: A truncated stream counts as complete.
// members: a closed connection, a silent connection
// now: the download continues where it ended, and the bytes are equal
#[test]
fn a_truncated_download_continues_where_it_ended() {
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

// hazard: An endless download is retried for ever, or its first part counts as complete.
// class: A truncated stream counts as complete.
// members: a store whose object has changed, a store that ignores `Range`
// now: `Unreachable`, 111, or the error of the store; never other bytes
#[test]
fn a_truncated_download_fails_when_the_store_cannot_continue_it() {
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

/// Sends the range that `head` requests, but at most `bytes_max` bytes.
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

/// Returns the first byte of the range in `head`.
fn from(head: &str) -> usize {
    let range = header(head, "range").and_then(|range| range.strip_prefix("bytes="));
    range.and_then(|range| range.strip_suffix('-')?.parse().ok()).unwrap_or(0)
}

// hazard: A bucket with Object Lock accepts no object, and a drain fails after every workload has stopped.
// class: An obstacle to the drain is found too late.
// members: buckets with a default retention, which reject an object without a checksum
// now: every upload has its MD5
#[test]
fn every_upload_has_the_checksum_that_object_lock_requires() {
    let server = Server::start(|_, head, stream| {
        take(stream, 9, Duration::ZERO)?;
        // Message of AWS: https://github.com/aws/aws-sdk-php/issues/1694.
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

// hazard: A response is lost, the object is locked, and the drain fails although the object is complete.
// class: A lost response counts as a failure.
// members: stores that answer `AccessDenied`, `InvalidRequest` or `PreconditionFailed` for a locked object
// now: the existing object is read, and adopted only if it is ours and undamaged
#[test]
fn create_reads_a_locked_object_after_a_lost_response() {
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
            // The first object arrives, and its response is lost.
            if number == 0 { Ok(()) } else { respond(stream, status, "", body) }
        });
        let created = server.writer(SHORT).create(KEY, b"the bytes".to_vec(), &Metadata::new());
        assert!(matches!(created, Ok(false)), "{status}: {created:?}");
        assert_eq!(server.heads("put").len(), 2, "{status}");
    }
}

#[test]
fn create_fails_with_the_message_of_the_store_when_the_object_does_not_exist() {
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
