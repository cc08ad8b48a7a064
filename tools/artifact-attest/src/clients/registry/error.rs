//! Errors of the registry's client as errors of this program.

use ::remote::registry::Error as ClientError;

use crate::Error;

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Interrupted(error) => Self::Stream(error),
            ClientError::Secret(error) => Self::Secret(error),
            ClientError::Roots(error) => Self::Roots(error),
            ClientError::Unreachable { url, source } => Self::Unreachable { url, source },
            ClientError::Untrusted { url, source } => Self::Untrusted { url, source },
            ClientError::Busy { url, status, seconds, said } => {
                Self::Busy { url, status, seconds, said }
            }
            ClientError::Denied { url, status, anonymous, said } => {
                Self::Denied { url, status, anonymous, said }
            }
            ClientError::Refused { method, url, status, said } => {
                Self::Refused { method, url, status, said }
            }
            ClientError::InvalidResponse { url, problem } => Self::InvalidResponse { url, problem },
            ClientError::Corrupt { what, found } => Self::Corrupt { what, found },
        }
    }
}
