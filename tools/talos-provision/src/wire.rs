//! Messages of Talos's API, for the client and for an emulator of a node.
//!
//! Written by hand with the field numbers of Talos v1.13.9, so that the build does not need
//! `protoc`. Fields that this workspace does not read are left out, because protobuf skips unknown
//! fields.
//!
//! **Invariant:** names and numbers only. `talos/` documents their meaning.

#![expect(missing_docs, reason = "the names are Talos's, and so is their documentation")]

mod etcd;
mod machine;
mod state;

use std::fmt::Debug;

pub use etcd::*;
pub use machine::*;
pub use state::*;

/// Port of the API on every node.
pub const PORT: u16 = 50000;

/// Largest message of the API, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Path of every method.
pub mod path {
    pub const APPLY_CONFIGURATION: &str = "/machine.MachineService/ApplyConfiguration";
    pub const BOOTSTRAP: &str = "/machine.MachineService/Bootstrap";
    pub const VERSION: &str = "/machine.MachineService/Version";
    pub const HOSTNAME: &str = "/machine.MachineService/Hostname";
    pub const SERVICE_LIST: &str = "/machine.MachineService/ServiceList";
    pub const ETCD_MEMBER_LIST: &str = "/machine.MachineService/EtcdMemberList";
    pub const ETCD_LEAVE_CLUSTER: &str = "/machine.MachineService/EtcdLeaveCluster";
    pub const ETCD_REMOVE_MEMBER_BY_ID: &str = "/machine.MachineService/EtcdRemoveMemberByID";
    pub const ETCD_FORFEIT_LEADERSHIP: &str = "/machine.MachineService/EtcdForfeitLeadership";
    pub const ETCD_STATUS: &str = "/machine.MachineService/EtcdStatus";
    pub const ETCD_ALARM_LIST: &str = "/machine.MachineService/EtcdAlarmList";
    /// Returns a stream of [`super::Data`].
    pub const ETCD_SNAPSHOT: &str = "/machine.MachineService/EtcdSnapshot";
    /// Returns a stream of [`super::Data`].
    pub const KUBECONFIG: &str = "/machine.MachineService/Kubeconfig";
    pub const RESET: &str = "/machine.MachineService/Reset";
    pub const REBOOT: &str = "/machine.MachineService/Reboot";
    pub const SHUTDOWN: &str = "/machine.MachineService/Shutdown";
    /// Returns a stream of [`super::Event`].
    pub const EVENTS: &str = "/machine.MachineService/Events";
    /// Returns a stream of [`super::Data`].
    pub const READ: &str = "/machine.MachineService/Read";
    /// Returns a stream of [`super::FileInfo`].
    pub const LIST: &str = "/machine.MachineService/List";
    /// Returns a stream of [`super::LifecycleProgress`].
    pub const LIFECYCLE_UPGRADE: &str = "/machine.LifecycleService/Upgrade";
    /// Returns a stream of [`super::HealthCheckProgress`].
    pub const HEALTH_CHECK: &str = "/cluster.ClusterService/HealthCheck";
    pub const STATE_GET: &str = "/cosi.resource.State/Get";
    /// Returns a stream of [`super::StateListed`].
    pub const STATE_LIST: &str = "/cosi.resource.State/List";
}

/// Names of a node's state resources, for [`StateGet`].
pub mod resource {
    pub const STATUS_TYPE: &str = "MachineStatuses.runtime.talos.dev";
    pub const STATUS_NAMESPACE: &str = "runtime";
    pub const STATUS_ID: &str = "machine";
    pub const CONFIG_TYPE: &str = "MachineConfigs.config.talos.dev";
    pub const CONFIG_NAMESPACE: &str = "config";
    /// Id of the active configuration.
    pub const CONFIG_ACTIVE: &str = "v1alpha1";
    /// Id of the configuration on disk.
    pub const CONFIG_PERSISTENT: &str = "persistent";
}

/// Prefix of an event's `type_url`; the name of the message follows.
pub const EVENT_TYPE_PREFIX: &str = "talos/runtime/machine.";

#[derive(Clone, PartialEq, prost::Message)]
pub struct Empty {}

/// Answer of every unary method of the machine service: one message per node asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply<M: prost::Message + Default + Debug> {
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<M>,
}

impl<M: prost::Message + Default + Debug> From<M> for Reply<M> {
    fn from(message: M) -> Self {
        Self { messages: vec![message] }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    #[prost(string, tag = "1")]
    pub hostname: String,
    #[prost(string, tag = "2")]
    pub error: String,
    #[prost(message, optional, tag = "3")]
    pub status: Option<RpcStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CommonError {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Data {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Duration {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// Answer of most methods that return no data.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
}

/// Answer of a method whose work continues after the answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Begun {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub actor_id: String,
}
