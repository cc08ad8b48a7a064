//! Parts that the tests of machines share: configurations, certificates by openssl, and a client.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use emulator_talos::{Fleet, FleetSettings, Node, Server};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use talos_api::ResourceName;
use talos_api::cosi::resource::state_client::StateClient;
use talos_api::cosi::resource::{GetRequest, Resource};
use talos_api::machine::machine_service_client::MachineServiceClient;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status, Streaming};

pub(crate) const CONTROL_PLANE: &str = include_str!("../fixtures/v1.13/base-controlplane.yaml");
pub(crate) const WORKER: &str = include_str!("../fixtures/v1.13/base-worker.yaml");

/// Returns the folder with the built components, from `LAB_BIN`.
pub(crate) fn binaries() -> PathBuf {
    let folder = std::env::var_os("LAB_BIN")
        .expect("LAB_BIN names the folder with etcd, kube-apiserver, … and kubectl");
    PathBuf::from(folder)
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self")
        .is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0)
}

/// Creates machines without nodes: with etcd and the API server, which need no root.
pub(crate) fn control_plane_fleet(directory: &Path, prism: Ipv4Addr) -> Arc<Fleet> {
    without_nodes(directory, binaries(), prism)
}

/// Creates machines with etcd and without Kubernetes, for tests that only ask etcd. Such machines never
/// complete their boot.
pub(crate) fn etcd_fleet(directory: &Path, prism: Ipv4Addr) -> Arc<Fleet> {
    let alone = directory.join("bin");
    fs::create_dir_all(&alone).expect("a folder");
    symlink(binaries().join("etcd"), alone.join("etcd")).expect("a link");
    without_nodes(directory, alone, prism)
}

/// Creates machines without any component, for tests of the API alone.
pub(crate) fn empty_fleet(directory: &Path, prism: Ipv4Addr) -> Arc<Fleet> {
    without_nodes(&directory.join("machines"), directory.join("no-components"), prism)
}

fn without_nodes(directory: &Path, binaries: PathBuf, prism: Ipv4Addr) -> Arc<Fleet> {
    let node = Node::ControlPlaneOnly("nodes are tested elsewhere".to_owned());
    with_nodes(directory, binaries, "127.73.0.1:5000", prism, node)
}

pub(crate) fn fleet(directory: &Path, registry: &str, prism: Ipv4Addr) -> Arc<Fleet> {
    let node = if is_root() {
        Node::Real
    } else {
        Node::ControlPlaneOnly("the lab is not root".to_owned())
    };
    with_nodes(directory, binaries(), registry, prism, node)
}

fn with_nodes(
    directory: &Path,
    binaries: PathBuf,
    registry: &str,
    prism: Ipv4Addr,
    node: Node,
) -> Arc<Fleet> {
    Fleet::new(FleetSettings {
        directory: directory.to_owned(),
        binaries,
        plain_registries: vec![registry.to_owned()],
        pause_image: format!("{registry}/pause:1"),
        cni: "/usr/lib/cni".into(),
        kubeprism: SocketAddr::from((prism, 7445)),
        node,
    })
    .expect("a fleet")
}

pub(crate) fn server(id: u64, name: &str, ipv4: Ipv4Addr, user_data: Option<String>) -> Server {
    Server {
        id,
        name: name.to_owned(),
        ipv4,
        private_ipv4: Vec::new(),
        user_data,
        labels: BTreeMap::new(),
        image: None,
        image_labels: BTreeMap::new(),
        image_contents: emulator_hcloud::Contents::Unknown,
        disk: 40,
        architecture: "x86".to_owned(),
        server_type: "cx22".to_owned(),
        location: "fsn1".to_owned(),
        rescue: false,
    }
}

/// Returns a fixture whose endpoint is a machine of the test.
pub(crate) fn configuration(fixture: &str, endpoint: Ipv4Addr) -> String {
    fixture.replace("https://base:6443", &format!("https://{endpoint}:6443"))
}

/// Returns the PEM text of the first `field` after `section` of a fixture.
pub(crate) fn pem(fixture: &str, section: &str, field: &str) -> String {
    let from = fixture.find(section).expect(section);
    let line =
        fixture[from..].lines().map(str::trim).find(|line| line.starts_with(field)).expect(field);
    let value = line.split_once(": ").expect("a value").1;
    let text = String::from_utf8(BASE64.decode(value.as_bytes()).expect("base64")).expect("PEM");
    // The label is Talos's own: other programs call the same bytes a `PRIVATE KEY`.
    text.replace("ED25519 PRIVATE KEY", "PRIVATE KEY")
}

