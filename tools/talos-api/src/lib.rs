//! Messages and services of Talos's API, and of the state API that Talos serves beside it, under
//! the vendors' own names.
//!
//! The code is generated from the files in `proto`, which describe only the parts that this project
//! uses. Protobuf skips unknown fields, so a machine may send more. `tests/published.rs` compares
//! every name, number and type with the descriptions that the vendors publish.
//!
//! **Invariant:** names and numbers only. The client in `talos-provision` documents their meaning.

/// Declares a module with the code that `build.rs` generated for one package.
macro_rules! package {
    ($module:ident, $package:literal) => {
        #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

package!(cluster, "cluster");
package!(common, "common");
package!(machine, "machine");

/// Packages of the state API.
pub mod cosi {
    package!(resource, "cosi.resource");
}

/// Contents of a machine's configuration as a resource.
pub mod resource {
    package!(config, "resource.config");
}

/// Contents of a machine's other resources.
pub mod talos {
    #[doc(hidden)]
    pub mod resource {
        pub mod definitions {
            package!(enums, "talos.resource.definitions.enums");
            package!(runtime, "talos.resource.definitions.runtime");
        }
    }
}

/// All descriptions in `proto` and their imports, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.bin"));

/// Port of the API on every machine: `ApidPort` in
/// <https://github.com/siderolabs/talos/blob/v1.13.9/pkg/machinery/constants/constants.go>.
pub const PORT: u16 = 50000;

/// Largest message of the API, in bytes: `GRPCMaxMessageSize` in the same file.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Namespace, type and id of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceName {
    /// Namespace, for example `runtime`.
    pub namespace: &'static str,
    /// Type, for example `MachineStatuses.runtime.talos.dev`.
    pub r#type: &'static str,
    /// Id within the namespace and the type.
    pub id: &'static str,
}

impl From<ResourceName> for cosi::resource::GetRequest {
    fn from(name: ResourceName) -> Self {
        let ResourceName { namespace, r#type, id } = name;
        Self { namespace: namespace.to_owned(), r#type: r#type.to_owned(), id: id.to_owned() }
    }
}

/// Status of a machine, a [`talos::resource::definitions::runtime::MachineStatusSpec`]:
/// <https://github.com/siderolabs/talos/blob/v1.13.9/pkg/machinery/resources/runtime/machine_status.go>.
pub const MACHINE_STATUS: ResourceName = ResourceName {
    namespace: "runtime",
    r#type: "MachineStatuses.runtime.talos.dev",
    id: "machine",
};

/// Active configuration of a machine, a [`resource::config::MachineConfigSpec`]:
/// <https://github.com/siderolabs/talos/blob/v1.13.9/pkg/machinery/resources/config/machine_config.go>.
pub const ACTIVE_CONFIGURATION: ResourceName =
    ResourceName { namespace: "config", r#type: "MachineConfigs.config.talos.dev", id: "v1alpha1" };

/// Configuration on the disk of a machine. It differs from the active one after the mode `STAGED`.
pub const PERSISTENT_CONFIGURATION: ResourceName =
    ResourceName { id: "persistent", ..ACTIVE_CONFIGURATION };
