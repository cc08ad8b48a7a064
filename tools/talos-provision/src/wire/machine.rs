//! Messages of the machine service: configuration, versions, services, stages, life cycle.

use super::{Any, CommonError, Duration, Metadata, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ApplyMode {
    Reboot = 0,
    Auto = 1,
    NoReboot = 2,
    Staged = 3,
    Try = 4,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ApplyConfiguration {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(enumeration = "ApplyMode", tag = "4")]
    pub mode: i32,
    #[prost(bool, tag = "5")]
    pub dry_run: bool,
    #[prost(message, optional, tag = "6")]
    pub try_mode_timeout: Option<Duration>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigurationApplied {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, repeated, tag = "2")]
    pub warnings: Vec<String>,
    #[prost(enumeration = "ApplyMode", tag = "3")]
    pub mode: i32,
    /// In a dry run: the difference, with secrets. Never log it.
    #[prost(string, tag = "4")]
    pub mode_details: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Bootstrap {
    #[prost(bool, tag = "1")]
    pub recover_etcd: bool,
    #[prost(bool, tag = "2")]
    pub recover_skip_hash_check: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Version {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    pub version: Option<VersionInfo>,
    #[prost(message, optional, tag = "3")]
    pub platform: Option<PlatformInfo>,
    #[prost(message, optional, tag = "4")]
    pub features: Option<FeaturesInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionInfo {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(string, tag = "2")]
    pub sha: String,
    #[prost(string, tag = "3")]
    pub built: String,
    #[prost(string, tag = "4")]
    pub go_version: String,
    #[prost(string, tag = "5")]
    pub os: String,
    #[prost(string, tag = "6")]
    pub arch: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PlatformInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub mode: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct FeaturesInfo {
    #[prost(bool, tag = "1")]
    pub rbac: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Hostname {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceList {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(message, repeated, tag = "2")]
    pub services: Vec<Service>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Service {
    #[prost(string, tag = "1")]
    pub id: String,
    /// State of the service: `Initialized`, `Preparing`, `Waiting`, `Starting`, `Running`,
    /// `Stopping`, `Finished`, `Failed` or `Skipped`.
    #[prost(string, tag = "2")]
    pub state: String,
    #[prost(message, optional, tag = "3")]
    pub events: Option<ServiceEvents>,
    #[prost(message, optional, tag = "4")]
    pub health: Option<ServiceHealth>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceEvents {
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<ServiceEvent>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceEvent {
    #[prost(string, tag = "1")]
    pub msg: String,
    #[prost(string, tag = "2")]
    pub state: String,
    #[prost(message, optional, tag = "3")]
    pub ts: Option<Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceHealth {
    #[prost(bool, tag = "1")]
    pub unknown: bool,
    #[prost(bool, tag = "2")]
    pub healthy: bool,
    #[prost(string, tag = "3")]
    pub last_message: String,
    #[prost(message, optional, tag = "4")]
    pub last_change: Option<Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ListRequest {
    #[prost(string, tag = "1")]
    pub root: String,
    #[prost(bool, tag = "2")]
    pub recurse: bool,
    #[prost(int32, tag = "3")]
    pub recursion_depth: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct FileInfo {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(bool, tag = "6")]
    pub is_dir: bool,
    #[prost(string, tag = "7")]
    pub error: String,
    /// Path relative to the requested directory. The directory itself is the first item, as `.`.
    #[prost(string, tag = "8")]
    pub relative_name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum WipeMode {
    All = 0,
    SystemDisk = 1,
    UserDisks = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Reset {
    #[prost(bool, tag = "1")]
    pub graceful: bool,
    #[prost(bool, tag = "2")]
    pub reboot: bool,
    #[prost(message, repeated, tag = "3")]
    pub system_partitions_to_wipe: Vec<ResetPartition>,
    #[prost(string, repeated, tag = "4")]
    pub user_disks_to_wipe: Vec<String>,
    #[prost(enumeration = "WipeMode", tag = "5")]
    pub mode: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResetPartition {
    #[prost(string, tag = "1")]
    pub label: String,
    #[prost(bool, tag = "2")]
    pub wipe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RebootMode {
    Default = 0,
    Powercycle = 1,
    Force = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Reboot {
    #[prost(enumeration = "RebootMode", tag = "1")]
    pub mode: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Shutdown {
    #[prost(bool, tag = "1")]
    pub force: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EventsRequest {
    #[prost(int32, tag = "1")]
    pub tail_events: i32,
    #[prost(string, tag = "2")]
    pub tail_id: String,
    #[prost(int32, tag = "3")]
    pub tail_seconds: i32,
    #[prost(string, tag = "4")]
    pub with_actor_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    /// Message whose type `type_url` names, for example a [`MachineStatusEvent`] or a
    /// [`SequenceEvent`].
    #[prost(message, optional, tag = "2")]
    pub data: Option<Any>,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(string, tag = "4")]
    pub actor_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Stage {
    Unknown = 0,
    Booting = 1,
    Installing = 2,
    Maintenance = 3,
    Running = 4,
    Rebooting = 5,
    ShuttingDown = 6,
    Resetting = 7,
    Upgrading = 8,
}

/// Event, and also the `proto_spec` of the resource of [`resource::STATUS_TYPE`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct MachineStatusEvent {
    #[prost(enumeration = "Stage", tag = "1")]
    pub stage: i32,
    #[prost(message, optional, tag = "2")]
    pub status: Option<MachineStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct MachineStatus {
    #[prost(bool, tag = "1")]
    pub ready: bool,
    #[prost(message, repeated, tag = "2")]
    pub unmet_conditions: Vec<UnmetCondition>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct UnmetCondition {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SequenceAction {
    Noop = 0,
    Start = 1,
    Stop = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SequenceEvent {
    #[prost(string, tag = "1")]
    pub sequence: String,
    #[prost(enumeration = "SequenceAction", tag = "2")]
    pub action: i32,
    #[prost(message, optional, tag = "3")]
    pub error: Option<CommonError>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadRequest {
    #[prost(string, tag = "1")]
    pub path: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerdInstance {
    #[prost(int32, tag = "1")]
    pub driver: i32,
    #[prost(int32, tag = "2")]
    pub namespace: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct InstallSource {
    #[prost(string, tag = "1")]
    pub image_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LifecycleUpgrade {
    #[prost(message, optional, tag = "1")]
    pub containerd: Option<ContainerdInstance>,
    #[prost(message, optional, tag = "2")]
    pub source: Option<InstallSource>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LifecycleProgress {
    #[prost(message, optional, tag = "1")]
    pub progress: Option<InstallProgress>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct InstallProgress {
    #[prost(oneof = "InstallResponse", tags = "1, 2")]
    pub response: Option<InstallResponse>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum InstallResponse {
    #[prost(string, tag = "1")]
    Message(String),
    #[prost(int32, tag = "2")]
    ExitCode(i32),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheck {
    #[prost(message, optional, tag = "1")]
    pub wait_timeout: Option<Duration>,
    #[prost(message, optional, tag = "2")]
    pub cluster_info: Option<ClusterInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterInfo {
    #[prost(string, repeated, tag = "1")]
    pub control_plane_nodes: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub worker_nodes: Vec<String>,
    #[prost(string, tag = "3")]
    pub force_endpoint: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckProgress {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub message: String,
}
