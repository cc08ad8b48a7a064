//! A client of the cluster's API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;

use crate::config::Configuration;
use crate::error::Error;
use crate::pki::Leaf;
use crate::tls::{self, Question};

/// A client of an API server, with an administrator's certificate of the cluster's authority.
pub(crate) struct Kubernetes {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Kubernetes {
    /// Creates a client of the API server at `address`. `config` must hold the key of the cluster's authority.
    pub(crate) fn of(config: &Configuration, address: Ipv4Addr) -> Result<Self, Error> {
        let issued = config.cluster.issue(&Leaf::client("talos:admin", &["system:masters"]))?;
        let tls = tls::client(&config.cluster.der, issued.certificate, issued.key, b"http/1.1")?;
        Ok(Self { address: SocketAddr::from((address, 6443)), tls })
    }

    pub(crate) async fn ask(&self, question: &Question<'_>) -> Result<(u16, Vec<u8>), Error> {
        tls::ask(self.address, self.tls.clone(), question).await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.ask(&Question::get("/readyz")).await.is_ok_and(|(status, _)| status == 200)
    }

    pub(crate) async fn node_is_ready(&self, name: &str) -> bool {
        let path = format!("/api/v1/nodes/{name}");
        let answer = self.ask(&Question::get(&path)).await;
        let node: Value = answer
            .ok()
            .and_then(|(_, body)| serde_json::from_slice(&body).ok())
            .unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// Applies one of the objects that Talos itself creates, by server-side apply.
    pub(crate) async fn apply(&self, object: &Value) -> Result<(), Error> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = match object["kind"].as_str() {
            Some("Secret") => "/api/v1/namespaces/kube-system/secrets",
            _ => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        };
        let path = format!("{kind}/{name}?fieldManager=talos&force=true");
        let body = object.to_string();
        let body = Some(("application/apply-patch+yaml", body.as_bytes()));
        let (status, _) = self.ask(&Question { method: "PATCH", path: &path, body }).await?;
        if matches!(status, 200 | 201) {
            Ok(())
        } else {
            Err(Error::new(format!("{name}: the API server answered {status}")))
        }
    }
}
