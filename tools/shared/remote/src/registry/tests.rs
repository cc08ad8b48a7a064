use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use documents::Diagnostic as _;
use git::Url;
use secrets::Secret;

use super::*;

const CONTENT: &str = r#"{"schemaVersion":2}"#;
const BYTES_MAX: u64 = 1024;
/// The login `me:sesame` in base64.
const LOGIN: &str = "Basic bWU6c2VzYW1l";

/// Request line and `Authorization` of a request.
#[derive(Clone, Debug, Default)]
struct Seen {
    line: String,
    authorization: String,
}

/// A server on this machine, which answers with the texts that a handler returns.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(handler: impl Fn(&Seen) -> String + Send + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port"), handler)
    }

    fn on(listener: TcpListener, handler: impl Fn(&Seen) -> String + Send + 'static) -> Self {
        let address = listener.local_addr().expect("an address").to_string();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let shared = seen.clone();
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let request = read(&client);
                let response = handler(&request);
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                let _ = client.write_all(response.as_bytes()); // the client may have gone
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn registry(&self) -> Registry {
        let url = Url::try_from(format!("http://{}/x", self.address)).expect("an address");
        let token = Secret::new(b"sesame".to_vec());
        Registry::new("test", &url, Some(Login { user: "me".to_owned(), token })).expect("a client")
    }

    /// Returns a client of the repository `x/y`.
    fn repository(&self) -> Repository {
        self.registry().repository("x/y", "pull")
    }
}

fn read(client: &TcpStream) -> Seen {
    let lines = BufReader::new(client).lines().map_while(Result::ok);
    let mut lines = lines.take_while(|line| !line.is_empty());
    let line = lines.next().unwrap_or_default();
    let authorization = lines.filter_map(|line| {
        line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
    });
    let authorization = authorization.filter(|(name, _)| name == "authorization").last();
    Seen { line, authorization: authorization.map(|(_, value)| value).unwrap_or_default() }
}

fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

fn ok(body: &str) -> String {
    response("200 OK", "", body)
}

/// Resolves the tag `1` with a new client.
fn resolve(repository: &Repository) -> Result<Digest, Error> {
    match repository.manifest("1", MANIFEST, BYTES_MAX)? {
        Lookup::Found(found) => Ok(found.digest),
        Lookup::Absent { code, .. } => panic!("absent: {code}"),
    }
}

#[test]
fn a_registry_that_is_away_for_three_seconds_is_waited_for() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    drop(port); // connections are refused from now on
    let began = Instant::now();
    let server = thread::spawn(move || {
        thread::sleep(Duration::from_secs(3));
        Server::on(TcpListener::bind(address).expect("the same port"), |_| ok(CONTENT))
    });
    let url = Url::try_from(format!("http://{address}")).expect("an address");
    let registry = Registry::new("test", &url, None).expect("a client");
    let digest = resolve(&registry.repository("x", "pull")).expect("the registry came back");
    assert_eq!(digest, Digest::of(CONTENT.as_bytes()));
    assert!(began.elapsed() >= Duration::from_secs(3));
    server.join().expect("the server ran");
}

#[test]
fn a_run_waits_once_for_a_registry_that_stays_away() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    drop(port);
    let url = Url::try_from(format!("http://{address}")).expect("an address");
    let registry = Registry::new("test", &url, None).expect("a client");
    let took = |name: &str| {
        let began = Instant::now();
        let error = resolve(&registry.repository(name, "pull")).expect_err("no answer");
        assert!(error.is_transient(), "{error}");
        began.elapsed()
    };
    assert!(took("x") >= Duration::from_secs(4));
    assert!(took("y") < Duration::from_secs(3), "another repository of the same registry");
}

