//! Faults in front of a real registry, at requests all over a first publication.

#[path = "hazards/stub.rs"]
#[allow(dead_code, unused_imports, reason = "this test needs the sandbox alone")]
mod stub;
mod support;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use stub::{Sandbox, Test, text};
use support::Server;
use support::proxy::request;
use testing::http::{Request, Response, listen_to_requests};

/// A fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A rate limit of one second.
    RateLimit,
    /// The token has expired.
    Expired,
    /// The registry executes the request, and a proxy answers 502.
    Executed,
    /// The connection breaks after half of the body.
    Cut,
    /// The registry rejects the request for good.
    Rejected,
}

#[derive(Default)]
struct State {
    fault: Option<(Fault, usize)>,
    /// Number of requests that this kind of fault can hit.
    count: usize,
    has_hit: bool,
    /// Number of tokens that were granted. Only the last one is valid.
    tokens: usize,
}

/// A proxy in front of the registry at `to`, which demands tokens.
#[derive(Clone)]
struct Faults(Arc<Mutex<State>>);

impl Faults {
    fn listen(to: &str) -> io::Result<(Self, SocketAddr)> {
        let faults = Self(Arc::default());
        let (shared, to) = (faults.clone(), to.to_owned());
        let address = listen_to_requests("127.0.0.1:0", move |request, client| {
            shared.pass(request, client, &to).map(|()| false)
        })?;
        Ok((faults, address))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pass(&self, request: &Request, client: &mut TcpStream, to: &str) -> io::Result<()> {
        let close = |response: Response| response.with("Connection", "close");
        if request.path == "/token" {
            let token = self.with(|state| {
                state.tokens += 1;
                format!(r#"{{"token":"token-{}"}}"#, state.tokens)
            });
            return close(Response::new(200, token)).write(&request.method, client);
        }
        let fault = self.with(|state| state.next(request));
        if fault == Some(Fault::Expired) {
            self.with(|state| state.tokens += 1);
        }
        let valid = self.with(|state| format!("Bearer token-{}", state.tokens));
        if request.header("authorization") != valid {
            let host = request.header("host");
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
            let answer = Response::new(401, "").with("WWW-Authenticate", challenge);
            return close(answer).write(&request.method, client);
        }
        let refused = |status| {
            close(Response::new(status, r#"{"errors":[{"code":"FAULT","message":"on purpose"}]}"#))
        };
        match fault {
            Some(Fault::RateLimit) => {
                refused(429).with("Retry-After", "1").write(&request.method, client)
            }
            Some(Fault::Rejected) => refused(400).write(&request.method, client),
            Some(Fault::Executed) => {
                forward(request, to, request.body.len())?;
                refused(502).write(&request.method, client)
            }
            Some(Fault::Cut) => forward(request, to, request.body.len() / 2).map(drop),
            Some(Fault::Expired) | None => {
                client.write_all(&forward(request, to, request.body.len())?)
            }
        }
    }
}

impl State {
    /// Returns the fault of this request, if it is the one to hit.
    fn next(&mut self, request: &Request) -> Option<Fault> {
        let (fault, number) = self.fault?;
        let is_write = !matches!(request.method.as_str(), "GET" | "HEAD");
        let can_hit = match fault {
            // The first PUT comes after the first token.
            Fault::Expired => request.method == "PUT",
            Fault::RateLimit | Fault::Executed | Fault::Rejected => is_write,
            Fault::Cut => !request.body.is_empty(),
        };
        if !can_hit || self.has_hit {
            return None;
        }
        self.count += 1;
        self.has_hit = self.count > number;
        self.has_hit.then_some(fault)
    }
}

/// Sends a request with the first `length` bytes of its body, and returns the response. A shorter body breaks
/// the connection.
fn forward(request: &Request, to: &str, length: usize) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(to)?;
    let mut head =
        format!("{} {} HTTP/1.1\r\nconnection: close\r\n", request.method, request.target);
    for (name, value) in request.headers.iter().filter(|(name, _)| *name != "connection") {
        head.extend([name, ": ", value, "\r\n"]);
    }
    server.write_all(&[head.as_bytes(), b"\r\n", &request.body[..length]].concat())?;
    let mut response = Vec::new();
    if length == request.body.len() {
        server.read_to_end(&mut response)?;
    }
    Ok(response)
}

// hazard: A fault in the middle of a publication leaves a tag without signatures, or a run that never ends.
// class: A fault of one of several parallel requests.
// members: rate limits, expired tokens, lost responses, broken connections, rejections; at every part of a run
// now: the run succeeds or ends with one error, and whatever is tagged verifies
#[test]
fn a_fault_at_any_request_ends_in_success_or_in_one_error_and_never_in_an_unsigned_tag() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.2.2:5000", folder.path(), true)?;
    let (faults, address) = Faults::listen(&server.1)?;
    let sandbox = Sandbox::new(&address.to_string())?;
    for fault in [Fault::RateLimit, Fault::Expired, Fault::Executed, Fault::Cut, Fault::Rejected] {
        let mut hits = 0;
        for number in (0..).step_by(3) {
            let repository = format!("{fault:?}-{number}").to_lowercase();
            let input = sandbox.project(", token: {env: PASSWORD}")
                + &sandbox.artifact("a", "a", &repository);
            faults.with(|state| {
                *state = State {
                    fault: Some((fault, number)),
                    tokens: state.tokens,
                    ..State::default()
                };
            });
            let run = sandbox.run("apply", &input, &[])?;
            let has_hit = faults.with(|state| {
                state.fault = None;
                state.has_hit
            });
            let said = String::from_utf8_lossy(&run.stderr).into_owned();
            let list =
                request(&server.1, &format!("GET /v2/test/{repository}/tags/list"), "", b"")?;
            let list: Value = serde_json::from_str(&list.1)?;
            let tags = list["tags"].as_array().cloned().unwrap_or_default();
            let is_tagged =
                tags.iter().filter_map(Value::as_str).any(|tag| !tag.starts_with("sha256-"));
            match run.status.code() {
                Some(0) => {
                    assert!(is_tagged, "{fault:?} {number}: {said}");
                    assert!(fault != Fault::Rejected || !has_hit, "{number}: {said}");
                    sandbox.expect(0, "verify", &text(&stub::written(&run)?))?;
                }
                code => {
                    assert_eq!(code, Some(100), "{fault:?} {number}: {said}");
                    assert_eq!(fault, Fault::Rejected, "{number}: {said}");
                    assert_eq!(said.matches("FAULT on purpose").count(), 1, "{number}: {said}");
                    assert!(!is_tagged, "{number}: nothing is tagged");
                }
            }
            if !has_hit {
                break;
            }
            hits += 1;
        }
        assert!(hits >= 4, "{fault:?}: {hits} hits");
    }
    Ok(())
}
