//! What is declared. No logic: a value of these types is right by construction.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime};
use keyring::DataOnDestroy;
use phase::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::observe::{Evidence, Observed};
use crate::plan::Step;

/// Machines that are one Kubernetes cluster. A machine that is no longer declared here, and that
/// this document made, is removed; one that others made is never touched.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    /// The `Project` to which it belongs: where the cloud is, and from what its secrets derive.
    pub project: Name,
    /// The version of Talos on every machine: `v1.13.9`.
    pub talos: Version,
    /// The version of Kubernetes: `v1.36.3`.
    pub kubernetes: Version,
    /// Where the Kubernetes API answers: `https://prod.example.org:6443`. Without one, a load
    /// balancer is made, and its address is the endpoint.
    pub endpoint: Option<Endpoint>,
    /// When every certificate begins and ends.
    pub certificates: Certificates,
    /// The machines.
    pub pools: Vec<Pool>,
    /// Claims that may be lost without a receipt of a Drain, for example `{default/cache: discard}`,
    /// when `destroy` or `apply` removes the machines that hold them.
    #[serde(default)]
    pub data_on_destroy: DataOnDestroy,
    /// How pods leave a machine that is removed while the cluster lives.
    #[serde(default)]
    pub removal: Removal,
    /// The networks, of the machines and inside Kubernetes.
    #[serde(default)]
    pub network: Network,
    /// Who may reach the machines from outside.
    #[serde(default)]
    pub firewall: Firewall,
    /// Files with strategic merge patches for the configuration of every machine.
    #[serde(default)]
    pub patches: Vec<PathBuf>,
}

impl phase::Kind for Cluster {
    const KIND: &'static str = "Cluster";
    type Observed = Observed;
    type Evidence = Evidence;
    type Step = Step;
}

/// How pods leave a machine that is removed while the cluster lives: as with `kubectl drain
/// --ignore-daemonsets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Removal {
    /// Longest time in seconds in which no pod leaves the machine (default 900). After that `apply`
    /// fails and names the `PodDisruptionBudget`; the machine stays, and takes no new pods.
    #[schemars(range(min = 1, max = 86400))]
    pub eviction_seconds: Seconds,
    /// Whether pods with an `emptyDir` volume are evicted, although its contents are lost
    /// (default `refuse`).
    pub empty_dir: EmptyDir,
}

impl Default for Removal {
    fn default() -> Self {
        Self { eviction_seconds: Seconds(900), empty_dir: EmptyDir::Refuse }
    }
}

/// From one second to a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(with = "u32")]
pub struct Seconds(u32);

impl TryFrom<u32> for Seconds {
    type Error = &'static str;

    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        if (1..=86_400).contains(&seconds) { Ok(Self(seconds)) } else { Err("not from 1 to 86400") }
    }
}

impl From<Seconds> for std::time::Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0.into())
    }
}

/// What happens to `emptyDir` volumes on a machine that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EmptyDir {
    /// A pod with such a volume stops the removal, as `kubectl drain` does without
    /// `--delete-emptydir-data`.
    Refuse,
    /// The contents are lost.
    Discard,
}

/// Machines that are alike.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `name`")]
pub struct Pool {
    /// Its machines are called `<cluster>-<name>-1` and so on.
    pub name: Name,
    /// What its machines do.
    pub role: Role,
    /// How many there are.
    pub count: u8,
    /// Hetzner's type of server: `cax11`.
    pub r#type: String,
    /// Where they may stand, `fsn1` or the like: the machines take turns, and one that cannot be
    /// had in its location goes to the next.
    pub locations: Vec<String>,
    /// Files with strategic merge patches for their configuration, after those of the cluster.
    #[serde(default)]
    pub patches: Vec<PathBuf>,
}

/// What a machine does.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It runs etcd and the Kubernetes API.
    Controlplane,
    /// It runs what is deployed.
    Worker,
}

impl Role {
    /// As Talos and our labels have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controlplane => "controlplane",
            Self::Worker => "worker",
        }
    }
}

/// When certificates begin and end. Their end is a date that stands here: `verify` fails once it
/// has passed, and the remedy is a change of this document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Certificates {
    /// The first day, in the past: `2026-11-01`.
    not_before: Day,
    /// How long they last.
    #[serde(default = "years")]
    #[schemars(range(min = 1, max = 50))]
    years: Years,
}

