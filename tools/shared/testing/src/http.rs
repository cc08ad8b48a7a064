//! HTTP/1.1 servers in the process of a test, which record their requests.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A request that a server received.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Method, for example `GET`.
    pub method: String,
    /// Path with its query, as in the request line.
    pub target: String,
    /// Path without its query.
    pub path: String,
    /// Query without the question mark, or nothing.
    pub query: String,
    /// Headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body with the length that `Content-Length` announces.
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the next request of a connection, or `None` at the connection's end. Sends the interim
    /// response that an `Expect: 100-continue` waits for.
    pub fn read(reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<Option<Self>> {
        let first = line(reader)?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = line(reader)?.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        if headers.contains_key("expect") {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        Ok(Some(Self { method, target, path, query, headers, body }))
    }

    /// Returns a header by its name in lower case, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Reads a line without its end. Bytes that are not UTF-8 are replaced.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.read_until(b'\n', &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// A response of a server.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status, for example 404.
    pub status: u16,
    /// Names and values of the headers, except `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns a response without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Writes the response to a request with this `method`: a response to `HEAD` has no body.
    pub fn write(&self, method: &str, writer: &mut impl Write) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Response\r\n", self.status);
        for (name, value) in &self.headers {
            head.extend([name.as_str(), ": ", value, "\r\n"]);
        }
        head.extend(["Content-Length: ", &self.body.len().to_string(), "\r\n\r\n"]);
        let body: &[u8] = if method == "HEAD" { &[] } else { &self.body };
        writer.write_all(&[head.as_bytes(), body].concat())
    }
}

/// Listens on `address` until the test process ends, and calls `serve` in a thread for each connection.
pub fn listen(
    address: impl ToSocketAddrs,
    serve: impl Fn(TcpStream) + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(client));
        }
    });
    Ok(address)
}

/// Listens on `address` until the test process ends. `answer` writes the response to each request;
/// when `answer` returns false or fails, the connection is closed.
pub fn listen_to_requests(
    address: impl ToSocketAddrs,
    answer: impl Fn(&Request, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    listen(address, move |mut stream| {
        let _ = stream.set_nodelay(true); // a slower test is no failure
        let Ok(reader) = stream.try_clone() else { return };
        let mut reader = BufReader::new(reader);
        while let Ok(Some(request)) = Request::read(&mut reader, &mut stream)
            && answer(&request, &mut stream).is_ok_and(|goes_on| goes_on)
        {}
    })
}

type Handler = Box<dyn Fn(&Request) -> Option<Response> + Send + Sync>;

/// A server that records its requests, and closes the connection after each.
#[derive(Clone)]
pub struct Server {
    /// Host and port.
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    handler: Arc<Mutex<Handler>>,
}

impl Server {
    /// Starts a server. When `handler` returns `None`, the server closes the connection.
    pub fn start(
        address: impl ToSocketAddrs,
        handler: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (seen, handler) = (Arc::default(), Arc::new(Mutex::new(Box::new(handler) as Handler)));
        let mut server = Self { address: String::new(), seen, handler };
        let shared = server.clone();
        let address = listen_to_requests(address, move |request, stream| {
            lock(&shared.seen).push(request.clone());
            let response = lock(&shared.handler)(request);
            if let Some(response) = response {
                response.with("Connection", "close").write(&request.method, stream)?;
            }
            Ok(false)
        })?;
        server.address = address.to_string();
        Ok(server)
    }

    /// Replaces the handler for all later requests.
    pub fn answer(&self, handler: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static) {
        *lock(&self.handler) = Box::new(handler);
    }

    /// Returns every request since the last call of [`Self::take`].
    #[must_use]
    pub fn seen(&self) -> Vec<Request> {
        lock(&self.seen).clone()
    }

    /// Returns the requests since the last call, and forgets them.
    #[must_use]
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.seen))
    }
}

/// Locks a value that a panicking thread cannot leave half changed.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
