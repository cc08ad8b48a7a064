//! Client credentials for people and programs: talosconfig and kubeconfig.

use serde_json::json;
use zeroize::Zeroizing;

use super::{Access, Client, Pki, pem};
use crate::emit;

impl Pki {
    /// Returns the credentials for a status: the name of each field, the access that opens it, and
    /// the text.
    pub(crate) fn clients(
        &self,
        cluster: &str,
        endpoint: &str,
        control_planes: &[String],
    ) -> [(&'static str, contract::Access, Zeroizing<String>); 4] {
        let kubeconfig = |access| self.kubeconfig(access, cluster, endpoint);
        let talosconfig = |access| self.talosconfig(access, cluster, control_planes);
        [
            ("kubeconfig", contract::Access::Administrator, kubeconfig(Access::Admin)),
            ("talosconfig", contract::Access::Administrator, talosconfig(Access::Admin)),
            ("readerKubeconfig", contract::Access::Reader, kubeconfig(Access::Reader)),
            ("readerTalosconfig", contract::Access::Reader, talosconfig(Access::Reader)),
        ]
    }

    /// Returns the configuration of `talosctl` for the cluster called `cluster`, valid in the
    /// current period.
    #[must_use]
    pub fn talosconfig(
        &self,
        access: Access,
        cluster: &str,
        endpoints: &[String],
    ) -> Zeroizing<String> {
        let (crt, key) = fields(&self.os.sign(&self.identities(access).talos, self.period));
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

    /// Returns the configuration of `kubectl` for the cluster called `cluster`, valid in the
    /// current period.
    #[must_use]
    pub fn kubeconfig(&self, access: Access, cluster: &str, endpoint: &str) -> Zeroizing<String> {
        let identity = &self.identities(access).kubernetes;
        let (crt, key) = fields(&self.kubernetes.sign(identity, self.period));
        let user = identity.subject.common_name.unwrap_or_default();
        let context = format!("{user}@{cluster}");
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
