//! Declared fields of a Cluster. No logic: a value of these types is valid by construction.

mod firewall;
mod image;
mod registries;
mod removal;

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use contract::DataOnDestroy;
use documents::Name;
use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use firewall::{Firewall, FirewallRule, Ports, Protocol, Source};
pub use image::{Extension, Factory, Image, KernelArgument};
pub use registries::{
    MirrorUrl, Pem, Registries, RegistryAuth, RegistryConfig, RegistryEndpoint, RegistryMirror,
    RegistryName, RegistryTls,
};
pub use removal::{EmptyDir, Removal, Seconds};

/// Kubernetes cluster of machines at Hetzner Cloud. `apply` removes a machine that this document
/// created and no longer declares. Machines of others are never changed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    /// Name of the `Project` to which the cluster belongs. The Project names the cloud's endpoint,
    /// and the cluster's secrets derive from its root.
    pub project: Name,
    /// Talos version on every machine, for example `v1.13.9`.
    pub talos: Version,
    /// Kubernetes version, for example `v1.36.3`.
    pub kubernetes: Version,
    /// Image of Talos that `apply` creates, for example `{extensions: [siderolabs/qemu-guest-agent]}`.
    /// If it is absent, machines are created from a snapshot that a person made and labelled
    /// `os=talos` and `version=<spec.talos>`.
    pub image: Option<Image>,
    /// URL of the Kubernetes API, for example `https://prod.example.org:6443`. If it is absent, a
    /// load balancer is created and its address is the endpoint.
    pub endpoint: Option<Endpoint>,
    /// Validity of the certificates.
    pub certificates: Certificates,
    /// Number of times that etcd may be started from nothing, including the first time (default 1).
    /// If every control plane of a started cluster loses its disk, the cluster stays down until
    /// this number is raised by one. Then the cluster starts again, empty.
    #[serde(default = "first_incarnation")]
    #[schemars(range(min = 1, max = 65535))]
    pub incarnation: NonZeroU16,
    /// Rule for the first configuration of a new machine, which holds the keys of the cluster's
    /// authorities (default `refuse`).
    #[serde(default)]
    pub first_contact: FirstContact,
    /// Pools of the cluster's machines.
    pub pools: Vec<Pool>,
    /// Persistent volume claims that may be lost without a receipt of a Drain, for example
    /// `{default/cache: discard}`, when `destroy` or `apply` removes the machines that hold them.
    #[serde(default)]
    pub data_on_destroy: DataOnDestroy,
    /// Rules by which pods leave a machine that is removed while the cluster lives.
    #[serde(default)]
    pub removal: Removal,
    /// Network of the machines, and networks inside Kubernetes.
    #[serde(default)]
    pub network: Network,
    /// Whether a cloud controller manager from a Delivery initialises the nodes (default false).
    /// Until it runs, each new node has the taint `node.cloudprovider.kubernetes.io/uninitialized`,
    /// so that only pods which tolerate this taint start.
    #[serde(default)]
    pub external_cloud_provider: bool,
    /// Addresses that may reach the machines from outside. Without `talos` no machine can be
    /// configured.
    #[serde(default)]
    pub firewall: Firewall,
    /// Registries from which machines pull images, with mirrors, credentials and TLS, for example
    /// `{config: {ghcr.io: {auth: {username: zabronax, password: {env: PULL_TOKEN}}}}}`.
    #[serde(default)]
    pub registries: Registries,
    /// Paths of files with strategic merge patches for the configuration of every machine.
    #[serde(default)]
    pub patches: Vec<PathBuf>,
}

/// Pool of machines that are alike.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `name`")]
pub struct Pool {
    /// Name of the pool. Its machines are called `<cluster>-<name>-1` and so on.
    pub name: Name,
    /// Role of the pool's machines.
    pub role: Role,
    /// Number of machines in the pool.
    pub count: u8,
    /// Hetzner's server type, for example `cax11`.
    pub r#type: String,
    /// Hetzner locations, for example `fsn1`. Machines are distributed over them in turn. If a
    /// server type is unavailable in one location, the next location is tried.
    pub locations: Vec<String>,
    /// Paths of files with strategic merge patches for the pool's machines, applied after those of
    /// the cluster.
    #[serde(default)]
    pub patches: Vec<PathBuf>,
}

