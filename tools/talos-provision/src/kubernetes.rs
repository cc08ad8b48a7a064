//! The Kubernetes API, as far as it takes to know that it works: pinned to the derived authority,
//! as the derived administrator.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::Error;
use crate::pki::Pki;

/// Longest that a call may take, in seconds.
const CALL_SECONDS_MAX: u64 = 10;
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A node as Kubernetes knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) name: String,
    pub(crate) ready: bool,
}

pub(crate) struct Reader {
    agent: Agent,
    endpoint: String,
}

impl Reader {
    pub(crate) fn new(pki: &Pki, endpoint: &str) -> Result<Self, Error> {
        let admin = &pki.kubernetes_admin;
        let chain = [Certificate::from_der(&admin.certificate).to_owned()];
        let key = PrivateKey::from_pem(admin.key_pem().as_bytes());
        let key = key.map_err(|it| Error::Keys(it.to_string()))?;
        let root = [Certificate::from_der(&pki.kubernetes.certificate).to_owned()];
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&root))
            .client_cert(Some(ClientCert::new_with_certs(&chain, key)));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(CALL_SECONDS_MAX)))
            .proxy(None)
            .max_idle_connections(0)
            .tls_config(tls.build())
            .build();
        Ok(Self { agent: config.into(), endpoint: endpoint.to_owned() })
    }

    /// Whether it serves; the reason, if not.
    pub(crate) fn readyz(&self) -> Result<(), String> {
        self.get("/readyz").map(|_| ())
    }

    /// Every node that it remembers.
    pub(crate) fn nodes(&self) -> Result<Vec<Registered>, String> {
        let text = self.get("/api/v1/nodes")?;
        let list: Value = serde_json::from_str(&text).map_err(|it| it.to_string())?;
        let items = list["items"].as_array().ok_or("it answered no list of nodes")?;
        let node = |it: &Value| {
            let conditions = it["status"]["conditions"].as_array().into_iter().flatten();
            let ready =
                conditions.filter(|it| it["type"] == "Ready").any(|it| it["status"] == "True");
            Some(Registered { name: it["metadata"]["name"].as_str()?.to_owned(), ready })
        };
        Ok(items.iter().filter_map(node).collect())
    }

    /// The UID of the namespace `kube-system`, made with the cluster and never again; and the
    /// claims to which a volume belongs or has belonged, each with its UID.
    pub(crate) fn volumes(&self) -> Result<(String, Vec<(String, String)>), String> {
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let parse = |text: String| serde_json::from_str(&text).map_err(|it| it.to_string());
        let kube_system: Value = parse(self.get("/api/v1/namespaces/kube-system")?)?;
        let list: Value = parse(self.get("/api/v1/persistentvolumes")?)?;
        let items = list["items"].as_array().ok_or("it answered no list of volumes")?;
        let claims = items.iter().map(|it| &it["spec"]["claimRef"]);
        let claims = claims.filter(|it| it["uid"].is_string()).map(|it| {
            (format!("{}/{}", text(&it["namespace"]), text(&it["name"])), text(&it["uid"]))
        });
        Ok((text(&kube_system["metadata"]["uid"]), claims.collect()))
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let answer = self.agent.get(format!("{}{path}", self.endpoint)).call();
        let mut answer = answer.map_err(|it| it.to_string())?;
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        match answer.status().as_u16() {
            200 => text.map_err(|it| it.to_string()),
            status => Err(format!("{path} answered {status}")),
        }
    }
}

/// Changes what a [`Reader`] sees.
pub(crate) struct Writer<'a>(&'a Reader);

impl<'a> Writer<'a> {
    pub(crate) fn new(reader: &'a Reader) -> Self {
        Self(reader)
    }

    /// Removes a node whose machine is gone; done as well when it is not there.
    pub(crate) fn forget(&self, name: &str) -> Result<(), String> {
        let url = format!("{}/api/v1/nodes/{name}", self.0.endpoint);
        match self.0.agent.delete(url).call().map_err(|it| it.to_string())?.status().as_u16() {
            200 | 202 | 404 => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }
}
