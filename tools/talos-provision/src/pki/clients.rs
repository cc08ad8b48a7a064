//! What people and programs talk to the cluster with.

use serde_json::json;
use zeroize::Zeroizing;

use super::{Client, Pki, pem};
use crate::config::emit;

impl Pki {
    /// The configuration of `talosctl` for the cluster called `cluster`.
    #[must_use]
    pub fn talosconfig(&self, cluster: &str, endpoints: &[String]) -> Zeroizing<String> {
        let (crt, key) = fields(&self.talos_admin);
        let file = json!({
            "context": cluster,
            "contexts": {cluster: {
                "endpoints": endpoints,
                "ca": *pem::field("CERTIFICATE", &self.os.certificate),
                "crt": *crt,
                "key": *key,
            }},
        });
        Zeroizing::new(emit::document(&file))
    }

    /// The configuration of `kubectl` for the cluster called `cluster`.
    #[must_use]
    pub fn kubeconfig(&self, cluster: &str, endpoint: &str) -> Zeroizing<String> {
        let (crt, key) = fields(&self.kubernetes_admin);
        let context = format!("admin@{cluster}");
        let file = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": {
                "server": endpoint,
                "certificate-authority-data":
                    *pem::field("CERTIFICATE", &self.kubernetes.certificate),
            }}],
            "users": [{"name": context, "user": {
                "client-certificate-data": *crt,
                "client-key-data": *key,
            }}],
            "contexts": [{"name": context, "context": {
                "cluster": cluster,
                "namespace": "default",
                "user": context,
            }}],
            "current-context": context,
        });
        Zeroizing::new(emit::document(&file))
    }
}

fn fields(client: &Client) -> (Zeroizing<String>, Zeroizing<String>) {
    let key = pem::field(client.key.label(), &client.key.der());
    (pem::field("CERTIFICATE", &client.certificate), key)
}
