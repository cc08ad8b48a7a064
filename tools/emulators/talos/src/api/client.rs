//! One client of a machine: what the client may do with the machine.

use std::sync::Arc;

use rustls::ClientConfig;
use tonic::Status;

use crate::error::Error;
use crate::machine::Machine;
use crate::pki::Leaf;
use crate::tls;

/// Authentication of the API's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// No certificate: every client is a reader, and may apply a configuration.
    Maintenance,
    /// A certificate of the configuration's authority, which names the client's roles.
    Configured,
}

/// Role of a client. Each role includes the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    None,
    Reader,
    Operator,
    Admin,
}

impl Role {
    /// Returns the organization in the certificate of a client with this role.
    fn organization(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Reader => "os:reader",
            Self::Operator => "os:operator",
            Self::Admin => "os:admin",
        }
    }

    /// Returns the greatest of the roles that a certificate names.
    fn of_certificate(organizations: &[String]) -> Self {
        let roles = organizations.iter().map(|organization| match organization.as_str() {
            "os:admin" => Self::Admin,
            "os:operator" => Self::Operator,
            "os:reader" => Self::Reader,
            _ => Self::None,
        });
        roles.max().unwrap_or(Self::None)
    }
}

/// A client, and the machine that it is connected to. The machine is private, so that no method can
/// use it without naming the role that the method needs.
#[derive(Clone)]
pub(super) struct Client {
    machine: Arc<Machine>,
    access: Access,
    role: Role,
}

impl Client {
    /// Creates a client whose certificate names these organizations.
    pub(super) fn new(machine: Arc<Machine>, access: Access, organizations: &[String]) -> Self {
        let role = match access {
            Access::Maintenance => Role::Reader,
            Access::Configured => Role::of_certificate(organizations),
        };
        Self { machine, access, role }
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Returns the machine for decisions that need no role.
    pub(super) fn any_machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns the TLS settings with which this machine calls another machine on behalf of the client. Talos
    /// passes the client's roles on, and the other machine checks them.
    pub(super) fn peer_tls(&self) -> Result<Arc<ClientConfig>, Error> {
        let config = self.machine.active();
        let config = config.ok_or_else(|| Error::new("the machine has no configuration"))?;
        let issued = config.machine.issue(&Leaf::client("apid", &[self.role.organization()]))?;
        tls::client(&config.machine.der, issued.certificate, issued.key, b"h2")
    }

    pub(super) fn has(&self, least: Role) -> bool {
        self.role >= least
    }

    /// Returns the machine, if the client has at least the role that a method needs. The roles of all
    /// methods: <https://github.com/siderolabs/talos/blob/v1.13.9/internal/app/machined/pkg/system/services/machined.go>.
    pub(super) fn machine(&self, least: Role) -> Result<&Arc<Machine>, Status> {
        if self.has(least) {
            Ok(&self.machine)
        } else {
            Err(Status::permission_denied("not authorized"))
        }
    }

    /// Returns the machine, if the client may apply a configuration.
    pub(super) fn machine_to_configure(&self) -> Result<&Arc<Machine>, Status> {
        match self.access {
            Access::Maintenance => Ok(&self.machine),
            Access::Configured => self.machine(Role::Admin),
        }
    }
}
