//! The kubeconfig of a cluster. A sealed kubeconfig comes from a document that another machine may have
//! written, so that every setting which runs a program, reads a file or weakens TLS is an error.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use contract::Project;
use data_encoding::BASE64;
use documents::Declared;
use http::{HeaderValue, Uri};
use kube::Config;
use kube::config::{AuthInfo, Cluster, Kubeconfig as Parsed};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use secrets::Secret;

use crate::Error;
use crate::redact::Redactor;

/// An accepted kubeconfig, which is the only way to a [`crate::Reader`].
#[derive(Clone)]
pub struct Kubeconfig {
    pub(crate) config: Config,
    pub(crate) redactor: Arc<Redactor>,
    /// A flag that the API server has answered a request of this run. Before that, its address may
    /// be wrong, and repetitions would only delay the error.
    pub(crate) has_answered: Arc<AtomicBool>,
}

impl fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kubeconfig({})", self.config.cluster_url)
    }
}

impl Kubeconfig {
    /// Parses a kubeconfig, and accepts the cluster and the user of its current context.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`]: the text is no kubeconfig, or it has a setting that is not permitted.
    /// [`Error::Roots`]: it has no authority, and this machine's cannot be read.
    pub fn parse(kubeconfig: &Secret) -> Result<Self, Error> {
        let parsed = Parsed::from_yaml(kubeconfig.text()?)
            .map_err(|_| invalid("its YAML is not a valid kubeconfig"))?;
        parsed.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()).try_for_each(user)?;
        let mut clusters = parsed.clusters.iter().filter_map(|named| named.cluster.as_ref());
        clusters.try_for_each(|named| cluster(named).map(drop))?;
        let (cluster, user) =
            current(&parsed).ok_or_else(|| invalid("it lacks a server, a user or a context"))?;
        Self::accept(cluster, &user)
    }

    /// Opens the kubeconfig in the status of a Cluster, with an age identity of the caller or with the
    /// key of `phase`.
    ///
    /// # Errors
    ///
    /// [`Error::Secret`]: no identity opens it. [`Error::Kubeconfig`]: see [`Self::parse`].
    pub fn unseal(project: &Declared<Project>, phase: &str, sealed: &str) -> Result<Self, Error> {
        Self::parse(&contract::unseal(project, phase, sealed)?)
    }

    /// Makes a kubeconfig from certificates: the DER of the cluster's `authority`, and the PEM of a
    /// client's certificate and key.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`]: see [`Self::parse`].
    pub fn from_certificates(
        server: &str,
        authority: &[u8],
        certificate: &str,
        key: &str,
    ) -> Result<Self, Error> {
        let encode = |pem: &str| BASE64.encode(pem.as_bytes());
        let cluster = Cluster {
            server: Some(server.to_owned()),
            certificate_authority_data: Some(encode(&remote::to_pem([authority]))),
            ..Cluster::default()
        };
        let user = AuthInfo {
            client_certificate_data: Some(encode(certificate)),
            client_key_data: Some(encode(key).into()),
            ..AuthInfo::default()
        };
        Self::accept(&cluster, &user)
    }

    /// Builds the client's configuration from the fields that are permitted. kube's own loader also
    /// reads `HTTPS_PROXY`; the proxy in the environment serves the web and cannot reach a private
    /// control plane. Without an authority, kube would ask the system alone, and not open a client where the
    /// system has none, even for plain HTTP.
    fn accept(declared: &Cluster, who: &AuthInfo) -> Result<Self, Error> {
        user(who)?;
        let mut config = Config::new(cluster(declared)?);
        config.root_cert = Some(match &declared.certificate_authority_data {
            Some(data) => authorities(data)?,
            None if config.cluster_url.scheme_str() == Some("http") => Vec::new(),
            None => remote::roots()?.to_vec(),
        });
        config.tls_server_name.clone_from(&declared.tls_server_name);
        config.auth_info = who.clone();
        // This crate repeats requests itself: kube would also repeat the creation of an object.
        config.default_retry = false;
        let redactor = Arc::new(Redactor::new(credentials(who)));
        Ok(Self { config, redactor, has_answered: Arc::default() })
    }
}

