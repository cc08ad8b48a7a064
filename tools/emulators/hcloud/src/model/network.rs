//! Private networks: their ranges, subnets and routes.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::error::ApiError;
use crate::resource::{Head, resource};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) head: Head,
    pub(crate) ip_range: Cidr,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) expose_routes_to_vswitch: bool,
    pub(crate) protected: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    /// `cloud`, `server` or `vswitch`.
    pub(crate) sort: String,
    pub(crate) ip_range: Cidr,
    pub(crate) zone: String,
    pub(crate) vswitch_id: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) destination: Cidr,
    pub(crate) gateway: Ipv4Addr,
}

resource!(Network, "network");

impl Network {
    /// Adds a subnet that lies in the network and overlaps with no other range.
    pub(crate) fn add_subnet(&mut self, subnet: Subnet) -> Result<(), ApiError> {
        let range = subnet.ip_range;
        if !self.ip_range.spans(range) || range.bits() > 30 {
            return Err(ApiError::invalid_fields(&[(
                "ip_range",
                "must lie in the network and be /30 or larger",
            )]));
        }
        if self.subnets.iter().any(|other| other.ip_range.overlaps(range))
            || self.routes.iter().any(|route| route.destination.overlaps(range))
        {
            return Err(ApiError::invalid_fields(&[(
                "ip_range",
                "overlaps with a subnet or a route",
            )]));
        }
        self.subnets.push(subnet);
        Ok(())
    }

    /// Returns the first /24 that overlaps with no subnet.
    pub(crate) fn free_range(&self) -> Option<Cidr> {
        let mut blocks = (self.ip_range.first()..=self.ip_range.last())
            .step_by(256)
            .filter_map(|base| Cidr::new(base, 24));
        blocks.find(|block| {
            self.ip_range.spans(*block)
                && !self.subnets.iter().any(|subnet| subnet.ip_range.overlaps(*block))
        })
    }

    pub(crate) fn add_route(&mut self, route: Route) -> Result<(), ApiError> {
        if !self.ip_range.holds(route.gateway) || route.gateway == self.ip_range.gateway() {
            return Err(ApiError::invalid_fields(&[(
                "gateway",
                "must be an address of the network, and not its gateway",
            )]));
        }
        let is_default = route.destination.bits() == 0;
        let overlaps =
            self.subnets.iter().any(|subnet| subnet.ip_range.overlaps(route.destination));
        if !is_default && overlaps {
            return Err(ApiError::invalid_fields(&[("destination", "overlaps with a subnet")]));
        }
        if self.routes.iter().any(|other| other.destination == route.destination) {
            return Err(ApiError::invalid_fields(&[("destination", "has a route already")]));
        }
        self.routes.push(route);
        Ok(())
    }
}