/// Issues a client's certificate with openssl: `name.crt` and `name.key`.
pub(crate) fn issue(
    directory: &Path,
    name: &str,
    subject: &str,
    authority: (&str, &str),
    algorithm: &[&str],
) {
    let at = |ending: &str| directory.join(format!("{name}{ending}")).display().to_string();
    fs::write(at(".ca.crt"), authority.0).expect("written");
    fs::write(at(".ca.key"), authority.1).expect("written");
    fs::write(at(".ext"), "keyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n")
        .expect("written");
    let mut generate = vec!["genpkey"];
    generate.extend(algorithm);
    run("openssl", &[&generate[..], &["-out", &at(".key")]].concat());
    run("openssl", &["req", "-new", "-key", &at(".key"), "-subj", subject, "-out", &at(".csr")]);
    run(
        "openssl",
        &[
            "x509",
            "-req",
            "-in",
            &at(".csr"),
            "-CA",
            &at(".ca.crt"),
            "-CAkey",
            &at(".ca.key"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &at(".ext"),
            "-out",
            &at(".crt"),
        ],
    );
}

pub(crate) fn issue_talos(directory: &Path, name: &str, role: &str) {
    let authority = (pem(CONTROL_PLANE, "    ca:", "crt:"), pem(CONTROL_PLANE, "    ca:", "key:"));
    issue(
        directory,
        name,
        &format!("/O={role}"),
        (&authority.0, &authority.1),
        &["-algorithm", "ed25519"],
    );
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{error}");
    out.into_owned()
}

/// Waits until `look` returns a value, for at most `seconds`.
pub(crate) fn until<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {seconds} s");
        sleep(Duration::from_millis(100));
    }
}

/// A client of one machine's Talos API.
pub(crate) struct Talos {
    runtime: Runtime,
    address: Ipv4Addr,
    tls: Arc<ClientConfig>,
}

impl Talos {
    /// Creates a client without a certificate that trusts every server, for maintenance mode.
    pub(crate) fn stranger(address: Ipv4Addr) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_no_client_auth();
        Self::with(address, tls)
    }

    /// Creates a client with `name.crt` in `directory` that trusts only the configuration's authority.
    pub(crate) fn known(address: Ipv4Addr, directory: &Path, name: &str) -> Self {
        let read = |ending: &str| directory.join(format!("{name}{ending}"));
        let mut roots = RootCertStore::empty();
        let authority = pem(CONTROL_PLANE, "    ca:", "crt:");
        roots
            .add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM"))
            .expect("an authority");
        let certificate = CertificateDer::from_pem_file(read(".crt")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(read(".key")).expect("a key");
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .expect("a client");
        Self::with(address, tls)
    }

    fn with(address: Ipv4Addr, mut tls: ClientConfig) -> Self {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, address, tls: Arc::new(tls) }
    }

    /// Returns a channel that connects at the first call.
    pub(crate) fn channel(&self) -> Channel {
        let (address, tls) = (SocketAddr::from((self.address, 50000)), self.tls.clone());
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let _inside = self.runtime.enter();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let tls = TlsConnector::from(tls.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::IpAddress(address.ip().into());
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        }))
    }

    /// Returns the answer to a call of the machine service.
    pub(crate) fn call<A>(
        &self,
        call: impl AsyncFnOnce(MachineServiceClient<Channel>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        self.limited(call(MachineServiceClient::new(self.channel())))
    }

    /// Returns a resource of the state API.
    pub(crate) fn resource(&self, name: ResourceName) -> Result<Resource, Status> {
        let mut client = StateClient::new(self.channel());
        let answer = self.limited(client.get(GetRequest::from(name)))?;
        answer.resource.ok_or_else(|| Status::not_found("the answer has no resource"))
    }

    /// Returns the answer to a call, unless it takes longer than 20 seconds.
    pub(crate) fn limited<A>(
        &self,
        call: impl Future<Output = Result<Response<A>, Status>>,
    ) -> Result<A, Status> {
        let limited = async { tokio::time::timeout(Duration::from_secs(20), call).await };
        let answer = self.runtime.block_on(limited);
        Ok(answer.map_err(|_| Status::deadline_exceeded("20 s"))??.into_inner())
    }

    /// Returns the first message of a stream.
    pub(crate) fn first<A>(
        &self,
        call: impl AsyncFnOnce(MachineServiceClient<Channel>) -> Result<Response<Streaming<A>>, Status>,
    ) -> Result<A, Status> {
        let first = self.take(1, call)?.into_iter().next();
        first.ok_or_else(|| Status::not_found("the stream is empty"))
    }

    /// Returns `count` messages of a stream, or the messages of two seconds.
    pub(crate) fn take<A>(
        &self,
        count: usize,
        call: impl AsyncFnOnce(MachineServiceClient<Channel>) -> Result<Response<Streaming<A>>, Status>,
    ) -> Result<Vec<A>, Status> {
        let client = MachineServiceClient::new(self.channel());
        let mut answers = Vec::new();
        let take = async {
            let mut stream = call(client).await?.into_inner();
            while answers.len() < count {
                let Some(answer) = stream.message().await? else { break };
                answers.push(answer);
            }
            Ok::<_, Status>(())
        };
        let limited = async { tokio::time::timeout(Duration::from_secs(2), take).await };
        self.runtime.block_on(limited).unwrap_or(Ok(()))?;
        Ok(answers)
    }
}

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