fn invalid(why: &'static str) -> Error {
    Error::Kubeconfig { why }
}

/// Returns the cluster and the user of the current context. A user is optional, as in client-go
/// (<https://github.com/kube-rs/kube/issues/1594>).
fn current(parsed: &Parsed) -> Option<(&Cluster, AuthInfo)> {
    let name = parsed.current_context.as_ref()?;
    let context = parsed.contexts.iter().find(|context| context.name == *name)?;
    let context = context.context.as_ref()?;
    let cluster = parsed.clusters.iter().find(|cluster| cluster.name == context.cluster)?;
    let mut users = parsed.auth_infos.iter();
    let user = users.find(|user| Some(&user.name) == context.user.as_ref());
    let user = user.and_then(|user| user.auth_info.clone()).unwrap_or_default();
    Some((cluster.cluster.as_ref()?, user))
}

/// Accepts a user, unless a setting runs a program or reads a file, or the token fits into no header.
fn user(user: &AuthInfo) -> Result<(), Error> {
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err(invalid("it has `exec` or `auth-provider`, which run programs"));
    }
    let files = [&user.token_file, &user.client_certificate, &user.client_key];
    if files.iter().any(|file| file.is_some()) {
        return Err(invalid("it refers to files; keys and certificates must be embedded"));
    }
    let token = text(user, "token").map(HeaderValue::try_from).transpose();
    token.map_err(|_| invalid("its token has a line break or another character of no header"))?;
    Ok(())
}

/// Returns the URL of a cluster, unless a setting reads a file, weakens TLS, names a proxy or cannot be used.
fn cluster(cluster: &Cluster) -> Result<Uri, Error> {
    if cluster.certificate_authority.is_some() {
        return Err(invalid("it refers to files; keys and certificates must be embedded"));
    }
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err(invalid("it has `insecure-skip-tls-verify`"));
    }
    if cluster.proxy_url.is_some() {
        return Err(invalid("it has `proxy-url`, which would receive every request"));
    }
    let name = cluster.tls_server_name.as_deref().map(ServerName::try_from).transpose();
    name.map_err(|_| invalid("its `tls-server-name` is no name of a host"))?;
    let server = cluster.server.as_deref().and_then(|server| server.parse::<Uri>().ok());
    let server = server.ok_or_else(|| invalid("it lacks a server, a user or a context"))?;
    if server.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("the URL of its server holds a login"));
    }
    match (server.scheme_str(), server.host()) {
        (Some("https"), Some(_)) => Ok(server),
        (Some("http"), Some(host)) if is_loopback(host) => Ok(server),
        _ => Err(invalid("its server has no https URL; plain HTTP would show the credentials")),
    }
}

/// Whether a connection to the host stays on this machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns the certificates in base64 of PEM as DER.
fn authorities(data: &str) -> Result<Vec<Vec<u8>>, Error> {
    let unreadable = || invalid("its certificates or keys are invalid");
    let pem = BASE64.decode(data.trim().as_bytes()).map_err(|_| unreadable())?;
    let certificates = CertificateDer::pem_slice_iter(&pem);
    let certificates: Result<Vec<_>, _> =
        certificates.map(|der| der.map(|der| der.to_vec())).collect();
    certificates.ok().filter(|found| !found.is_empty()).ok_or_else(unreadable)
}

/// Returns every text of a user that gives access.
fn credentials(user: &AuthInfo) -> Vec<String> {
    let key = text(user, "client-key-data");
    let pem = key.as_ref().and_then(|key| BASE64.decode(key.trim().as_bytes()).ok());
    let pem = pem.and_then(|pem| String::from_utf8(pem).ok()).unwrap_or_default();
    let lines = pem.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned);
    let credentials = [text(user, "token"), text(user, "password"), key];
    credentials.into_iter().flatten().chain(lines).collect()
}

/// Returns a secret field of a user. The types of these fields show their value only to a serializer.
fn text(user: &AuthInfo, field: &str) -> Option<String> {
    serde_json::to_value(user).ok()?[field].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
