//! Machines at Hetzner, Talos on them, and a Kubernetes control plane that answers.

pub mod wire;
