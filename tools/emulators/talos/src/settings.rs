//! Settings of the machines of a lab.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Directories, programs and addresses that all machines of a lab use.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// Folder of the disks: one directory for each machine.
    pub directory: PathBuf,
    /// Folder with etcd (also called `server`), kube-apiserver, kube-controller-manager, kube-scheduler,
    /// kubelet and kubectl.
    pub binaries: PathBuf,
    /// Registries that speak plain HTTP, for example `127.77.0.1:5000`.
    pub plain_registries: Vec<String>,
    /// Image of a pod's sandbox.
    pub pause_image: String,
    /// Folder with the CNI plugins that give pods their addresses.
    pub cni: PathBuf,
    /// Address of `KubePrism`, for example `127.0.0.1:7445`.
    pub kubeprism: SocketAddr,
    /// Components of a node that run.
    pub node: Node,
}

/// Components of a node that run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// containerd and the kubelet, which need root.
    Real,
    /// Neither containerd nor the kubelet, and the reason. The cluster has an API server, but no node.
    ControlPlaneOnly(String),
}
