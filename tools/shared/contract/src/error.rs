//! Failures of this crate: the message, the help, the condition's reason and the exit status.

use documents::{Diagnostic, Exit, Reason};
use git::Url;
use secrets::{AgeRecipient, OtherError};

/// Failures of the contract between programs. No message quotes a secret.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// The input has no Project of this name.
    #[error("the input has no Project called `{0}`")]
    NoProject(String),
    /// A receipt does not prove that data was copied.
    #[error("the receipt of Drain/{drain} is invalid: {why}")]
    Receipt {
        /// Name of the Drain whose status holds the receipt.
        drain: String,
        /// Clause that names the check that failed.
        why: String,
    },
    /// A URL outside the forge would receive the forge's token.
    #[error("{url} is not at the forge {forge}, so it does not receive the forge's token")]
    ForeignOrigin {
        /// URL that a status or an answer of the forge names.
        url: Url,
        /// URL of the forge in the Project.
        forge: Url,
    },
    /// A public key in the Project cannot be parsed.
    #[error("a key of spec.verificationKeys in the Project is {why}")]
    VerificationKey {
        /// Clause that follows "is", for example "not an Ed25519 public key in PEM".
        why: &'static str,
    },
    /// A secret that must hold the credentials of an S3 store does not.
    #[error("{0} is not the credentials of an S3 store")]
    NotCredentials(String),
    /// A sealed credential is for other recipients, also than the phase itself.
    #[error("a sealed secret is for other recipients: no identity in {places} is one of them")]
    NotARecipient {
        /// Places where identities were found.
        places: String,
        /// Recipient whose identity derives from the phase's key.
        derived: AgeRecipient,
    },
}

impl From<ContractError> for secrets::Error {
    fn from(error: ContractError) -> Self {
        OtherError::new(error).into()
    }
}

impl Diagnostic for ContractError {
    fn reason(&self) -> Reason {
        match self {
            Self::NoProject(_) => Reason::ProjectMissing,
            Self::Receipt { .. } => Reason::ReceiptInvalid,
            Self::ForeignOrigin { .. } => Reason::ForeignOrigin,
            Self::VerificationKey { .. } => Reason::VerificationKeyInvalid,
            Self::NotCredentials(_) => Reason::SecretUnavailable,
            Self::NotARecipient { .. } => Reason::DecryptionFailed,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::NoProject(_) => "add the Project's document to the input",
            Self::Receipt { .. } => {
                "run `data-drain apply` again, which reads all data back and signs a new receipt"
            }
            Self::ForeignOrigin { .. } => {
                "make spec.endpoints.forge of the Project and the forge's own URL (ROOT_URL of Gitea) \
                 agree; `vcs-bootstrap apply` renews a URL in a status"
            }
            Self::VerificationKey { .. } => {
                "copy the .pub files that `artifact-attest derive` and `data-drain derive` write"
            }
            Self::NotCredentials(_) => {
                "write a map or JSON text with `accessKeyId` and `secretAccessKey`"
            }
            Self::NotARecipient { derived, .. } => {
                return Some(format!(
                    "add {derived}, whose identity derives from this phase's key, to \
                     spec.recipients of the Project, and apply the Cluster again; or set \
                     SOPS_AGE_KEY_FILE to the file of an identity that is named there"
                ));
            }
        };
        Some(help.to_owned())
    }

    fn exit(&self) -> Exit {
        Exit::Permanent
    }
}
