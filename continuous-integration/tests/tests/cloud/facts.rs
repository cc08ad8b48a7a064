//! Facts about the manifests that Hetzner publishes, and the reason for each difference of ours.
//!
//! The facts were read on 2026-11-30 from `deploy/ccm-networks.yaml` of hcloud-cloud-controller-manager v1.35.0
//! (commit cfbbbd9d) and from `deploy/kubernetes/hcloud-csi.yml` of csi-driver v2.22.1 (commit 3186e787), in the
//! repositories below <https://github.com/hetznercloud>. No Go module of them is available, and the versions that
//! we run are newer: `knowledge/vendors/images.md` says why.

/// Facts as lines: the subject, the kind of the fact, and its value.
///
/// The subject is a cluster role, a container of a workload, or a workload.
pub(crate) const PUBLISHED: &str = "
system:hcloud-cloud-controller-manager may /configmaps get list watch
system:hcloud-cloud-controller-manager may /events create patch update
system:hcloud-cloud-controller-manager may /nodes *
system:hcloud-cloud-controller-manager may /nodes/status patch
system:hcloud-cloud-controller-manager may /services list watch
system:hcloud-cloud-controller-manager may /services/status patch update
system:hcloud-cloud-controller-manager may /serviceaccounts create
system:hcloud-cloud-controller-manager may coordination.k8s.io/leases create get list update watch
hcloud-cloud-controller-manager pod hostNetwork=true
hcloud-cloud-controller-manager pod dnsPolicy=Default
hcloud-cloud-controller-manager pod priorityClassName=system-cluster-critical
hcloud-cloud-controller-manager pod serviceAccountName=hcloud-cloud-controller-manager
hcloud-cloud-controller-manager tolerates node.cloudprovider.kubernetes.io/uninitialized NoSchedule
hcloud-cloud-controller-manager tolerates node.kubernetes.io/not-ready NoExecute
hcloud-cloud-controller-manager tolerates node-role.kubernetes.io/control-plane NoSchedule
hcloud-cloud-controller-manager tolerates node-role.kubernetes.io/master NoSchedule
hcloud-cloud-controller-manager tolerates CriticalAddonsOnly NoSchedule
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager image docker.io/hetznercloud/hcloud-cloud-controller-manager:v1.35.0
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --allow-untagged-cloud
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --cloud-provider=hcloud
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --webhook-secure-port=0
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --leader-elect=false
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --route-reconciliation-period=30s
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --allocate-node-cidrs=true
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --cluster-cidr=10.244.0.0/16
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager arg --feature-gates=CloudControllerManagerWatchBasedRoutesReconciliation=true
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager env HCLOUD_TOKEN=hcloud/token
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager env HCLOUD_NETWORK=hcloud/network
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager env ROBOT_USER=hcloud/robot-user
hcloud-cloud-controller-manager/hcloud-cloud-controller-manager env ROBOT_PASSWORD=hcloud/robot-password
hcloud-csi-controller may /persistentvolumes create delete get list patch update watch
hcloud-csi-controller may /persistentvolumeclaims get list patch update watch
hcloud-csi-controller may /persistentvolumeclaims/status get list patch update watch
hcloud-csi-controller may /nodes get list watch
hcloud-csi-controller may /pods get list watch
hcloud-csi-controller may /events create get list patch update watch
hcloud-csi-controller may storage.k8s.io/csinodes get list watch
hcloud-csi-controller may storage.k8s.io/storageclasses get list watch
hcloud-csi-controller may storage.k8s.io/volumeattributesclasses get list watch
hcloud-csi-controller may storage.k8s.io/volumeattachments get list patch update watch
hcloud-csi-controller may storage.k8s.io/volumeattachments/status patch
hcloud-csi-controller may csi.storage.k8s.io/csinodeinfos get list watch
hcloud-csi-controller may snapshot.storage.k8s.io/volumesnapshots get list
hcloud-csi-controller may snapshot.storage.k8s.io/volumesnapshotcontents get list
hcloud-csi-controller pod serviceAccountName=hcloud-csi-controller
hcloud-csi-controller/hcloud-csi-driver image docker.io/hetznercloud/hcloud-csi-driver:v2.22.1
hcloud-csi-controller/hcloud-csi-driver arg -controller
hcloud-csi-controller/hcloud-csi-driver env CSI_ENDPOINT=unix:///run/csi/socket
hcloud-csi-controller/hcloud-csi-driver env ENABLE_METRICS=true
hcloud-csi-controller/hcloud-csi-driver env METRICS_ENDPOINT=0.0.0.0:9189
hcloud-csi-controller/hcloud-csi-driver env KUBE_NODE_NAME=spec.nodeName
hcloud-csi-controller/hcloud-csi-driver env HCLOUD_TOKEN=hcloud/token
hcloud-csi-controller/hcloud-csi-driver mount /run/csi emptyDir
hcloud-csi-controller/csi-attacher image registry.k8s.io/sig-storage/csi-attacher:v4.11.0
hcloud-csi-controller/csi-attacher arg --default-fstype=ext4
hcloud-csi-controller/csi-attacher mount /run/csi emptyDir
hcloud-csi-controller/csi-resizer image registry.k8s.io/sig-storage/csi-resizer:v2.1.0
hcloud-csi-controller/csi-resizer mount /run/csi emptyDir
hcloud-csi-controller/csi-provisioner image registry.k8s.io/sig-storage/csi-provisioner:v6.2.0
hcloud-csi-controller/csi-provisioner arg --feature-gates=Topology=true
hcloud-csi-controller/csi-provisioner arg --default-fstype=ext4
hcloud-csi-controller/csi-provisioner arg --extra-create-metadata
hcloud-csi-controller/csi-provisioner arg --strict-topology
hcloud-csi-controller/csi-provisioner mount /run/csi emptyDir
hcloud-csi-controller/liveness-probe image registry.k8s.io/sig-storage/livenessprobe:v2.18.0
hcloud-csi-controller/liveness-probe mount /run/csi emptyDir
hcloud-csi-node tolerates * NoSchedule
hcloud-csi-node tolerates * NoExecute
hcloud-csi-node/hcloud-csi-driver image docker.io/hetznercloud/hcloud-csi-driver:v2.22.1
hcloud-csi-node/hcloud-csi-driver arg -node
hcloud-csi-node/hcloud-csi-driver env CSI_ENDPOINT=unix:///run/csi/socket
hcloud-csi-node/hcloud-csi-driver env ENABLE_METRICS=true
hcloud-csi-node/hcloud-csi-driver env METRICS_ENDPOINT=0.0.0.0:9189
hcloud-csi-node/hcloud-csi-driver privileged true
hcloud-csi-node/hcloud-csi-driver mount /var/lib/kubelet /var/lib/kubelet Directory Bidirectional
hcloud-csi-node/hcloud-csi-driver mount /run/csi /var/lib/kubelet/plugins/csi.hetzner.cloud/ DirectoryOrCreate
hcloud-csi-node/hcloud-csi-driver mount /dev /dev Directory
hcloud-csi-node/csi-node-driver-registrar image registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.16.0
hcloud-csi-node/csi-node-driver-registrar arg --kubelet-registration-path=/var/lib/kubelet/plugins/csi.hetzner.cloud/socket
hcloud-csi-node/csi-node-driver-registrar mount /run/csi /var/lib/kubelet/plugins/csi.hetzner.cloud/ DirectoryOrCreate
hcloud-csi-node/csi-node-driver-registrar mount /registration /var/lib/kubelet/plugins_registry/ Directory
hcloud-csi-node/liveness-probe image registry.k8s.io/sig-storage/livenessprobe:v2.18.0
hcloud-csi-node/liveness-probe mount /run/csi /var/lib/kubelet/plugins/csi.hetzner.cloud/ DirectoryOrCreate
";