impl Certificates {
    /// The first second.
    #[must_use]
    pub fn not_before(&self) -> DateTime {
        self.not_before.0.at(0, 0, 0, 0)
    }

    /// The last second.
    #[must_use]
    pub fn not_after(&self) -> DateTime {
        self.not_before().saturating_add(i32::from(self.years.0).years())
    }
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
        if (1..=50).contains(&years) { Ok(Self(years)) } else { Err("not from 1 to 50 years") }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
struct Day(Date);

impl TryFrom<String> for Day {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a day, which is like 2026-11-01, from 1950 on";
        let date = (text.len() == 10).then(|| text.parse::<Date>().ok()).flatten();
        date.filter(|it| (1950..=9900).contains(&it.year())).map(Self).ok_or(wrong)
    }
}

/// Networks. None may overlap another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Network {
    /// Hetzner's zone, in which all locations must lie.
    pub zone: String,
    /// The private network, of which `nodes` is a part.
    pub range: Subnet,
    /// The private addresses of the machines.
    pub nodes: Subnet,
    /// The addresses of pods.
    pub pods: Subnet,
    /// The addresses of services.
    pub services: Subnet,
    /// What connects pods.
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

/// What connects pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// Talos installs Flannel.
    Flannel,
    /// Whoever delivers to the cluster brings one; until then no node is Ready, and none has to be.
    None,
}

/// Who may reach the machines from outside: subnets of IPv4 or IPv6, and by default everybody,
/// since both APIs ask for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Firewall {
    /// Talos's API, port 50000.
    pub talos: Vec<Source>,
    /// The Kubernetes API, port 6443.
    pub kubernetes: Vec<Source>,
    /// `ping`.
    pub icmp: Vec<Source>,
}

impl Default for Firewall {
    fn default() -> Self {
        let anybody = || vec![Source("0.0.0.0/0".to_owned()), Source("::/0".to_owned())];
        Self { talos: anybody(), kubernetes: anybody(), icmp: anybody() }
    }
}

/// A subnet of IPv4 or IPv6.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Source(String);

impl Source {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Source {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a subnet, which is like 192.0.2.0/24 or 2001:db8::/32";
        let (address, bits) = text.split_once('/').ok_or(wrong)?;
        let address: std::net::IpAddr = address.parse().map_err(|_| wrong)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        match bits.parse::<u8>() {
            Ok(bits) if bits <= bits_max => Ok(Self(text)),
            _ => Err(wrong),
        }
    }
}

/// A subnet of IPv4.
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

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn holds(self, other: Self) -> bool {
        self.1 <= other.1 && other.0.to_bits() & self.mask() == self.0.to_bits()
    }

    /// Whether they share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.holds(other) || other.holds(self)
    }
}

impl TryFrom<String> for Subnet {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a subnet, which is like 10.0.1.0/24";
        let (address, bits) = text.split_once('/').ok_or(wrong)?;
        let subnet = Self(
            address.parse().map_err(|_| wrong)?,
            bits.parse().ok().filter(|it| (8..=30).contains(it)).ok_or(wrong)?,
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

/// A released version: `v1.13.9`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^v[0-9]+\.[0-9]+\.[0-9]+$"))]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
    /// The third number.
    pub patch: u16,
}

impl TryFrom<String> for Version {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a released version, which is like v1.13.9";
        let numbers = text.strip_prefix('v').ok_or(wrong)?.split('.');
        let numbers: Vec<u16> = numbers.map_while(|it| it.parse().ok()).collect();
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

/// Where the Kubernetes API answers: a host and a port over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^https://[a-z0-9.-]+:[0-9]+$"))]
pub struct Endpoint(String);

impl Endpoint {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Endpoint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not an endpoint, which is like https://prod.example.org:6443";
        let (host, port) =
            text.strip_prefix("https://").and_then(|it| it.rsplit_once(':')).ok_or(wrong)?;
        let allowed =
            |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || ".-".contains(it);
        let port = port.parse::<u16>().is_ok_and(|it| it > 0);
        if port && !host.is_empty() && host.chars().all(allowed) {
            Ok(Self(text))
        } else {
            Err(wrong)
        }
    }
}
