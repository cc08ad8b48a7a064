//! How a machine goes down: what depends on something ends before it.

use std::time::Duration;

use tokio::time::sleep;

use crate::change::Touched;
use crate::config::Configuration;
use crate::machine::Machine;
use crate::trouble::{Attempt, Trouble};
use crate::{etcd, network, node};

/// Pods get a second; their namespace then ends with everything in it.
const NODE_GRACE: Duration = Duration::from_secs(8);
const CONTROLLER_GRACE: Duration = Duration::from_secs(3);
const API_GRACE: Duration = Duration::from_secs(10);
const ETCD_GRACE: Duration = Duration::from_secs(8);

/// How long members of etcd may be unsure of one another.
const UNSURE: Duration = Duration::from_millis(500);
const UNSURE_TRIES: u8 = 60;

impl Machine {
    /// Ends everything, in order.
    pub(crate) async fn end_all(&self) {
        self.end_node().await;
        self.end_control_plane().await;
    }

    /// Ends pods, the kubelet and containerd.
    pub(crate) async fn end_node(&self) {
        self.processes.stop(node::PROCESS, NODE_GRACE).await;
        self.place.remove("node/kubelet.run");
        node::remove_cgroups(&self.place, self.address);
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
        self.live().serves_kubernetes = false;
        self.processes.stop("kube-apiserver", API_GRACE).await;
    }

    pub(crate) async fn end_etcd(&self) {
        self.live().etcd = None;
        self.processes.stop("etcd", ETCD_GRACE).await;
    }

    /// Ends what a changed configuration touches, so that it comes up with the new one.
    pub(crate) async fn restart(&self, touched: Touched) {
        if touched.kubelet {
            // The kubelet alone starts again: its containers stay.
            self.place.remove("node/kubelet.run");
        }
        if touched.control_plane {
            self.end_controllers().await;
            self.end_api_server().await;
        }
        if touched.etcd {
            self.end_etcd().await;
        }
    }

    /// Leaves the etcd cluster; the last member cannot.
    pub(crate) async fn leave_etcd(&self, config: &Configuration) -> Result<(), Trouble> {
        let client = etcd::client(config, self.address)?;
        let members = client.members(false).await.map_err(|it| it.message().to_owned());
        let members = members.attempt("cannot list the members of etcd")?;
        if members.len() < 2 {
            return Err(Trouble::new("cannot leave etcd: this is its last member"));
        }
        let id = client.status().await.map_err(|it| it.message().to_owned());
        let id = id.attempt("cannot leave etcd")?.member_id;
        // Asked of another member, since this one ends in the middle of its answer.
        let peer = self.fleet.etcd_peer(self, config).unwrap_or(client);
        // Members that have only just met are not sure of each other yet, and etcd then refuses.
        for _ in 0..UNSURE_TRIES {
            match peer.remove(id).await {
                Err(status) if status.message().contains("unhealthy cluster") => {
                    sleep(UNSURE).await;
                }
                other => {
                    return other
                        .map_err(|it| it.message().to_owned())
                        .attempt("cannot leave etcd");
                }
            }
        }
        Err(Trouble::new("cannot leave etcd: its members do not reach one another"))
    }
}
