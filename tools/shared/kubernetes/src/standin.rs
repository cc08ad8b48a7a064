//! A stand-in for an API server on loopback, which answers as a test says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use secrets::Secret;
use serde_json::{Value, json};

use crate::client::{Client, Settings};
use crate::{Error, Kubeconfig};

/// Credential of every client in these tests.
pub(crate) const TOKEN: &str = "hunter2-of-the-tests";

pub(crate) const SETTINGS: Settings =
    Settings { manager: "a-test", deadline: Duration::from_secs(1) };

/// Answer to one request.
pub(crate) enum Reply {
    /// HTTP status and body.
    Json(u16, Value),
    /// HTTP status, one header and body.
    With(u16, &'static str, Value),
    /// Text that is no JSON.
    Text(u16, &'static str),
    /// The connection is closed.
    Cut,
    /// The connection stays open.
    Silent,
    /// A body whose lines come from a test, until the test drops their sender.
    Lines(Receiver<Value>),
}

/// The server, which runs until the test ends.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts a server that calls `answer` with the method and the path of each request.
    pub(crate) fn start(answer: impl FnMut(&str, &str) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self::on(listener, answer)
    }

    pub(crate) fn on(
        listener: TcpListener,
        mut answer: impl FnMut(&str, &str) -> Reply + Send + 'static,
    ) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&requests);
        thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                let Some((method, path)) = request(&stream) else { continue };
                let mut requests = shared.lock().unwrap_or_else(PoisonError::into_inner);
                requests.push(format!("{method} {path}"));
                match answer(&method, &path) {
                    Reply::Json(code, body) => respond(&stream, code, "", &body.to_string()),
                    Reply::With(code, header, body) => {
                        respond(&stream, code, &format!("{header}\r\n"), &body.to_string());
                    }
                    Reply::Text(code, body) => respond(&stream, code, "", body),
                    Reply::Cut => {}
                    Reply::Silent => open.push(stream),
                    Reply::Lines(lines) => {
                        drop(thread::spawn(move || stream_lines(&stream, &lines)));
                    }
                }
            }
        });
        Self { url, requests }
    }

    /// Returns the requests so far, each as `GET /path?query`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a client of this server.
    pub(crate) fn client(&self) -> Client {
        client(&self.url).expect("a client")
    }
}

pub(crate) fn client(url: &str) -> Result<Client, Error> {
    let kubeconfig = kubeconfig(url, &json!({"token": TOKEN}));
    Client::open(&Kubeconfig::parse(&kubeconfig)?, SETTINGS)
}

/// Writes a kubeconfig of one user.
pub(crate) fn kubeconfig(url: &str, user: &Value) -> Secret {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
    });
    Secret::new(kubeconfig.to_string().into_bytes())
}

/// Writes a `Status` of a failure.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message})
}

/// Reads one request. The stand-in needs its method and its path.
fn request(stream: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    let mut words = first.split(' ');
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

fn stream_lines(mut stream: &TcpStream, lines: &Receiver<Value>) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    for line in lines {
        let _ = writeln!(stream, "{line}");
    }
}

fn respond(mut stream: &TcpStream, code: u16, header: &str, body: &str) {
    let length = body.len();
    // A client that has left needs no answer.
    let _ = write!(
        stream,
        "HTTP/1.1 {code} X\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}
