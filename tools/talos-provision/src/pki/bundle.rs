//! Secrets bundle in the format of `secrets.yaml`, which Talos's own tools read and write.

use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::emit;

/// Secrets of a cluster in the form in which machine configurations contain them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Cluster id of Talos's discovery service.
    pub id: Zeroizing<String>,
    /// Key with which members encrypt the data that they publish through the discovery service.
    pub secret: Zeroizing<String>,
    /// Kubernetes bootstrap token, with which a kubelet joins.
    pub bootstrap_token: Zeroizing<String>,
    /// Token with which a node requests its certificate from trustd.
    pub trustd_token: Zeroizing<String>,
    /// Key with which Kubernetes encrypts Secrets at rest.
    pub secretbox: Zeroizing<String>,
    /// Certificate authority of etcd.
    pub etcd: Pair,
    /// Certificate authority of Kubernetes.
    pub kubernetes: Pair,
    /// Certificate authority of the Kubernetes API aggregation layer.
    pub aggregator: Pair,
    /// Certificate authority of Talos's API.
    pub os: Pair,
    /// Key with which Kubernetes signs service account tokens.
    pub service_account: Zeroizing<String>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").finish_non_exhaustive()
    }
}

/// Certificate and its key, each as base64 of PEM.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Certificate, as base64 of PEM.
    pub crt: String,
    /// Private key, as base64 of PEM.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("crt", &self.crt).finish_non_exhaustive()
    }
}

impl Bundle {
    /// Parses a `secrets.yaml` as `talosctl gen secrets` writes it.
    ///
    /// # Errors
    ///
    /// Describes the error without quoting a value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        let file: File = serde_saphyr::from_str_with_options(text, options)
            .map_err(|_| "not a secrets bundle of Talos".to_owned())?;
        Ok(Self {
            id: file.cluster.id,
            secret: file.cluster.secret,
            bootstrap_token: file.secrets.bootstraptoken,
            trustd_token: file.trustdinfo.token,
            secretbox: file.secrets.secretboxencryptionsecret,
            etcd: file.certs.etcd,
            kubernetes: file.certs.k8s,
            aggregator: file.certs.k8saggregator,
            os: file.certs.os,
            service_account: file.certs.k8sserviceaccount.key,
        })
    }

    /// Returns the bundle as `secrets.yaml`.
    #[must_use]
    pub fn write(&self) -> Zeroizing<String> {
        let pair = |pair: &Pair| json!({"crt": pair.crt, "key": *pair.key});
        let file: Value = json!({
            "cluster": {"id": *self.id, "secret": *self.secret},
            "secrets": {
                "bootstraptoken": *self.bootstrap_token,
                "secretboxencryptionsecret": *self.secretbox,
            },
            "trustdinfo": {"token": *self.trustd_token},
            "certs": {
                "etcd": pair(&self.etcd),
                "k8s": pair(&self.kubernetes),
                "k8saggregator": pair(&self.aggregator),
                "k8sserviceaccount": {"key": *self.service_account},
                "os": pair(&self.os),
            },
        });
        Zeroizing::new(emit::document(&file))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: Cluster,
    secrets: Secrets,
    trustdinfo: Trustd,
    certs: Certs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    id: Zeroizing<String>,
    secret: Zeroizing<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    bootstraptoken: Zeroizing<String>,
    secretboxencryptionsecret: Zeroizing<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trustd {
    token: Zeroizing<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certs {
    etcd: Pair,
    k8s: Pair,
    k8saggregator: Pair,
    k8sserviceaccount: KeyOnly,
    os: Pair,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOnly {
    key: Zeroizing<String>,
}
