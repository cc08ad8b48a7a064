//! The artifact of a Delivery.

/// The artifact, from the status of its document or from `source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// Registry and repository, for example `ghcr.io/zabronax/deployments`.
    pub(crate) repository: String,
    /// Attested digest, `sha256:` and 64 hexadecimal digits.
    pub(crate) digest: String,
    /// Public keys in PEM, one of which verifies the signature.
    pub(crate) public_keys: Vec<String>,
}
