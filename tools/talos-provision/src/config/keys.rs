//! Keys of a configuration that a running cluster cannot exchange.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::pki::{self, sha256_hex};

/// Digests of the keys, by the name of the item from which each key derives.
pub type Keys = BTreeMap<&'static str, String>;

/// Items, each with the path of its key in a configuration.
const ITEMS: [(&str, &str); 6] = [
    ("cluster-id", "/cluster/id"),
    ("secretbox", "/cluster/secretboxEncryptionSecret"),
    ("service-account", "/cluster/serviceAccount/key"),
    ("etcd-ca", "/cluster/etcd/ca/crt"),
    ("k8s-ca", "/cluster/ca/crt"),
    ("aggregator-ca", "/cluster/aggregatorCA/crt"),
];

/// Returns the keys in the documents of a configuration. A worker's configuration contains fewer
/// keys.
pub(crate) fn keys(documents: &[Value]) -> Keys {
    let key = |at: &str| documents.iter().find_map(|document| document.pointer(at)?.as_str());
    let keys = ITEMS.iter().filter_map(|(item, at)| Some((*item, digest(key(at)?))));
    keys.collect()
}

/// Returns the digest of a key. For a certificate, only its public key is digested, because its
/// dates may change while the key stays.
fn digest(text: &str) -> String {
    sha256_hex(pki::public_key(text).as_deref().unwrap_or(text.as_bytes()))
}

/// Returns the keys in the configuration of a machine. Text that is not YAML contains no keys that
/// can be compared.
pub(crate) fn keys_in(configuration: &[u8]) -> Keys {
    let options = serde_saphyr::options! { with_snippet: false };
    let text = String::from_utf8_lossy(configuration);
    let documents = serde_saphyr::from_multiple_with_options(&text, options);
    keys(&documents.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_the_first_document_under_the_name_of_their_item() {
        let configuration = "version: v1alpha1\ncluster: {id: a, secretboxEncryptionSecret: b, ca: {crt: c}}\n---\nkind: HostnameConfig\n";
        let keys = keys_in(configuration.as_bytes());
        let found: Vec<_> = keys.iter().map(|(item, digest)| (*item, digest.as_str())).collect();
        let expected = [
            ("cluster-id", sha256_hex(b"a")),
            ("k8s-ca", sha256_hex(b"c")),
            ("secretbox", sha256_hex(b"b")),
        ];
        assert_eq!(found, expected.each_ref().map(|(item, digest)| (*item, digest.as_str())));
        assert_eq!(keys_in(b"\xff: ["), Keys::new());
    }

    // hazard: Help tells to destroy a living cluster because its certificates' dates were moved.
    // class: Help causes damage.
    // members: KubePrism and trustd
    // now: the dates are applied
    #[test]
    fn a_certificate_with_other_dates_and_the_same_key_is_the_same_key() {
        let secrets = include_str!("../../tests/fixtures/talos/secrets.yaml");
        let bundle = pki::Bundle::parse(secrets).expect("a bundle");
        let certificate = &bundle.kubernetes.crt;
        let public = pki::public_key(certificate).expect("a certificate");
        assert_eq!(digest(certificate), sha256_hex(&public));
        // SEQUENCE of an algorithm and a BIT STRING: 91 bytes for P-256 (RFC 5480).
        assert_eq!((public.len(), public[0]), (91, 0x30));
        assert_ne!(digest(certificate), digest(&bundle.etcd.crt));
    }
}
