#!/usr/bin/env bash
# Runs a private containerd, for a kubelet or a test that speaks CRI.
#
# Use: scripts/lab/containerd.sh tools [1.6|2.1]   print a folder with containerd, its shim, ctr and runc
#      scripts/lab/containerd.sh run [1.6|2.1] COMMAND...
#
#   1.6   (default) from Debian bookworm: CRI v1 and v1alpha2, CNI up to 1.0.0
#   2.1   from Debian sid: CRI v1, CNI up to 1.1.0, with STATUS
#
# `run` starts it in the caller's network and mount namespaces, which must not be the machine's, and in which
# `scripts/lab/kubernetes.sh machine` has made folders to write to. It starts containerd again whenever it
# ends, runs COMMAND with CONTAINER_RUNTIME_ENDPOINT and PATH set to use it and CONTAINERD_HOME set to the
# folder with its log, and leaves nothing behind. Its sandboxes run the image pausenet/pause; the network is
# what /etc/cni/net.d and /opt/cni/bin say. To load an image: ctr -n k8s.io images import FILE.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=place.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/place.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

# --- the programs ---------------------------------------------------------------------------------

tools() {
    local target
    case $1 in
    1.6) "$here/docker.sh" tools ;; # it comes with Docker
    2.1)
        target=$(lab_dir)/containerd-2.1
        lab_once "$target" make_tools "$("$here/docker.sh" tools)"
        printf '%s\n' "$target"
        ;;
    esac
}

# make_tools OUT WORK BOOKWORM: sid's containerd runs on bookworm; its runc does not.
make_tools() {
    local out=$1 work=$2 bookworm=$3 program
    sid_unpack "$work" containerd
    cp -- "$work"/usr/bin/{containerd,containerd-shim-runc-v2,ctr} "$bookworm/runc" "$out"
    for program in containerd ctr; do
        "$out/$program" --version >&2 || die "$program does not run on this machine"
    done
}

# --- the daemon -----------------------------------------------------------------------------------

run() {
    local version=$1
    shift
    PATH=$(tools "$version"):$PATH
    place_open containerd
    export PATH CONTAINERD_HOME=$home CONTAINER_RUNTIME_ENDPOINT=unix://$home/containerd.sock CONTAINERD_ADDRESS=$home/containerd.sock
    "config_$version" >"$home/config.toml"
    place_keep containerd containerd --config "$home/config.toml"
    place_await containerd is_ready
    place_live "$@"
}

# containerd answers before its CRI plugin does.
is_ready() {
    ctr plugins list | awk '/[ .]cri |grpc.v1 +cri/ && $NF == "ok" { ok = 1 } END { exit !ok }'
}

config_1.6() {
    cat <<END
version = 2
root = "/var/lib/containerd"
state = "$home/state"
[grpc]
address = "$home/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "pausenet/pause:latest"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "$here/runc.sh"
Root = "$home/runc"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
END
}

config_2.1() {
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
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "$here/runc.sh"
Root = "$home/runc"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
bin_dir = ""
conf_dir = "/etc/cni/net.d"
END
}

help_if_asked "$@"
verb=${1-}
version=1.6
case $verb in
tools | run) shift ;;
*) usage ;;
esac
case ${1-} in
1.6 | 2.1) version=$1 && shift ;;
esac
if [[ $verb == tools ]]; then
    (($# == 0)) || usage
else
    [[ $# -gt 0 && $1 != -* ]] || usage
fi
"$verb" "$version" "$@"
