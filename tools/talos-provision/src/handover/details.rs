//! Fields of the API's answers that no plan compares, but that `OpenTofu` would change if a configuration
//! lacked them.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::clients::hetzner::CloudState;
use crate::labels::Labels;
use crate::plan::Family;

/// Returns the details of our resource `id`.
pub(super) fn details<T: DeserializeOwned>(
    cloud: &CloudState,
    family: Family,
    id: u64,
) -> Result<T, Error> {
    let details = cloud.details.get(&(family, id)).map(Arc::as_ref);
    T::deserialize(details.unwrap_or(&Value::Null))
        .map_err(|error| Error::InvalidResponse { what: "the cloud", source: error.into() })
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Protection {
    #[serde(default)]
    pub(super) delete: bool,
    #[serde(default)]
    pub(super) rebuild: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Typed {
    pub(super) r#type: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Server {
    #[serde(default)]
    pub(super) protection: Protection,
    /// Hours in which backups are made; `None` while backups are off.
    pub(super) backup_window: Option<String>,
    #[serde(default)]
    pub(super) private_net: Vec<PrivateNet>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PrivateNet {
    pub(super) network: u64,
    pub(super) ip: Option<String>,
    #[serde(default)]
    pub(super) alias_ips: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Network {
    #[serde(default)]
    pub(super) protection: Protection,
    #[serde(default)]
    pub(super) expose_routes_to_vswitch: bool,
    #[serde(default)]
    pub(super) subnets: Vec<Subnet>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Subnet {
    pub(super) r#type: String,
    pub(super) ip_range: Option<String>,
    pub(super) network_zone: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Firewall {
    #[serde(default)]
    pub(super) rules: Vec<FirewallRule>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct FirewallRule {
    pub(super) direction: String,
    pub(super) protocol: String,
    pub(super) port: Option<String>,
    #[serde(default)]
    pub(super) source_ips: Vec<String>,
    #[serde(default)]
    pub(super) destination_ips: Vec<String>,
    pub(super) description: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PrimaryIp {
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) protection: Protection,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
pub(super) struct LoadBalancer {
    pub(super) load_balancer_type: Named,
    pub(super) algorithm: Typed,
    #[serde(default)]
    pub(super) protection: Protection,
    #[serde(default)]
    pub(super) services: Vec<Service>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Service {
    pub(super) listen_port: u16,
    pub(super) health_check: HealthCheck,
}

/// Times of a health check, in seconds, and its number of attempts.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct HealthCheck {
    pub(super) interval: u64,
    pub(super) timeout: u64,
    pub(super) retries: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Image {
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) labels: Labels,
    /// Server from which the snapshot was created.
    pub(super) created_from: Option<Numbered>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Numbered {
    pub(super) id: u64,
}
