//! TLS in both directions: the Talos API that a node serves, and the calls that a node makes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Attempt, Error};
use crate::pki::Issued;

const CONNECT: Duration = Duration::from_secs(3);
const EXCHANGE: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(pem: &[&CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in pem {
        roots.add((*certificate).clone()).attempt("an authority cannot be trusted")?;
    }
    Ok(Arc::new(roots))
}

/// Returns a server that requires a client certificate of one of `clients`. With no `clients`, the server asks
/// for no certificate.
pub(crate) fn server(
    issued: Issued,
    clients: &[&CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .attempt("TLS")?;
    let builder = if clients.is_empty() {
        builder.with_no_client_auth()
    } else {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(clients)?, provider());
        builder.with_client_cert_verifier(verifier.build().attempt("client certificates")?)
    };
    let chain = vec![issued.certificate];
    let mut config =
        builder.with_single_cert(chain, issued.key).attempt("the node's certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Returns a client that trusts only `authority` and shows a certificate.
pub(crate) fn client(
    authority: &CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(&[authority])?, provider());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .attempt("TLS")?
        .with_webpki_verifier(verifier.build().attempt("server certificates")?)
        .with_client_auth_cert(vec![certificate], key)
        .attempt("the client's certificate")?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// Connects to `address`, whose certificate must name the address.
pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Error> {
    let operation = || format!("cannot reach {address}");
    let stream = timeout(CONNECT, TcpStream::connect(address))
        .await
        .attempt(operation())?
        .attempt(operation())?;
    let _ = stream.set_nodelay(true); // measured: otherwise every request takes 40 ms longer
    let name = ServerName::IpAddress(address.ip().into());
    let connected = timeout(CONNECT, TlsConnector::from(config).connect(name, stream)).await;
    connected.attempt(operation())?.attempt(operation())
}

/// A request over HTTP.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Media type and content.
    pub(crate) body: Option<(&'a str, &'a [u8])>,
}

impl<'a> Question<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: "GET", path, body: None }
    }
}

/// Makes a request over TLS. Returns the status and the body of the answer.
pub(crate) async fn ask(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    question: &Question<'_>,
) -> Result<(u16, Vec<u8>), Error> {
    let exchange = async { exchange(connect(address, config).await?, address, question).await };
    timeout(EXCHANGE, exchange)
        .await
        .attempt(format!("{address} did not answer {}", question.path))?
}

/// Makes a `GET` without TLS, as the kubelet's health check requires. Returns the status.
pub(crate) async fn ask_plainly(address: SocketAddr, path: &str) -> Result<u16, Error> {
    let operation = || format!("{address} did not answer {path}");
    let question = async {
        let stream = TcpStream::connect(address).await.attempt(operation())?;
        exchange(stream, address, &Question::get(path)).await
    };
    timeout(CONNECT, question).await.attempt(operation())?.map(|(status, _)| status)
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    question: &Question<'_>,
) -> Result<(u16, Vec<u8>), Error> {
    let Question { method, path, body } = question;
    let operation = || format!("{address} did not answer {path}");
    // HTTP/1.0, because the answer then has no chunks and ends with the connection.
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n").into_bytes();
    if let Some((media, body)) = body {
        let head = format!("Content-Type: {media}\r\nContent-Length: {}\r\n\r\n", body.len());
        request.extend(head.into_bytes());
        request.extend(*body);
    } else {
        request.extend(b"\r\n");
    }
    stream.write_all(&request).await.attempt(operation())?;
    let mut answer = Vec::new();
    // A server may close the connection without `close_notify`, which is no error here.
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    let status =
        answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let status = status.ok_or_else(|| Error::new(operation()))?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(answer.len(), |start| start + 4);
    Ok((status, answer.split_off(end)))
}