/// Rule for the first contact with a new machine.
///
/// Talos in maintenance mode shows a certificate that it made itself at that boot, and prints its
/// fingerprint on the console alone: `talosctl apply-config --insecure --cert-fingerprint`,
/// <https://www.talos.dev/v1.13/reference/cli/#talosctl-apply-config>. Hetzner's API does not show
/// the console, so there is nothing to compare the certificate with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FirstContact {
    /// No configuration is sent, and no machine is created.
    #[default]
    Refuse,
    /// The machine that answers at the address in the cloud's API gets the configuration. For the
    /// rest of the run only its certificate is accepted, and afterwards only a certificate that the
    /// cluster's own authority signed.
    TrustOnFirstUse,
}

/// Role of a machine.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Control plane: runs etcd and the Kubernetes API.
    Controlplane,
    /// Worker: runs the deployed pods.
    Worker,
}

impl Role {
    /// Returns the name that Talos and our labels use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controlplane => "controlplane",
            Self::Worker => "worker",
        }
    }
}

/// Validity of the certificates. The end of the authorities is a fixed date, so `years` must be
/// raised before that date. Certificates of administrators and readers are much shorter, because
/// Kubernetes and Talos cannot revoke a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Certificates {
    /// First day of the authorities' validity, in the past: `2026-11-01`.
    not_before: Day,
    /// Validity of the authorities in years (default 10, 1 to 50).
    #[serde(default = "years")]
    #[schemars(range(min = 1, max = 50))]
    years: Years,
    /// Validity of a sealed kubeconfig or talosconfig in days (default 30). A new credential is
    /// made when half of that time has passed.
    #[serde(default = "admin_days")]
    #[schemars(range(min = 1, max = 365))]
    admin_days: AdminDays,
}

impl Certificates {
    /// Returns the first second of the authorities' validity.
    #[must_use]
    pub fn not_before(&self) -> DateTime {
        self.not_before.0.at(0, 0, 0, 0)
    }

    /// Returns the last second of the authorities' validity.
    #[must_use]
    pub fn not_after(&self) -> DateTime {
        self.not_before().saturating_add(i32::from(self.years.0).years())
    }

    /// Returns begin and end of the validity of credentials that are sealed at `now`.
    ///
    /// A new period begins every half of `adminDays`, counted from `notBefore`, and a certificate
    /// is valid for two periods. The bytes are therefore a function of the document and of the
    /// period, and stay valid for at least half of `adminDays`.
    #[must_use]
    pub fn period(&self, now: DateTime) -> (DateTime, DateTime) {
        let half = i64::from(self.admin_days.0) * SECONDS_PER_DAY / 2;
        // A machine whose clock is behind must not reject a new certificate.
        let passed = now.duration_since(self.not_before()).as_secs() - CLOCK_SECONDS_MAX;
        let begin = self.not_before().saturating_add((passed.max(0) / half * half).seconds());
        self.within(begin, begin.saturating_add((2 * half).seconds()))
    }

    /// Returns begin and end of the validity of credentials that one run keeps in memory.
    #[must_use]
    pub fn run(&self, now: DateTime) -> (DateTime, DateTime) {
        self.within(
            now.saturating_sub(CLOCK_SECONDS_MAX.seconds()),
            now.saturating_add(RUN_SECONDS_MAX.seconds()),
        )
    }

    /// Limits a validity to that of the authority, because a certificate must not outlive its
    /// issuer.
    fn within(self, begin: DateTime, end: DateTime) -> (DateTime, DateTime) {
        (begin.max(self.not_before()), end.min(self.not_after()))
    }
}

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;
/// Most seconds by which the clock of a machine may be behind ours.
const CLOCK_SECONDS_MAX: i64 = 60 * 60;
/// Longest time that one run may take, in seconds.
const RUN_SECONDS_MAX: i64 = 24 * 60 * 60;

fn admin_days() -> AdminDays {
    AdminDays(30)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "u16")]
#[schemars(with = "u16")]
struct AdminDays(u16);

impl TryFrom<u16> for AdminDays {
    type Error = &'static str;

    fn try_from(days: u16) -> Result<Self, Self::Error> {
        if (1..=365).contains(&days) { Ok(Self(days)) } else { Err("not between 1 and 365 days") }
    }
}

fn first_incarnation() -> NonZeroU16 {
    NonZeroU16::MIN
}

fn years() -> Years {
    Years(10)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "u8")]
#[schemars(with = "u8")]
struct Years(u8);

impl TryFrom<u8> for Years {
    type Error = &'static str;

