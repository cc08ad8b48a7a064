//! Declared and observed state, as values that can be compared.

mod etcd;
mod history;
mod image;
mod state;

pub(crate) use etcd::Start;
pub use etcd::{Etcd, Member};
pub use history::History;
pub use image::{BuilderOffer, DesiredImage, ImageBuilder, ImageIdentity, Images, Need, OwnImage};
pub use state::{
    ActualState, Balancer, BalancerService, DesiredState, Family, Kind, Machine, Node,
    ObservedResource, Power, ResourceSpec, Rule, Server, SharedResource, Target, TargetSelector,
};
