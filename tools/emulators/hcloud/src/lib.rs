//! An emulator of the Hetzner Cloud API, because the lab cannot rent real servers.
//!
//! ```text
//! request ──► token, rate, faults ──► routes ──► a new state ──► written by rename ──► answer
//!                                                   │
//!                                 actions run ◄─────┴─────► load balancers listen
//! ```
//!
//! The modules lie in layers, and each uses only modules of the layers below:
//!
//! ```text
//! http                                    the listener and the checks before a call
//! engine, balancer                        tasks: actions and load balancers
//! routes, cloud
//! servers, networks, firewalls, …         handlers of calls, one module for each family
//! command, state                          the state and commands on one resource
//! model, resource, catalogue, …           plain data
//! ```
//!
//! **Invariant:** a refused call changes nothing. A write works on a copy of the state, and the copy
//! replaces the state only after it has been written to disk.
//! **Invariant:** every answer is computed from the state. Beside the state exists only the health of
//! targets, which the checks observe again after a restart.
//! **Invariant:** only actions touch machines, so that a client which waited for the action has waited for
//! the machine.
//!
//! A test steers the emulator without a token: `GET /_lab/writes` counts the calls that changed something,
//! `POST /_lab/faults` takes a list of faults to inject, and `DELETE /_lab/faults` forgets them. A fault is
//! `{method, path, status, code, message?, details?, after_effect?, times?, command?}`: see `fault.rs`.
//! `GET /_lab/calls` counts the calls of clients, `GET /_lab/journal` has the last of them with their answers, and `PUT /_lab/sold_out` takes the server types that are
//! sold out, each with a location: `[["cx23", "hel1"]]`.
//!
//! Real are TCP through load balancers, health checks, limits, locks, the order of actions, and, with
//! [`StockMachines`], the user data of a server and what a snapshot of its disk contains.
//! Not real: firewalls filter nothing, HTTP services are forwarded as TCP, and no listener has a private
//! address (a balancer reaches a machine at its loopback address either way).

mod actions;
mod address;
mod balancer;
mod call;
mod catalogue;
mod cidr;
mod cloud;
mod command;
mod engine;
mod error;
mod factory;
mod fault;
mod firewalls;
mod health;
mod http;
mod images;
mod labels;
mod limit;
mod list;
mod load_balancers;
mod machines;
mod model;
mod networks;
mod placement_groups;
mod primary_ips;
mod resource;
mod routes;
mod selector;
mod server_actions;
mod servers;
mod services;
mod settings;
mod ssh_keys;
mod state;
mod targets;
mod tasks;
mod user_data;
mod volumes;

pub use cloud::Cloud;
pub use factory::{DownloadFault, Factory};
pub use machines::{Contents, Machines, NoMachines, Server};
pub use settings::{Pace, Settings};
pub use user_data::StockMachines;