    fn try_from(years: u8) -> Result<Self, Self::Error> {
        if (1..=50).contains(&years) { Ok(Self(years)) } else { Err("not between 1 and 50 years") }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
struct Day(Date);

impl TryFrom<String> for Day {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a date such as 2026-11-01, from 1950 on";
        let date = (text.len() == 10).then(|| text.parse::<Date>().ok()).flatten();
        date.filter(|date| (1950..=9900).contains(&date.year())).map(Self).ok_or(wrong)
    }
}

/// Networks, which must not overlap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Network {
    /// Hetzner's network zone, which must contain all locations (default `eu-central`).
    pub zone: String,
    /// Private network, which must contain `nodes` (default `10.0.0.0/16`).
    pub range: Subnet,
    /// Private addresses of the machines (default `10.0.1.0/24`).
    pub nodes: Subnet,
    /// Addresses of pods (default `10.244.0.0/16`).
    pub pods: Subnet,
    /// Addresses of services (default `10.96.0.0/12`).
    pub services: Subnet,
    /// Network plugin for pods (default `flannel`).
    pub cni: Cni,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            zone: "eu-central".to_owned(),
            range: Subnet(Ipv4Addr::new(10, 0, 0, 0), 16),
            nodes: Subnet(Ipv4Addr::new(10, 0, 1, 0), 24),
            pods: Subnet(Ipv4Addr::new(10, 244, 0, 0), 16),
            services: Subnet(Ipv4Addr::new(10, 96, 0, 0), 12),
            cni: Cni::Flannel,
        }
    }
}

/// Network plugin for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// Flannel, installed by Talos.
    Flannel,
    /// No CNI is installed. Nodes stay `NotReady` until a Delivery brings one, and `apply` does not
    /// wait for them.
    None,
}

/// Subnet of IPv4, for example `10.0.1.0/24`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Subnet(Ipv4Addr, u8);

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.1)).unwrap_or(0)
    }

    /// Returns whether this subnet contains all of `other`.
    #[must_use]
    pub fn holds(self, other: Self) -> bool {
        self.1 <= other.1 && other.0.to_bits() & self.mask() == self.0.to_bits()
    }

    /// Returns the first address after the subnet's own, for example `10.0.0.1` of `10.0.0.0/16`.
    #[must_use]
    pub fn first_address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.to_bits() + 1)
    }

    /// Returns whether the subnets share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.holds(other) || other.holds(self)
    }
}

impl TryFrom<String> for Subnet {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not an IPv4 subnet such as 10.0.1.0/24, with 8 to 30 bits";
        let (address, bits) = text.split_once('/').ok_or(wrong)?;
        let subnet = Self(
            address.parse().map_err(|_| wrong)?,
            bits.parse().ok().filter(|bits| (8..=30).contains(bits)).ok_or(wrong)?,
        );
        if subnet.0.to_bits() & !subnet.mask() == 0 { Ok(subnet) } else { Err(wrong) }
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

/// Released version, for example `v1.13.9`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^v[0-9]+\.[0-9]+\.[0-9]+$"))]
pub struct Version {
    /// Major version, for example 1.
    pub major: u16,
    /// Minor version, for example 13.
    pub minor: u16,
    /// Patch version, for example 9.
    pub patch: u16,
}

impl TryFrom<String> for Version {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a released version such as v1.13.9";
        let numbers = text.strip_prefix('v').ok_or(wrong)?.split('.');
        let numbers: Vec<u16> = numbers.map_while(|number| number.parse().ok()).collect();
        let [major, minor, patch] = numbers[..] else { return Err(wrong) };
        let version = Self { major, minor, patch };
        if version.to_string() == text { Ok(version) } else { Err(wrong) }
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// HTTPS URL of the Kubernetes API: a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^https://[a-z0-9.-]+:[0-9]+$"))]
pub struct Endpoint(String);

impl Endpoint {
    /// Returns the text of the document.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Endpoint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not an HTTPS URL with a port, such as https://prod.example.org:6443";
        let (host, port) = text
            .strip_prefix("https://")
            .and_then(|address| address.rsplit_once(':'))
            .ok_or(wrong)?;
        let allowed = |character: char| {
            character.is_ascii_lowercase() || character.is_ascii_digit() || ".-".contains(character)
        };
        let port = port.parse::<u16>().is_ok_and(|port| port > 0);
        if port && !host.is_empty() && host.chars().all(allowed) {
            Ok(Self(text))
        } else {
            Err(wrong)
        }
    }
}
