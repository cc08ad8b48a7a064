//! Reasons of conditions and refusals that more than one program uses.
//!
//! A reason is one word in `CamelCase`. A reason that only one program uses stays in this program.

/// The remote did not answer, or the connection failed. Another attempt may succeed.
pub const UNREACHABLE: &str = "Unreachable";

/// The certificate of the remote is not trusted.
pub const UNTRUSTED: &str = "Untrusted";

/// The remote did not accept the credential.
pub const UNAUTHORIZED: &str = "Unauthorized";

/// The remote accepted the credential, but the credential lacks a permission.
pub const FORBIDDEN: &str = "Forbidden";

/// A permission or a policy of the remote denies the request.
pub const DENIED: &str = "Denied";

/// The remote allows no more requests for now.
pub const RATE_LIMITED: &str = "RateLimited";

/// A quota of the remote does not allow the change. A person must raise the quota or delete objects.
pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";

/// The answer of the remote is not in the expected format.
pub const INVALID_RESPONSE: &str = "InvalidResponse";

/// The answer of the remote is not in the expected format. Programs that do not report
/// [`INVALID_RESPONSE`] use this reason.
pub const GARBLED: &str = "Garbled";

/// The remote rejected a request as invalid.
pub const REJECTED: &str = "Rejected";

/// The remote rejected a request for a reason that its message gives.
pub const REFUSED: &str = "Refused";

/// The answer of the remote does not prove that an object is absent: the credential may not see the object.
pub const UNKNOWN: &str = "Unknown";

/// Another process changes the same object, or holds its lock. Another attempt may succeed.
pub const BUSY: &str = "Busy";

/// An object exists that the document neither declares nor owns.
pub const CONFLICT: &str = "Conflict";

/// The response to a write was lost, so the write may have been applied.
pub const AMBIGUOUS: &str = "Ambiguous";

/// All steps were executed, but the observation still differs from the document.
pub const NOT_CONVERGED: &str = "NotConverged";

/// A check of `verify` failed.
pub const VERIFICATION_FAILED: &str = "VerificationFailed";

/// A check of `verify` failed. Programs that do not report [`VERIFICATION_FAILED`] use this reason.
pub const UNPROVEN: &str = "Unproven";

/// Every check of `verify` passed.
pub const PROVEN: &str = "Proven";

/// A document on which this document depends is not Ready.
pub const DEPENDENCY_NOT_READY: &str = "DependencyNotReady";

/// The caller has no more than the key of a reader, which cannot determine the condition.
pub const READER_ACCESS: &str = "ReaderAccess";

/// The sealed kubeconfig is not accepted, for example because it runs a program.
pub const KUBECONFIG_REFUSED: &str = "KubeconfigRefused";

/// The command `git` failed.
pub const GIT_FAILED: &str = "GitFailed";

/// A file or folder of this machine cannot be read.
pub const UNREADABLE: &str = "Unreadable";

/// The data gate refused an operation, because data would be lost that no receipt covers.
pub const NOT_DRAINED: &str = "NotDrained";

/// The cluster did not answer, so its volumes are unknown and the data gate is closed.
pub const FACTS_UNKNOWN: &str = "FactsUnknown";

/// No receipt names the claim.
pub const NO_RECEIPT: &str = "NoReceipt";

/// The volume has no claim, so a drain cannot read it.
pub const UNCLAIMED: &str = "Unclaimed";

/// The receipt is for another cluster with the same name.
pub const OTHER_CLUSTER: &str = "OtherCluster";

/// The receipt is for an earlier claim with the same name.
pub const OTHER_CLAIM: &str = "OtherClaim";

/// The receipt is for another volume of the same claim.
pub const OTHER_VOLUME: &str = "OtherVolume";

/// The receipt was signed without a hold on the claim.
pub const NOT_HELD: &str = "NotHeld";

/// The hold on the claim was removed or changed after the receipt was signed.
pub const HOLD_BROKEN: &str = "HoldBroken";

/// A pod has mounted the claim since the receipt was signed.
pub const IN_USE: &str = "InUse";

/// The stopped workload was changed after the receipt was signed.
pub const WORKLOAD_CHANGED: &str = "WorkloadChanged";
