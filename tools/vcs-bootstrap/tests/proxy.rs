//! A company's network: the forge is a GitHub Enterprise Server with a certificate of the company's own
//! authority, and it is reached through a proxy for HTTP only.

#[path = "common/apps.rs"]
mod apps;
mod common;
#[path = "common/github.rs"]
mod github;
#[path = "common/http.rs"]
mod http;
#[path = "common/openapi.rs"]
mod openapi;

use std::fs;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use common::{Sandbox, Test, ready, status, stderr};
use data_encoding::BASE64;
use github::GitHub;
use http::TOKEN;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use testing::http::{Request, listen};

/// Host that only the proxy can reach.
const HOST: &str = "forge.example";
/// Root key, because the one of the other tests is published, and this forge is not on this machine.
const ROOT: &str = "b3a1c29d5e0f4786a9b8c7d6e5f40312233445566778899aabbccddeeff00717";
const PROXY: &str = "127.76.0.8";

/// Requests that a proxy received: the request line and the header `Proxy-Authorization`.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// Creates an authority, and the configuration of a server whose certificate the authority has signed.
/// Returns it with the authority in PEM.
fn authority() -> Test<(ServerConfig, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &issuer)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(leaf.der().to_vec())],
            PrivateKeyDer::try_from(key.serialize_der())?,
        )?;
    Ok((config, pem))
}

/// Starts a proxy that ends TLS itself and passes requests to `forge`, without the path of a GitHub
/// Enterprise Server. It demands the login `user:word` if `demands_login`.
fn proxy(tls: ServerConfig, forge: SocketAddr, demands_login: bool) -> Test<(SocketAddr, Seen)> {
    let (seen, tls) = (Seen::default(), Arc::new(tls));
    let shared = Arc::clone(&seen);
    let address = listen((PROXY, 0), move |client| {
        // A client may end a connection at any time.
        let _ = tunnel(client, &tls, forge, demands_login, &shared);
    })?;
    Ok((address, seen))
}

fn tunnel(
    mut client: TcpStream,
    tls: &Arc<ServerConfig>,
    forge: SocketAddr,
    demands_login: bool,
    seen: &Seen,
) -> io::Result<()> {
    let mut writer = client.try_clone()?;
    let Some(connect) = Request::read(&mut BufReader::new(&mut client), &mut writer)? else {
        return Ok(());
    };
    let login = connect.header("proxy-authorization").to_owned();
    let right = format!("Basic {}", BASE64.encode(b"user:word"));
    let line = format!("{} {}", connect.method, connect.target);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push((line, login.clone()));
    if demands_login && login != right {
        let head = "HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic\r\nConnection: close\r\n";
        return writer.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes());
    }
    writer.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let connection = ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, client);
    let mut interim = Vec::new();
    let request = Request::read(&mut BufReader::new(&mut stream), &mut interim)?;
    let Some(request) = request else { return Ok(()) };
    let target = request.target.strip_prefix("/api/v3").unwrap_or(&request.target);
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method);
    for (name, value) in request.headers.iter().filter(|(name, _)| *name != "expect") {
        head.extend([name, ": ", value, "\r\n"]);
    }
    let mut server = TcpStream::connect(forge)?;
    server.write_all(&[head.as_bytes(), b"\r\n", &request.body].concat())?;
    server.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    stream.write_all(&answer)?;
    stream.conn.send_close_notify();
    stream.flush()
}

struct World {
    github: GitHub,
    sandbox: Sandbox,
    proxy: SocketAddr,
    seen: Seen,
    authority: String,
}

fn world(demands_login: bool) -> Test<World> {
    let github = GitHub::start()?;
    github.state(|state| state.clone_host = Some(format!("https://{HOST}")));
    let endpoint =
        format!("{{github: {{url: \"https://{HOST}/api/v3\", token: {{env: FORGE_TOKEN}}}}}}");
    let sandbox = Sandbox::new(&endpoint, TOKEN)?;
    sandbox.declare("greeter", "owner: owner, description: ours, history: {push: fastForward}")?;
    let (tls, pem) = authority()?;
    let file = sandbox.path().join("ca.pem");
    fs::write(&file, pem)?;
    let (proxy, seen) = proxy(tls, github.address, demands_login)?;
    Ok(World { github, sandbox, proxy, seen, authority: file.display().to_string() })
}

impl World {
    fn run(&self, verb: &str, login: &str) -> assert_cmd::assert::Assert {
        let proxy = format!("http://{login}{}", self.proxy);
        let variables = [
            ("ROOT", ROOT),
            ("https_proxy", proxy.as_str()),
            ("SSL_CERT_FILE", self.authority.as_str()),
        ];
        self.sandbox.run_with(verb, &variables)
    }

    fn connections(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// hazard: Behind a proxy, git reaches the forge and the API does not.
// class: Two clients have two ways.
// members: https_proxy with and without a login, GitHub Enterprise Server, a private authority
// now: both use the proxy, which sees CONNECT alone
#[test]
fn api_and_git_reach_the_forge_through_the_same_proxy() -> Test {
    for (demands_login, login) in [(false, ""), (true, "user:word@")] {
        let world = world(demands_login)?;
        let run = world.run("apply", login).success();
        assert_eq!(ready(&status(&run)?), ("True", "AsDeclared"));
        assert!(world.github.pushes() > 0, "git has pushed");
        world.run("plan --check", login).success();
        let connections = world.connections();
        assert!(connections.iter().all(|(line, _)| *line == format!("CONNECT {HOST}:443")));
        let all = format!("{connections:?}");
        assert!(!all.contains(TOKEN) && !all.contains(&BASE64.encode(TOKEN.as_bytes())), "{all}");
        assert_eq!(world.github.state(|state| state.wrong.clone()), [""; 0]);
    }
    Ok(())
}

#[test]
fn proxy_that_demands_another_login_is_named_at_once() -> Test {
    let world = world(true)?;
    let began = std::time::Instant::now();
    let run = world.run("plan", "user:hunter2@").code(100);
    assert_eq!(ready(&status(&run)?), ("False", "Unauthorized"));
    let said = stderr(&run);
    assert!(
        said.contains("proxy") && said.contains("https_proxy") && !said.contains("hunter2"),
        "{said}"
    );
    assert_eq!(world.connections().len(), 1, "one attempt");
    assert!(began.elapsed().as_secs() < 10);
    Ok(())
}
