//! A machine configuration, and the values in it that the emulator uses.
//!
//! **Invariant:** a node returns the exact bytes that it was given, because the emulator never serialises a
//! configuration. It decodes and checks every document as Talos does, apart from expressions in CEL.

use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::Arc;

use data_encoding::{BASE64, BASE64_MIME_PERMISSIVE};
use flate2::read::GzDecoder;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use crate::error::{Attempt, Error};
use crate::kind::Kind;
use crate::pki::{self, Authority};
use crate::rules;
use crate::strict;

/// Largest decompressed configuration in bytes, so that a small gzip cannot fill the memory.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Authorities and the key that only a control plane holds.
pub(crate) struct ControlPlane {
    pub(crate) etcd: Authority,
    pub(crate) aggregator: Authority,
    pub(crate) service_account_pem: String,
}

/// A configuration that a node accepted.
pub(crate) struct Configuration {
    pub(crate) bytes: Vec<u8>,
    /// The v1alpha1 document, which holds `machine` and `cluster`.
    pub(crate) main: Value,
    /// Every other document, each with a `kind`.
    others: Vec<Value>,
    pub(crate) kind: Kind,
    /// `machine.ca`: the authority of the Talos API's clients and of its own certificate.
    pub(crate) machine: Authority,
    /// `cluster.ca`: the authority of Kubernetes.
    pub(crate) cluster: Authority,
    pub(crate) control_plane: Option<ControlPlane>,
    /// URL of the cluster's API server, for example `https://base:6443`.
    pub(crate) endpoint: String,
    /// Token with which a kubelet joins: the id and the secret of `id.secret`.
    pub(crate) token: (String, String),
}

impl Configuration {
    /// Reads the data of `ApplyConfiguration`, and refuses what a node would refuse.
    pub(crate) fn read(bytes: &[u8]) -> Result<Arc<Self>, Error> {
        let stream = std::str::from_utf8(bytes).attempt("the configuration is not UTF-8")?;
        let (mut mains, others): (Vec<_>, Vec<_>) = strict::decode(stream)?
            .into_iter()
            .partition(|document| document.get("kind").is_none());
        let main = match mains.len() {
            1 => mains.remove(0),
            0 => return Err(Error::new("the configuration holds no v1alpha1 document")),
            _ => {
                return Err(Error::new("the configuration holds more than one v1alpha1 document"));
            }
        };
        let version = text(&main, "/version").unwrap_or("nothing");
        if version != "v1alpha1" {
            return Err(Error::new(format!("version is `{version}`: only `v1alpha1` is known")));
        }
        if main["persist"] == false {
            return Err(Error::new("persist should be enabled"));
        }
        let kind = match text(&main, "/machine/type") {
            Some("controlplane" | "init") => Kind::ControlPlane,
            Some("worker") => Kind::Worker,
            _ => return Err(Error::new("machine.type is neither `controlplane` nor `worker`")),
        };
        let machine = authority(&main, "/machine/ca")?;
        let cluster = authority(&main, "/cluster/ca")?;
        for (place, authority) in [("machine.ca", &machine), ("cluster.ca", &cluster)] {
            match kind {
                Kind::Worker if authority.can_issue() => {
                    return Err(Error::new(format!("{place}.key is not allowed on a worker")));
                }
                Kind::ControlPlane if !authority.can_issue() => {
                    return Err(Error::new(format!("{place}.key is required on a control plane")));
                }
                Kind::Worker | Kind::ControlPlane => {}
            }
        }
        let endpoint = text(&main, "/cluster/controlPlane/endpoint")
            .filter(|endpoint| endpoint.starts_with("https://"))
            .ok_or_else(|| Error::new("cluster.controlPlane.endpoint is not an https URL"))?
            .to_owned();
        let token = text(&main, "/cluster/token")
            .and_then(|token| token.split_once('.'))
            .ok_or_else(|| Error::new("cluster.token is not `id.secret`"))?;
        let token = (token.0.to_owned(), token.1.to_owned());
        let control_plane = match kind {
            Kind::ControlPlane => Some(control_plane(&main)?),
            Kind::Worker if main.pointer("/cluster/etcd").is_some_and(|etcd| !etcd.is_null()) => {
                return Err(Error::new("etcd config is only allowed on control plane machines"));
            }
            Kind::Worker => None,
        };
        rules::check(&main, kind, &others)?;
        let bytes = bytes.to_vec();
        Ok(Arc::new(Self {
            bytes,
            main,
            others,
            kind,
            machine,
            cluster,
            control_plane,
            endpoint,
            token,
        }))
    }

