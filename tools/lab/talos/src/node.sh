# The node: containerd and the kubelet, in a mount and a process namespace of their own, so that
# nothing of it outlives this script and nothing of the host's is in its way. $1: the machine's directory.
machine=$1
umount /sys/fs/cgroup/unified 2>/dev/null || true
set -eu
own() { mkdir -p "$machine/$1" "$2"; mount --bind "$machine/$1" "$2"; }
own var/lib/kubelet /var/lib/kubelet
own var/lib/containerd /var/lib/containerd
own var/lib/cni /var/lib/cni
own var/log/pods /var/log/pods
own var/log/containers /var/log/containers
own var/mnt /var/mnt
mkdir -p /run/containerd
mount -t tmpfs -o mode=0711 tmpfs /run/containerd
set +e

end() {
	trap '' TERM
	rm -f "$machine/node/kubelet.run"
	# First the one who would start pods again, then everything in this namespace.
	[ -z "${kubelet:-}" ] || kill -TERM "$kubelet" 2>/dev/null
	sleep 0.2
	kill -TERM -1 2>/dev/null
	sleep 1
	exit 0
}
trap end TERM

(while :; do
	containerd -c "$machine/node/containerd.toml" >>"$machine/logs/containerd.log" 2>&1
	sleep 1
done) &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
: >"$machine/node/containerd.up"

while :; do
	if [ -e "$machine/node/kubelet.run" ]; then
		# One argument a line, as the lab wrote them.
		set --
		while IFS= read -r argument; do set -- "$@" "$argument"; done <"$machine/node/kubelet.run"
		"$@" >>"$machine/logs/kubelet.log" 2>&1 &
		kubelet=$!
		wait "$kubelet"
		sleep 0.5
	else
		sleep 0.2
	fi
done
