#!/usr/bin/env bash
# A real kind cluster with pausenet as its network: kind 0.33, Docker 28, Kubernetes 1.37, two nodes.
#
# Use: scripts/lab/kind.sh test [--dual-stack]             the project's own scripts on it, and its bad days
#      scripts/lab/kind.sh run [--dual-stack] COMMAND...   run COMMAND while it stands
#      scripts/lab/kind.sh image                           print the path of its node image, for `docker load`
#
# `run` and `test` make the cluster `pausenet` with scripts/kind-up.sh, in namespaces of its own and with a Docker
# of its own (see docker.sh), and leave nothing behind, also when they are interrupted. COMMAND gets docker, kind
# and kubectl with a context, and OUTSIDE, the URLs of a page that is outside of the cluster; the nodes have the
# images hwchiu/netutils, nginx and busybox. To look around: sudo scripts/lab/kind.sh run bash
#
# `test` runs kind-scenes.sh there: scripts/kind-test.sh, then again after a node was restarted and after both came
# back with swapped addresses, and the documented uninstall with pods running. At the end it prints how long each took.
#
# The node image stands in for kind's own, which comes from a registry: kind-image.sh tells the differences. The
# outside is an address of the network that Docker is in, since there is no internet.
#
# pausenet's programs are built from this checkout for release, or those in the folder PAUSENET_PROGRAMS. Needs root,
# and 3 GB of memory. The first time it builds the programs (see programs.sh), and the image in two minutes.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
repo=${here%/scripts/lab}

UP=600 GONE=60 # seconds
ADDRESS=203.0.113.1 ADDRESS6=2001:db8::1 # outside of the cluster

# --- on the machine -------------------------------------------------------------------------------

run() {
    local dual=()
    [[ ${1-} != --dual-stack ]] || { dual=(--dual-stack) && shift; }
    [[ $# -gt 0 && $1 != -* ]] || usage
    ((EUID == 0)) || die "this needs root"
    prepare
    trap 'stop 130' INT
    trap 'stop 143' TERM HUP
    # The first process of the namespace of processes: when it ends, the kernel ends all others.
    # It is killed with this script.
    setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc "$here/kind.sh" namespaces "${dual[@]}" "$@" <&0 &
    outer=$!
    wait "$outer"
}

# prepare: what has to be fetched or built, which is impossible in namespaces.
prepare() {
    local kind kubernetes binaries=()
    need_packages busybox-static iptables jq
    kind=$("$here/programs.sh" get kind)
    kubernetes=$("$here/programs.sh" get kubernetes)
    "$here/docker.sh" tools >/dev/null
    NODE_IMAGE=$("$here/kind-image.sh")
    APPLICATIONS=$("$here/docker.sh" images)
    [[ -z ${PAUSENET_PROGRAMS-} ]] || binaries=(--binaries "$PAUSENET_PROGRAMS")
    # So that kind-up.sh finds it built.
    "$repo/scripts/image.sh" "${binaries[@]}" --node --output - >/dev/null
    export PATH=$kind:$kubernetes:$PATH NODE_IMAGE APPLICATIONS
}

# stop STATUS: end as a signal to the first process does; if that takes too long, the kernel's way.
stop() {
    local deadline=$((SECONDS + GONE)) first
    trap '' INT TERM HUP
    while kill -0 "$outer" 2>/dev/null; do
        first=$({ tr -d " " <"/proc/$outer/task/$outer/children"; } 2>/dev/null) || first=
        [[ -z $first ]] || kill -TERM "$first" 2>/dev/null || true # in vain before it has a handler
        if ((SECONDS >= deadline)); then
            say "it does not end: killed"
            kill -KILL "$outer"
        fi
        sleep 0.05
    done
    exit "$1"
}

# --- in namespaces --------------------------------------------------------------------------------

# namespaces ARG...: what Docker and kind take from the machine is made theirs.
namespaces() {
    mount -t tmpfs tmpfs /mnt
    mkdir -p /mnt/lib/upper/modules /mnt/lib/work /mnt/www
    # kind's nodes mount /lib/modules; Docker would make it on the machine.
    [[ -e /lib/modules ]] || mount -t overlay -o lowerdir=/usr/lib,upperdir=/mnt/lib/upper,workdir=/mnt/lib/work overlay /usr/lib
    ip link set lo up
    ip addr add "$ADDRESS/32" dev lo
    ip addr add "$ADDRESS6/128" dev lo nodad
    # Docker asks the machine's nameserver for names that it does not know; this one says no at once.
    printf 'nameserver %s\n' "$ADDRESS" >/mnt/resolv.conf
    mount --bind /mnt/resolv.conf /etc/resolv.conf
    printf 'the outside\n' >/mnt/www/index.html
    busybox httpd -p "$ADDRESS:80" -h /mnt/www
    busybox httpd -p "[$ADDRESS6]:80" -h /mnt/www
    exec "$here/docker.sh" run "$here/kind.sh" cluster "$@"
}

# cluster [--dual-stack] COMMAND...
cluster() {
    local up=(--node-image kindest/node:lab) status=0 started
    export KUBECONFIG=/mnt/kubeconfig OUTSIDE="http://$ADDRESS"
    if [[ $1 == --dual-stack ]]; then
        up+=("$1") && shift
        OUTSIDE+=" http://[$ADDRESS6]"
    fi
    [[ -z ${PAUSENET_PROGRAMS-} ]] || up+=(--binaries "$PAUSENET_PROGRAMS")
    load_node_image
    started=$SECONDS
    timeout "$UP" "$repo/scripts/kind-up.sh" "${up[@]}" || status=$?
    export KIND_UP_SECONDS=$((SECONDS - started))
    if ((status != 0)); then
        ((status != 124)) || say "kind-up.sh took longer than $UP s"
        "$here/kind-scenes.sh" state
        die "no cluster: kind-up.sh ended with status $status"
    fi
    kind load image-archive "$APPLICATIONS" --name pausenet
    # docker.sh removes all of it.
    exec "$@"
}

# load_node_image: with pausenet's pause, as kindest/node:lab.
load_node_image() {
    local node binaries=()
    [[ -z ${PAUSENET_PROGRAMS-} ]] || binaries=(--binary "$PAUSENET_PROGRAMS/pause")
    "$repo/scripts/image.sh" "${binaries[@]}" --output /mnt/pause.tar
    docker load --quiet --input "$NODE_IMAGE"
    node=$(docker create lab/kind-node)
    docker cp --quiet /mnt/pause.tar "$node:/kind/pause.tar"
    docker commit "$node" kindest/node:lab
    docker rm "$node"
} >/dev/null

help_if_asked "$@"
verb=${1-}
shift || usage
case $verb in
test)
    [[ $# == 0 || $* == --dual-stack ]] || usage
    run "$@" "$here/kind-scenes.sh" all
    ;;
run | namespaces | cluster) "$verb" "$@" ;;
image) (($# == 0)) || usage && "$here/kind-image.sh" ;;
*) usage ;;
esac
