//! TLS in both directions: the Talos API as a node serves it, and a node's own calls.

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

use crate::pki::Issued;
use crate::trouble::{Attempt, Trouble};

const CONNECT: Duration = Duration::from_secs(3);
const EXCHANGE: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(pem: &[&CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Trouble> {
    let mut roots = RootCertStore::empty();
    for certificate in pem {
        roots.add((*certificate).clone()).attempt("an authority cannot be trusted")?;
    }
    Ok(Arc::new(roots))
}

/// A server that asks for a certificate of one of `clients`; of none, for none.
pub(crate) fn server(
    issued: Issued,
    clients: &[&CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, Trouble> {
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

/// A client that trusts `authority` alone and shows a certificate.
pub(crate) fn client(
    authority: &CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, Trouble> {
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

/// A connection to `address`, whose certificate must name it.
pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Trouble> {
    let what = || format!("cannot reach {address}");
    let stream =
        timeout(CONNECT, TcpStream::connect(address)).await.attempt(what())?.attempt(what())?;
    let _ = stream.set_nodelay(true); // measured: else every question takes 40 ms longer
    let name = ServerName::IpAddress(address.ip().into());
    let connected = timeout(CONNECT, TlsConnector::from(config).connect(name, stream)).await;
    connected.attempt(what())?.attempt(what())
}

/// A question over HTTP.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Its media type and itself.
    pub(crate) body: Option<(&'a str, &'a [u8])>,
}

impl<'a> Question<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: "GET", path, body: None }
    }
}

/// Asks over TLS; the status and the answer.
pub(crate) async fn ask(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    question: &Question<'_>,
) -> Result<(u16, Vec<u8>), Trouble> {
    let exchange = async { exchange(connect(address, config).await?, address, question).await };
    timeout(EXCHANGE, exchange)
        .await
        .attempt(format!("{address} did not answer {}", question.path))?
}

/// Asks in the clear, as the kubelet's health is asked for.
pub(crate) async fn ask_plainly(address: SocketAddr, path: &str) -> Result<u16, Trouble> {
    let what = || format!("{address} did not answer {path}");
    let question = async {
        let stream = TcpStream::connect(address).await.attempt(what())?;
        exchange(stream, address, &Question::get(path)).await
    };
    timeout(CONNECT, question).await.attempt(what())?.map(|(status, _)| status)
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    question: &Question<'_>,
) -> Result<(u16, Vec<u8>), Trouble> {
    let Question { method, path, body } = question;
    let what = || format!("{address} did not answer {path}");
    // Version 1.0: the answer comes in one piece and ends with the connection.
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n").into_bytes();
    if let Some((media, body)) = body {
        let head = format!("Content-Type: {media}\r\nContent-Length: {}\r\n\r\n", body.len());
        request.extend(head.into_bytes());
        request.extend(*body);
    } else {
        request.extend(b"\r\n");
    }
    stream.write_all(&request).await.attempt(what())?;
    let mut answer = Vec::new();
    // A server may end the connection without TLS's farewell: what came is what counts.
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    let status = answer.get(9..12).and_then(|it| std::str::from_utf8(it).ok()?.parse().ok());
    let status = status.ok_or_else(|| Trouble::new(what()))?;
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").map_or(answer.len(), |it| it + 4);
    Ok((status, answer.split_off(end)))
}