const NEWER: &str = "our version is newer, because its digest is known from other repositories";
const NO_ROUTES: &str = "flannel connects the pods, so the cloud gets no routes";
const NO_ROBOT: &str = "the machines are servers of the cloud, not of Robot";
const NO_METRICS: &str = "no program of this project collects metrics, and an open port on every node would be reachable";
const NO_SNAPSHOTS: &str = "Hetzner has no snapshots of volumes, and the cluster has no such kinds";

/// Published facts that our manifests lack: a part of the line, and the reason.
pub(crate) const DIFFERENCES: [(&str, &str); 16] = [
    ("hcloud-cloud-controller-manager:v1.35.0", NEWER),
    ("hcloud-csi-driver:v2.22.1", NEWER),
    ("--route-reconciliation-period=30s", NO_ROUTES),
    ("--allocate-node-cidrs=true", NO_ROUTES),
    ("--cluster-cidr=10.244.0.0/16", NO_ROUTES),
    ("CloudControllerManagerWatchBasedRoutesReconciliation", NO_ROUTES),
    ("--leader-elect=false", "a pod on a lost node may still run when its replacement starts"),
    ("HCLOUD_NETWORK=hcloud/network", "the name of the network is no secret"),
    ("ROBOT_USER", NO_ROBOT),
    ("ROBOT_PASSWORD", NO_ROBOT),
    ("node-role.kubernetes.io/master", "Kubernetes v1.25 removed this taint"),
    ("ENABLE_METRICS=true", NO_METRICS),
    ("METRICS_ENDPOINT", NO_METRICS),
    ("csinodeinfos", "Kubernetes v1.16 removed this kind"),
    ("volumesnapshots ", NO_SNAPSHOTS),
    ("volumesnapshotcontents ", NO_SNAPSHOTS),
];