    /// Returns the text at a JSON pointer of the v1alpha1 document, if it is not empty.
    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        text(&self.main, pointer)
    }

    /// Returns the texts in a list of the v1alpha1 document.
    pub(crate) fn texts(&self, pointer: &str) -> Vec<String> {
        let list = self.main.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Returns a map of the v1alpha1 document, with its values as text.
    pub(crate) fn map(&self, pointer: &str) -> Vec<(String, String)> {
        let map = self.main.pointer(pointer).and_then(Value::as_object);
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        map.into_iter().flatten().map(|(key, value)| (key.clone(), plain(value))).collect()
    }

    /// Returns the flags that the configuration adds to a component. A list repeats its flag.
    pub(crate) fn extra_arguments(&self, pointer: &str) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for (flag, value) in
            self.main.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
        {
            match value {
                Value::Array(values) => out.extend(
                    values
                        .iter()
                        .filter_map(Value::as_str)
                        .map(|value| (flag.clone(), value.to_owned())),
                ),
                Value::String(value) => out.push((flag.clone(), value.clone())),
                other => out.push((flag.clone(), other.to_string())),
            }
        }
        out
    }

    /// Returns the documents of a kind.
    pub(crate) fn others<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.others.iter().filter(move |document| document["kind"] == kind)
    }

    /// Returns the hostname that the configuration sets, if it sets one.
    pub(crate) fn hostname(&self) -> Option<&str> {
        let document =
            self.others("HostnameConfig").find_map(|document| text(document, "/hostname"));
        document.or_else(|| self.text("/machine/network/hostname"))
    }

    /// Returns the first service network, and its first and tenth address.
    pub(crate) fn services(&self) -> (String, Ipv4Addr, Ipv4Addr) {
        let networks = self.texts("/cluster/network/serviceSubnets");
        let network = networks.into_iter().find(|network| network.contains('.'));
        let network = network.unwrap_or_else(|| "10.96.0.0/12".to_owned());
        let base = network.split('/').next().and_then(|address| address.parse::<Ipv4Addr>().ok());
        let base = u32::from(base.unwrap_or(Ipv4Addr::new(10, 96, 0, 0)));
        (network, Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 10))
    }

    /// Returns the first two octets of the pod network. Each machine gets a /24 of the network.
    pub(crate) fn pods(&self) -> (u8, u8) {
        let networks = self.texts("/cluster/network/podSubnets");
        let base =
            networks.iter().find_map(|network| network.split('/').next()?.parse::<Ipv4Addr>().ok());
        let [first, second, ..] = base.unwrap_or(Ipv4Addr::new(10, 244, 0, 0)).octets();
        (first, second)
    }

    pub(crate) fn dns_domain(&self) -> &str {
        self.text("/cluster/network/dnsDomain").unwrap_or("cluster.local")
    }

    /// Returns the host of the endpoint, without scheme and port.
    pub(crate) fn endpoint_host(&self) -> &str {
        let host = self.endpoint.trim_start_matches("https://");
        let host = host.split('/').next().unwrap_or(host);
        host.rsplit_once(':').map_or(host, |(host, _)| host)
    }

    /// Returns the certificates of the accepted authorities at `list`, followed by the authority itself.
    pub(crate) fn accepted(&self, list: &str, authority: &Authority) -> String {
        let mut out = String::new();
        for accepted in self.main.pointer(list).and_then(Value::as_array).into_iter().flatten() {
            out.push_str(
                &text(accepted, "/crt")
                    .and_then(|certificate| unwrap(certificate).ok())
                    .unwrap_or_default(),
            );
        }
        out + &authority.pem
    }

    /// Returns the authorities whose clients the Talos API accepts in addition to `machine.ca`.
    pub(crate) fn accepted_machine_authorities(
        &self,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        let list = self.main.pointer("/machine/acceptedCAs").and_then(Value::as_array);
        let certificates = list.into_iter().flatten().filter_map(|entry| text(entry, "/crt"));
        certificates
            .map(|certificate| {
                Authority::read(&unwrap(certificate)?, None)
                    .attempt("machine.acceptedCAs")
                    .map(|authority| authority.der)
            })
            .collect()
    }

    /// Whether a cloud controller manager initialises the nodes.
    pub(crate) fn has_external_cloud_provider(&self) -> bool {
        self.main["cluster"]["externalCloudProvider"]["enabled"] == true
    }

    /// Returns the first of a machine's private addresses in `machine.kubelet.nodeIP.validSubnets`, which
    /// Talos gives to the kubelet as `--node-ip` (v1.13.9,
    /// `internal/app/machined/pkg/controllers/k8s/nodeip.go`).
    ///
    /// Without an external cloud provider, which compares this address with the cloud's, a machine of the
    /// lab has the address of its bridge: a private address may be used in the network of this computer.
    pub(crate) fn cloud_address(&self, private: &[Ipv4Addr]) -> Option<Ipv4Addr> {
        let subnets = self.texts("/machine/kubelet/nodeIP/validSubnets");
        let is_valid = |address: &Ipv4Addr| subnets.iter().any(|subnet| holds(subnet, *address));
        let mut valid = private.iter().copied().filter(is_valid);
        self.has_external_cloud_provider().then(|| valid.next()).flatten()
    }

    pub(crate) fn schedules_on_control_planes(&self) -> bool {
        self.main["cluster"]["allowSchedulingOnControlPlanes"] == true
    }
}

