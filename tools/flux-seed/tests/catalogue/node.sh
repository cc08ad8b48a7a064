# Runs containerd and a kubelet in a mount and a process namespace of their own, so that they end together and
# leave no mount behind. $1: the node's directory. $2: the kubelet.
set -eu
# crun rejects a host with both versions of cgroups.
umount /sys/fs/cgroup/unified 2>/dev/null || true
for directory in lib/kubelet lib/containerd lib/cni log/pods log/containers; do
	mkdir -p "$1/$directory" "/var/$directory"
	mount --bind "$1/$directory" "/var/$directory"
done
mkdir -p /run/containerd
mount -t tmpfs -o mode=0711 tmpfs /run/containerd
containerd -c "$1/containerd.toml" >"$1/containerd.log" 2>&1 &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
exec "$2" --config="$1/kubelet.json" --kubeconfig="$1/kubeconfig" --hostname-override=node --node-ip=10.78.0.1 \
	--cert-dir="$1/pki" >"$1/kubelet.log" 2>&1