/// Forms of a challenge that registries send. Flux-seed understood the first one alone.
#[test]
fn every_form_of_a_challenge_is_answered() {
    for (form, expected) in [
        ("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:x/y:pull\"", "Bearer t"),
        ("Bearer realm=\"{realm}\",service=\"s\"", "Bearer t"),
        ("bearer service=s, realm=\"{realm}?a=b\"", "Bearer t"),
        ("Basic realm=\"x\", Bearer realm=\"{realm}\",service=\"s\"", "Bearer t"),
        ("Basic realm=\"x\"\r\nWWW-Authenticate: Bearer realm=\"{realm}\"", "Bearer t"),
        ("Basic realm=\"x\"", LOGIN),
        ("BASIC", LOGIN),
    ] {
        let realm = Server::start(|request| {
            let is_right = request.authorization == LOGIN
                && request.line.contains("scope=repository:x/y:pull");
            if is_right { ok(r#"{"access_token":"t"}"#) } else { response("401 No", "", "") }
        });
        let challenge = form.replace("{realm}", &format!("http://{}/token", realm.address));
        let server = Server::start(move |request| {
            if request.authorization == expected {
                return ok(CONTENT);
            }
            response("401 Who", &format!("WWW-Authenticate: {challenge}\r\n"), "")
        });
        let repository = server.repository();
        assert_eq!(repository.standing().expect("a state"), Standing::LoggedIn, "{form}");
        let digest = resolve(&repository).expect(form);
        assert_eq!(digest, Digest::of(CONTENT.as_bytes()), "{form}");
        assert!(repository.has(&digest).expect(form), "HEAD, too: {form}");
    }
}

#[test]
fn a_blob_is_read_from_the_host_that_the_registry_redirects_to_without_the_login() {
    let storage = Server::start(|_| ok(CONTENT));
    let at = storage.address.clone();
    let server = Server::start(move |request| {
        if request.authorization != LOGIN {
            return response("401 Who", "WWW-Authenticate: Basic\r\n", "");
        }
        response("307 There", &format!("Location: http://{at}/bucket/x?signature=s\r\n"), "")
    });
    let descriptor = Descriptor::of("text/plain", CONTENT.as_bytes());
    let repository = server.repository();
    let blob = repository.described_blob(&descriptor, BYTES_MAX).expect("a blob");
    assert_eq!(blob.as_deref(), Some(CONTENT.as_bytes()));
    let seen = storage.seen();
    assert!(!seen.is_empty() && seen.iter().all(|request| request.authorization.is_empty()));
    assert!(seen[0].line.contains("/bucket/x?signature=s"), "{seen:?}");
}

#[test]
fn a_rate_limit_is_waited_for_as_long_as_the_registry_demands() {
    let answers = Mutex::new(vec![ok(CONTENT), response("429 Slow", "Retry-After: 2\r\n", "")]);
    let server = Server::start(move |_| {
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.pop().unwrap_or_default()
    });
    let began = Instant::now();
    resolve(&server.repository()).expect("the second attempt");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn a_rate_limit_beyond_the_limit_of_the_call_is_an_error_at_once() {
    let server = Server::start(|_| response("429 Slow", "Retry-After: 3600\r\n", ""));
    let error = resolve(&server.repository()).expect_err("an hour is too long");
    assert!(matches!(error, Error::Busy { status: 429, seconds: 3600, .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_body_that_breaks_off_is_requested_again() {
    let cut = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 999\r\n\r\n{".to_owned();
    let answers = Mutex::new(vec![ok(CONTENT), cut]);
    let server = Server::start(move |_| {
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.pop().unwrap_or_default()
    });
    assert_eq!(resolve(&server.repository()).expect("whole"), Digest::of(CONTENT.as_bytes()));
}

#[test]
fn content_of_another_digest_or_size_is_an_error() {
    let server = Server::start(|_| ok(CONTENT));
    let repository = server.repository();
    let other = Digest::of(b"other");
    for corrupt in [
        repository.manifest(other.as_str(), MANIFEST, BYTES_MAX).map(drop),
        repository.blob(&other, BYTES_MAX).map(drop),
    ] {
        assert!(matches!(corrupt, Err(Error::Corrupt { .. })), "{corrupt:?}");
    }
    let whole = Descriptor::of("text/plain", CONTENT.as_bytes());
    let of_size = |size| Descriptor { size, ..whole.clone() };
    let problems = RefCell::new(Vec::new());
    let read = |descriptor: &Descriptor, bytes_max| {
        if let Err(Error::InvalidResponse { problem, .. }) =
            repository.described_blob(descriptor, bytes_max)
        {
            problems.borrow_mut().push(problem);
        }
    };
    let found = CONTENT.len() as u64;
    read(&whole, BYTES_MAX);
    read(&of_size(1), BYTES_MAX);
    let before = server.seen().len();
    read(&of_size(BYTES_MAX + 1), BYTES_MAX);
    assert_eq!(server.seen().len(), before, "nothing is requested that is declared too large");
    read(&of_size(1), found - 1);
    let too_large = |bytes_max| Problem::TooLarge { bytes_max };
    assert_eq!(
        problems.into_inner(),
        [Problem::WrongSize { declared: 1, found }, too_large(BYTES_MAX), too_large(found - 1)]
    );
}

#[test]
fn docker_hub_is_reached_under_all_of_its_names() {
    for (name, api) in [
        ("https://docker.io/me", "https://registry-1.docker.io/v2/me/a/tags/list"),
        ("https://index.docker.io/me", "https://registry-1.docker.io/v2/me/a/tags/list"),
        ("https://registry-1.docker.io/me", "https://registry-1.docker.io/v2/me/a/tags/list"),
        ("https://docker.io.example.org/me", "https://docker.io.example.org/v2/me/a/tags/list"),
    ] {
        let url = Url::try_from(name.to_owned()).expect("an address");
        let registry = Registry::new("test", &url, None).expect("a client");
        let repository = registry.repository("me/a", "pull");
        assert_eq!(repository.at("tags/list"), api, "{name}");
        assert!(repository.is_registry(api), "the login goes there");
    }
}
