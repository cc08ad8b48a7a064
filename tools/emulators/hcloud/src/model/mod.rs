//! The resources as the state keeps them, with the rules that concern one resource alone.
//!
//! **Invariant:** nothing here reads the state or a call. The modules of the handlers turn a resource
//! into JSON and change several resources together.

mod action;
mod firewall;
mod image;
mod load_balancer;
mod network;
mod server;

pub(crate) use action::{Action, Effect, Progress};
pub(crate) use firewall::{Firewall, FirewallTarget, Rule};
pub(crate) use image::{Image, stock_images};
pub(crate) use load_balancer::{
    Algorithm, HealthCheck, HttpCheck, HttpOptions, LoadBalancer, Service, Target, TargetSelector,
};
pub(crate) use network::{Network, Route, Subnet};
pub(crate) use server::{PlacementGroup, PrimaryIp, PrivateNet, Server, SshKey, Status, Volume};
