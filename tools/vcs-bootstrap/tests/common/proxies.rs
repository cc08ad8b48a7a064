//! Proxies and other hosts of a network, which record what they receive.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use testing::http::{Request, Response, Server, listen};

use crate::common::Test;

/// Loopback address of the proxy that ends TLS.
const PROXY: &str = "127.76.0.8";

/// Starts a server that must never receive a token. It answers every request with a demand for
/// credentials.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn recorder(
    host: &str,
    status: u16,
    (name, challenge): (&'static str, &'static str),
) -> io::Result<Server> {
    Server::start((host, 0), move |_| Some(Response::new(status, "").with(name, challenge)))
}

/// Requests that a proxy received: the request line and the header `Proxy-Authorization`.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// Proxy that ends TLS itself, with a certificate of an authority of its own.
#[allow(dead_code, reason = "not every test that has this module needs all of it")]
pub(crate) struct TlsProxy {
    pub(crate) address: SocketAddr,
    /// Certificate of the authority in PEM.
    pub(crate) authority: String,
    seen: Seen,
}

#[allow(dead_code, reason = "not every test that has this module needs it")]
impl TlsProxy {
    /// Starts a proxy for `host` that passes requests to `forge`, without the path of a GitHub Enterprise
    /// Server. It demands the login `user:word` if `demands_login`.
    pub(crate) fn start(host: &str, forge: SocketAddr, demands_login: bool) -> Test<Self> {
        let (tls, authority) = certificate(host)?;
        let (seen, tls) = (Seen::default(), Arc::new(tls));
        let shared = Arc::clone(&seen);
        let address = listen((PROXY, 0), move |client| {
            // A client may end a connection at any time.
            let _ = tunnel(client, &tls, forge, demands_login, &shared);
        })?;
        Ok(Self { address, authority, seen })
    }

    /// Returns the requests since the last call.
    pub(crate) fn take_seen(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Creates an authority, and the configuration of a server whose certificate for `host` the authority has
/// signed. Returns it with the authority in PEM.
fn certificate(host: &str) -> Test<(ServerConfig, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &issuer)?;
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
