#!/usr/bin/env bash
# A whole Kubernetes cluster with pausenet as its network, in namespaces of its own, in the background.
#
# Use: scripts/lab/kubernetes.sh up [--nodes N] [--dual-stack] [--kube-proxy MODE] [--bare] [--load FILE]...
#      scripts/lab/kubernetes.sh kubectl ARGUMENT...
#      scripts/lab/kubernetes.sh node NAME COMMAND...
#      scripts/lab/kubernetes.sh down
#
# `up` returns when all is ready, or says what is not and leaves nothing: Kubernetes 1.37 with containerd 2.4,
# two nodes (or 1 to 10), kube-proxy in mode nftables (or iptables, or none), pausenet by conf/kubernetes, and
# CoreDNS; with --bare neither of these two. FILE is a docker-archive to load into each node besides pausenet's
# images, netutils, nginx and busybox. `node` runs a command on node1 to node10, or, as `lab`, in the network
# between them, where the control plane is. There is one cluster at a time for each cache (see lib.sh); its logs
# are in the folder `cluster` there until the next `up`.
#
# pausenet's programs are built from this checkout for release, or those in the folder PAUSENET_PROGRAMS.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=place.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/place.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
READY=180 GONE=60 # seconds

# --- from outside ---------------------------------------------------------------------------------

up() {
    local nodes=2 control=() kubelet=() proxy=nftables bare=false load=() state
    while (($#)); do
        case $1 in
        --nodes) nodes=${2?} && shift ;;
        --dual-stack) control+=("$1") && kubelet+=("$1") ;;
        --kube-proxy) proxy=${2?} && shift ;;
        --bare) bare=true ;;
        --load) load+=("$(realpath -- "${2?}")") && shift ;;
        *) usage ;;
        esac
        shift
    done
    [[ $nodes =~ ^([1-9]|10)$ && $proxy =~ ^(nftables|iptables|none)$ ]] || usage
    ((EUID == 0)) || die "this needs root"
    [[ $proxy == none ]] || kubelet+=(--kube-proxy "$proxy")
    state=$(lab_dir)/cluster
    # Held by this script, and then by the cluster's processes for as long as one of them lives.
    lab_hold "$state.lock" || die "a cluster is up already, or another \`up\` makes one; end it with: scripts/lab/kubernetes.sh down"
    rm -rf -- "$state"
    mkdir -- "$state"
    get_images "$state"
    export CLUSTER=$state CLUSTER_NODES=$nodes CLUSTER_BARE=$bare CLUSTER_PROXY=$proxy
    printf '%s\n' "${kubelet[@]}" >"$state/kubelet"
    printf '%s\n' "${load[@]}" >"$state/load"
    # The first process of the namespace of processes: when it ends, the kernel ends all others.
    setsid unshare --net --mount --pid --fork --kill-child --mount-proc \
        "$here/kubernetes.sh" control-plane "${control[@]}" "$here/cluster.sh" inside >"$state/log" 2>&1 </dev/null &
    printf '%s\n' $! >"$state/pid"
    trap 'end "$state"; exit 130' INT
    trap 'end "$state"; exit 143' TERM HUP
    await_ready "$state" && return
    tail -n 30 -- "$state/log" >&2
    end "$state"
    die "the cluster did not come up; the log is $state/log"
}

