#!/usr/bin/env bash
# Runs a private containerd 2.4, for a kubelet or a test that speaks CRI: CRI v1, CNI up to 1.1.0, with STATUS.
#
# Use: scripts/lab/containerd.sh tools     print a folder with containerd, its shim and ctr
#      scripts/lab/containerd.sh run COMMAND...
#
# `run` starts it in the caller's network and mount namespaces, which must not be the machine's, and in which
# `scripts/lab/kubernetes.sh machine` has made folders to write to. It starts containerd again whenever it
# ends, runs COMMAND with CONTAINER_RUNTIME_ENDPOINT and PATH set to use it and CONTAINERD_HOME set to the
# folder with its log, and leaves nothing behind. Its sandboxes run the image pausenet/pause; the network is
# what /etc/cni/net.d and /opt/cni/bin say. To load an image: ctr -n k8s.io images import FILE.
#
# The programs, and runc, are built once by programs.sh, as is written there.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=place.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/place.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

tools() { "$here/programs.sh" get containerd; }

run() {
    local containerd runc
    containerd=$(tools)
    runc=$("$here/programs.sh" get runc)
    place_open containerd
    export PATH=$containerd:$runc:$PATH
    export CONTAINERD_HOME=$home CONTAINER_RUNTIME_ENDPOINT=unix://$home/containerd.sock CONTAINERD_ADDRESS=$home/containerd.sock
    config >"$home/config.toml"
    place_keep containerd containerd --config "$home/config.toml"
    place_await containerd is_ready
    place_live "$@"
}

# containerd answers before its CRI plugin does.
is_ready() {
    ctr plugins list | awk '/grpc.v1 +cri/ && $NF == "ok" { ok = 1 } END { exit !ok }'
}

config() {
    cat <<END
version = 3
root = "/var/lib/containerd"
state = "$home/state"
[grpc]
address = "$home/containerd.sock"
[ttrpc]
address = "$home/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "pausenet/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "$here/runc.sh"
Root = "$home/runc"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
END
}

help_if_asked "$@"
verb=${1-}
shift || usage
case $verb in
tools) (($# == 0)) || usage ;;
run) [[ $# -gt 0 && $1 != -* ]] || usage ;;
*) usage ;;
esac
"$verb" "$@"
