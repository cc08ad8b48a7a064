# Runs containerd and the kubelet of a node, in a mount and a process namespace of their own, so that no process
# outlives this script and the host's own folders are hidden. $1: the machine's directory.
machine=$1
umount /sys/fs/cgroup/unified 2>/dev/null || true
set -eu
bind_mount() { mkdir -p "$machine/$1" "$2"; mount --bind "$machine/$1" "$2"; }
bind_mount var/lib/kubelet /var/lib/kubelet
bind_mount var/lib/containerd /var/lib/containerd
bind_mount var/lib/cni /var/lib/cni
bind_mount var/log/pods /var/log/pods
bind_mount var/log/containers /var/log/containers
bind_mount var/mnt /var/mnt
mkdir -p /run/containerd
mount -t tmpfs -o mode=0711 tmpfs /run/containerd
set +e

end() {
	trap '' TERM
	rm -f "$machine/node/kubelet.run"
	# The kubelet ends first, because it would restart pods. Containers end next, while containerd still
	# reads their output and records their end. Then every process in this namespace ends.
	[ -z "${kubelet:-}" ] || kill -TERM "$kubelet" 2>/dev/null
	sleep 0.2
	# shellcheck disable=SC2046
	kill -TERM $(containers) 2>/dev/null
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		[ -n "$(containers)" ] || break
		sleep 0.1
	done
	kill -TERM -1 2>/dev/null
	sleep 0.2
	exit 0
}

# Prints the first process of every container: process 1 of a namespace inside this namespace.
containers() {
	awk '$1 == "NSpid:" && $3 == 1 { print $2 }' /proc/[0-9]*/status 2>/dev/null
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
		# The lab writes one argument per line.
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
