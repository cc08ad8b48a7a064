//! The shutdown of a machine: a component ends before the components that it depends on.

use std::time::Duration;

use tokio::time::sleep;

use crate::change::Touched;
use crate::config::Configuration;
use crate::error::{Attempt, Error};
use crate::machine::Machine;
use crate::{etcd, network, node};

/// Time for the node. Pods get one second before their namespace ends with every process in it.
const NODE_GRACE: Duration = Duration::from_secs(8);
const CONTROLLER_GRACE: Duration = Duration::from_secs(3);
const API_GRACE: Duration = Duration::from_secs(10);
const ETCD_GRACE: Duration = Duration::from_secs(8);

/// Pause before another attempt while etcd reports an unhealthy cluster.
const UNHEALTHY_PAUSE: Duration = Duration::from_millis(500);
const UNHEALTHY_TRIES: u8 = 60;

impl Machine {
    /// Ends every component of the machine.
    pub(crate) async fn end_all(&self) {
        self.end_node().await;
        self.end_control_plane().await;
    }

    /// Ends pods, the kubelet and containerd.
    pub(crate) async fn end_node(&self) {
        self.processes.stop(node::PROCESS, NODE_GRACE).await;
        self.directory.remove("node/kubelet.run");
        node::remove_cgroups(&self.directory, self.address);
        network::remove(&network::bridge(self.address)).await;
    }

    pub(crate) async fn end_control_plane(&self) {
        self.end_controllers().await;
        self.end_api_server().await;
        self.end_etcd().await;
    }

    pub(crate) async fn end_controllers(&self) {
        tokio::join!(
            self.processes.stop("kube-scheduler", CONTROLLER_GRACE),
            self.processes.stop("kube-controller-manager", CONTROLLER_GRACE),
        );
    }

    pub(crate) async fn end_api_server(&self) {
        self.run_state().serves_kubernetes = false;
        self.processes.stop("kube-apiserver", API_GRACE).await;
    }

    pub(crate) async fn end_etcd(&self) {
        self.run_state().etcd = None;
        self.processes.stop("etcd", ETCD_GRACE).await;
    }

    /// Ends the components that a changed configuration touches, so that they restart with it.
    pub(crate) async fn restart(&self, touched: Touched) {
        if touched.kubelet {
            // Only the kubelet restarts: its containers stay.
            self.directory.remove("node/kubelet.run");
        }
        if touched.control_plane {
            self.end_controllers().await;
            self.end_api_server().await;
        }
        if touched.etcd {
            self.end_etcd().await;
        }
    }

    /// Leaves the etcd cluster. etcd itself keeps its last member.
    pub(crate) async fn leave_etcd(&self, config: &Configuration) -> Result<(), Error> {
        let client = etcd::client(config, self.address)?;
        let id = client.status().await.map_err(|status| status.message().to_owned());
        let id = id.attempt("failed to get local etcd member ID")?.member_id;
        // Another member removes this one, because this member would end during its answer.
        let peer = self.shared.etcd_peer(self.id, config).unwrap_or(client);
        // etcd refuses to remove a member while members have just joined: "unhealthy cluster".
        for _ in 0..UNHEALTHY_TRIES {
            match peer.remove(id).await {
                Err(status) if status.message().contains("unhealthy cluster") => {
                    sleep(UNHEALTHY_PAUSE).await;
                }
                other => {
                    return other
                        .map_err(|status| status.message().to_owned())
                        .attempt(format!("failed to remove member {id}"));
                }
            }
        }
        Err(Error::new(format!("failed to remove member {id}: etcdserver: unhealthy cluster")))
    }
}