/// Whether the subnet, for example `10.0.1.0/24`, contains the address.
fn holds(subnet: &str, address: Ipv4Addr) -> bool {
    let parsed = subnet.split_once('/').and_then(|(network, bits)| {
        Some((
            network.parse::<Ipv4Addr>().ok()?,
            bits.parse::<u32>().ok().filter(|bits| *bits <= 32)?,
        ))
    });
    parsed.is_some_and(|(network, bits)| {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        network.to_bits() & mask == address.to_bits() & mask
    })
}

fn control_plane(main: &Value) -> Result<ControlPlane, Error> {
    let etcd = authority(main, "/cluster/etcd/ca")?;
    let aggregator = authority(main, "/cluster/aggregatorCA")?;
    for (place, authority) in [("cluster.etcd.ca", &etcd), ("cluster.aggregatorCA", &aggregator)] {
        if !authority.can_issue() {
            return Err(Error::new(format!("{place}.key is required on a control plane")));
        }
    }
    let key = text(main, "/cluster/serviceAccount/key")
        .ok_or_else(|| Error::new("cluster.serviceAccount.key is required on a control plane"))?;
    let service_account_pem = unwrap(key).attempt("cluster.serviceAccount.key")?;
    if !pki::is_service_account_key(&service_account_pem) {
        return Err(Error::new("cluster.serviceAccount.key is not an RSA or EC key"));
    }
    Ok(ControlPlane { etcd, aggregator, service_account_pem })
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn authority(main: &Value, pointer: &str) -> Result<Authority, Error> {
    let place = pointer.trim_start_matches('/').replace('/', ".");
    let certificate = text(main, &format!("{pointer}/crt"))
        .ok_or_else(|| Error::new(format!("{place}.crt is missing")))?;
    let certificate = unwrap(certificate).attempt(&place)?;
    let key = text(main, &format!("{pointer}/key")).map(unwrap).transpose().attempt(&place)?;
    Authority::read(&certificate, key.as_deref()).attempt(&place)
}

/// Decodes a PEM text, which a configuration holds as base64.
fn unwrap(value: &str) -> Result<String, Error> {
    let bytes = BASE64.decode(value.as_bytes()).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Error::new("not the base64 of a PEM text"))
}

/// Reads the documents of a YAML stream.
fn documents(bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let text = std::str::from_utf8(bytes).attempt("the configuration is not UTF-8")?;
    // The parser's message may quote a secret, so the error names only the line.
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        let place = error
            .location()
            .map(|location| format!(" at line {}", location.line()))
            .unwrap_or_default();
        Error::new(format!("the configuration is not YAML{place}"))
    })?;
    let documents: Vec<Value> =
        documents.into_iter().filter(|document| !document.is_null()).collect();
    if documents.iter().all(Value::is_object) {
        Ok(documents)
    } else {
        Err(Error::new("a document of the configuration is not a map"))
    }
}

/// Reads the configuration in a server's user data: plain, base64, or base64 of gzip. Returns `None` if the
/// user data holds no configuration, so that the machine stays in maintenance mode.
pub(crate) fn from_user_data(user_data: &str) -> Option<Result<Arc<Configuration>, Error>> {
    let plain = BASE64_MIME_PERMISSIVE.decode(user_data.trim().as_bytes()).ok().and_then(|bytes| {
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            return Some(bytes);
        }
        let mut out = Vec::new();
        GzDecoder::new(bytes.as_slice()).take(BYTES_MAX).read_to_end(&mut out).ok()?;
        Some(out)
    });
    let bytes = plain.unwrap_or_else(|| user_data.as_bytes().to_vec());
    let mentions =
        |document: &Value| document.get("machine").is_some() || document.get("cluster").is_some();
    match documents(&bytes) {
        Ok(documents) if documents.iter().any(mentions) => Some(Configuration::read(&bytes)),
        _ => None,
    }
}