# get_images STATE: pausenet's images, and links to those of the lab. Also sees that all programs are there, since
# nothing can be fetched in namespaces.
get_images() {
    local state=$1 binaries=()
    [[ -z ${PAUSENET_PROGRAMS-} ]] || binaries=(--binaries "$PAUSENET_PROGRAMS")
    "$here/kubernetes.sh" tools >/dev/null
    "$here/containerd.sh" tools >/dev/null
    "$here/programs.sh" get runc >/dev/null
    "$here/../image.sh" "${binaries[@]}" --node --output "$state/node.tar"
    if ((${#binaries[@]})); then
        "$here/../image.sh" --binary "$PAUSENET_PROGRAMS/pause" --output "$state/pause.tar"
    else
        "$here/../image.sh" --output "$state/pause.tar"
    fi
    ln -s -- "$("$here/docker.sh" images)" "$state/applications.tar"
    ln -s -- "$("$here/images.sh" coredns)" "$state/coredns.tar"
} >&2

is_up() { [[ -s $1/pid ]] && lab_held "$1.lock"; }

# await_ready STATE: shows each step once it is done.
await_ready() {
    local deadline=$((SECONDS + READY)) shown=0 line
    while is_up "$1" && ((SECONDS < deadline)); do
        while read -r line; do
            say "$line"
            shown=$((shown + 1))
            [[ $line != ready ]] || return 0
        done < <(tail -n "+$((shown + 1))" -- "$1/steps" 2>/dev/null)
        sleep 0.1
    done
    return 1
}

down() {
    local state
    state=$(lab_dir)/cluster
    if ! is_up "$state"; then
        [[ ! -e $state.lock ]] || ! lab_held "$state.lock" || die "a cluster is being made: interrupt the \`up\` that makes it"
        die "no cluster is up"
    fi
    end "$state"
}

# end STATE: as a signal to the first process does; if that takes too long, the kernel's way.
end() {
    local pid first deadline=$((SECONDS + GONE))
    pid=$(<"$1/pid")
    first=$(first_process "$1")
    [[ -z $first ]] || kill -TERM "$first" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do
        if ((SECONDS >= deadline)); then
            say "it does not end: killed"
            kill -KILL "$pid"
            sleep 1
            break
        fi
        sleep 0.05
    done
    place_sweep
    rm -f -- "$1/pid"
}

first_process() { tr -d ' ' <"/proc/$(<"$1/pid")/task/$(<"$1/pid")/children" 2>/dev/null || true; }

# enter COMMAND...: where the control plane is.
enter() {
    local state first
    state=$(lab_dir)/cluster
    is_up "$state" || die "no cluster is up; start one with: scripts/lab/kubernetes.sh up"
    first=$(first_process "$state")
    exec nsenter --target "$first" --net --mount --pid --wd -- "$@"
}

# shellcheck disable=SC2016 # expanded in there
in_lab() { enter bash -c 'source "$1/lab.env" && exec "${@:2}"' lab "$(lab_dir)/cluster" "$@"; }

in_node() {
    local name=$1 state
    state=$(lab_dir)/cluster
    [[ -s $state/$name.pid ]] || die "no node $name; there are: $(cd -- "$state" && printf '%s ' node*.pid | sed 's/\.pid//g')"
    shift
    # shellcheck disable=SC2016 # expanded in there
    enter nsenter --target "$(<"$state/$name.pid")" --net --mount -- \
        bash -c 'source "$1" && exec "${@:2}"' node "$state/$name.env" "$@"
}

# --- inside ---------------------------------------------------------------------------------------

step() { printf '%s\n' "$*" >>"$CLUSTER/steps"; }

# inside: the command of the control plane.
inside() {
    local number kubelet children=() name
    step "control plane up"
    mapfile -t kubelet <"$CLUSTER/kubelet"
    trap 'kill -TERM "${children[@]}" 2>/dev/null; wait; exit 143' TERM HUP INT
    export -p >"$CLUSTER/lab.env"
    for ((number = 1; number <= CLUSTER_NODES; number++)); do
        "$here/kubernetes.sh" machine --name "node$number" --address "192.168.77.$number" \
            "$here/containerd.sh" run "$here/cluster.sh" load \
            "$here/kubernetes.sh" kubelet ${kubelet[0]:+"${kubelet[@]}"} "$here/cluster.sh" hold \
            >"$CLUSTER/node$number.log" 2>&1 &
        children+=($!)
    done
    for ((number = 1; number <= CLUSTER_NODES; number++)); do
        name=node$number
        await "$name to come up" test -s "$CLUSTER/$name.pid"
        route_pods "$name"
        step "$name up"
    done
    if [[ $CLUSTER_BARE == false ]]; then
        kubectl apply -k "$here/../../conf/kubernetes"
        kubectl apply -f "$here/coredns.yaml"
        # Without kube-proxy the API server's Service leads nowhere.
        [[ $CLUSTER_PROXY != none ]] ||
            kubectl --namespace kube-system set env daemonset/pausenet deployment/coredns \
                KUBERNETES_SERVICE_HOST=192.168.77.254 KUBERNETES_SERVICE_PORT=6443
        kubectl wait --for=condition=Ready nodes --all --timeout=90s
        step "nodes ready"
        kubectl --namespace kube-system rollout status deployment/coredns --timeout=90s
    fi
    step ready
    wait
}

# route_pods NODE: the API server speaks to pods itself (kubectl get --raw …/proxy); its machine is no node here.
route_pods() {
    local range address
    await "the podCIDR of $1" has_range "$1"
    for range in $(kubectl get node "$1" -o 'jsonpath={.spec.podCIDRs[*]}'); do
        address=192.168.77.${1#node}
        [[ $range != *:* ]] || address=fd00:77::${1#node}
        ip route replace "$range" via "$address"
    done
}

has_range() { kubectl get node "$1" -o 'jsonpath={.spec.podCIDR}' | grep .; }

# load COMMAND...: in a machine with containerd, before its kubelet looks for images.
load() {
    local files file
    mapfile -t files <"$CLUSTER/load"
    for file in "$CLUSTER"/*.tar "${files[@]}"; do
        [[ -z $file ]] || ctr -n k8s.io images import "$file"
    done
    exec "$@"
}

# hold: the command of a node.
hold() {
    export -p >"$CLUSTER/$MACHINE.env"
    printf '%s\n' $$ >"$CLUSTER/$MACHINE.pid"
    exec sleep infinity
}

verb=${1-}
shift || usage
[[ $verb == node || $verb == kubectl ]] || help_if_asked "$@"
case $verb in
up | inside | load | hold) "$verb" "$@" ;;
down) (($# == 0)) || usage && down ;;
kubectl) in_lab kubectl "$@" ;;
node)
    (($# >= 2)) || usage
    if [[ $1 == lab ]]; then in_lab "${@:2}"; else in_node "$@"; fi
    ;;
*) usage ;;
esac
