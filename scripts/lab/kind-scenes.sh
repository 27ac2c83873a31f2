#!/usr/bin/env bash
# What happens to a kind cluster with pausenet, in the cluster of `kind.sh run`.
#
# Use: scripts/lab/kind.sh run scripts/lab/kind-scenes.sh SCENE...
#
#   test        scripts/kind-test.sh
#   restart     `docker restart` of the worker, and the test again
#   swap        both nodes stop and come back with each other's addresses, and the test again
#   uninstall   as src/docs/kubernetes.md says, while pods run; nothing is left on the nodes
#   all         these, in this order
#   state       print how the nodes and pods are, for somebody who looks for a fault
#
# Through all of them the pods of a DaemonSet live on, one on each node, and reach each other.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
repo=${here%/scripts/lab}

LIMIT=180 TEST=420 # seconds, for one wait and for kind-test.sh
CONTROL_PLANE=pausenet-control-plane WORKER=pausenet-worker
NODES=("$CONTROL_PLANE" "$WORKER")
kubectl=(timeout 330 kubectl --context kind-pausenet)
system=("${kubectl[@]}" --namespace kube-system)
glance=(timeout 20 kubectl --context kind-pausenet)

scene='pods that stay' # what runs

main() {
    local scenes=("$@") figures=() started name
    [[ $* != all ]] || scenes=(test restart swap uninstall)
    for name in "${scenes[@]}"; do
        declare -F "scene_$name" >/dev/null || usage
    done
    trap failed EXIT
    start_residents
    for scene in "${scenes[@]}"; do
        say "$scene"
        started=$SECONDS
        "scene_$scene"
        figures+=("$scene" $((SECONDS - started)))
    done
    trap - EXIT
    printf '\n%s\n' 'all passed; seconds:' && printf '%-12s%4s\n' kind-up.sh "${KIND_UP_SECONDS-}" "${figures[@]}"
}

failed() {
    state
    say "FAILED: $scene"
}

# --- the scenes -----------------------------------------------------------------------------------

scene_test() { kind_test; }

scene_restart() {
    local before
    before=$(now)
    docker restart "$WORKER"
    await_node "$WORKER" "$before"
    residents_reach_each_other
    kind_test
}

scene_swap() {
    local before node was=() is=()
    for node in "${NODES[@]}"; do was+=("$(address "$node")"); done
    before=$(now)
    docker stop "${NODES[@]}"
    # Docker gives the first that comes the first free address, so that of the other.
    if ((${was[0]##*.} > ${was[1]##*.})); then
        docker start "$CONTROL_PLANE" && docker start "$WORKER"
    else
        docker start "$WORKER" && docker start "$CONTROL_PLANE"
    fi
    for node in "${NODES[@]}"; do is+=("$(address "$node")"); done
    [[ "${is[*]}" == "${was[1]} ${was[0]}" ]] || die "Docker has not swapped the addresses ${was[*]}, but given ${is[*]}"
    say "the nodes' addresses were ${was[*]}, and are ${is[*]}"
    for node in "${NODES[@]}"; do
        await_node "$node" "$before"
        await "the Node $node to have its new address" node_says "$node" "$(address "$node")"
    done
    residents_reach_each_other
    kind_test
}

scene_uninstall() {
    local node
    "${kubectl[@]}" delete -k "$repo/conf/kubernetes" --timeout "${LIMIT}s"
    residents_reach_each_other
    "${kubectl[@]}" apply -f "$repo/conf/kubernetes/uninstall.yaml"
    for node in "${NODES[@]}"; do
        await "the uninstall on $node to wait for pods" is_waiting "$node"
    done
    residents_reach_each_other
    for node in "${NODES[@]}"; do
        "${kubectl[@]}" drain "$node" --ignore-daemonsets --delete-emptydir-data --timeout "${LIMIT}s"
    done
    "${kubectl[@]}" delete daemonset resident --timeout "${LIMIT}s"
    "${system[@]}" rollout status daemonset/pausenet-uninstall --timeout 5m
    "${kubectl[@]}" delete -f "$repo/conf/kubernetes/uninstall.yaml" --timeout "${LIMIT}s"
    await "the residents to be gone" no_residents
    for node in "${NODES[@]}"; do
        nothing_left_on "$node"
    done
}

kind_test() {
    local url options=()
    for url in $OUTSIDE; do options+=(--outside "$url"); done
    # The lab's busybox is Debian's; its wget crashes where a name has to be found.
    timeout "$TEST" "$repo/scripts/kind-test.sh" --context kind-pausenet --client hwchiu/netutils "${options[@]}"
}

# --- pods that stay -------------------------------------------------------------------------------

start_residents() {
    "${kubectl[@]}" apply -f - <<'END'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: resident}
spec:
  selector: {matchLabels: {app: resident}}
  template:
    metadata: {labels: {app: resident}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers:
        - {name: resident, image: nginx, imagePullPolicy: IfNotPresent}
END
    "${kubectl[@]}" rollout status daemonset/resident --timeout "${LIMIT}s"
    residents_reach_each_other
}

# residents: a line for each: name, node, addresses.
residents() {
    "${glance[@]}" get pods -l app=resident \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIPs[*].ip}{"\n"}{end}'
}

residents_reach_each_other() {
    local pods pod addresses address
    pods=$(residents)
    (($(wc -l <<<"$pods") == ${#NODES[@]})) || die "there are other pods than one on each node: $pods"
    while read -r pod _; do
        while read -r _ _ addresses; do
            [[ -n $addresses ]] || die "a pod has no address: $pods"
            for address in $addresses; do
                [[ $address != *:* ]] || address="[$address]"
                await "$pod to reach $address" "${glance[@]}" exec "$pod" -- wget -q -O /dev/null -T 3 -t 1 "http://$address"
            done
        done <<<"$pods"
    done < <(residents)
    say "the pods that stay reach each other"
}

no_residents() { [[ -z $(residents) ]]; }

# --- nodes ----------------------------------------------------------------------------------------

now() { date -u +%FT%TZ; }

# address NODE: in Docker's network.
address() { docker inspect --format '{{.NetworkSettings.Networks.kind.IPAddress}}' "$1"; }

node_says() {
    [[ $("${glance[@]}" get node "$1" -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}') == "$2"* ]]
}

# await_node NODE SINCE: until its daemon and its pod that stays have been started anew, and it is Ready.
await_node() {
    await "pausenetd on $1 to be started again" started_since "$1" "$2" kube-system app.kubernetes.io/name=pausenet
    await "the pod that stays on $1 to be started again" started_since "$1" "$2" default app=resident
    "${kubectl[@]}" wait --for condition=Ready "node/$1" --timeout "${LIMIT}s"
}

# started_since NODE SINCE NAMESPACE LABEL: whether the pod's container runs, is ready, and started later.
started_since() {
    local ready started
    read -r ready started < <("${glance[@]}" --namespace "$3" get pods -l "$4" --field-selector "spec.nodeName=$1" \
        -o 'jsonpath={.items[*].status.containerStatuses[0].ready} {.items[*].status.containerStatuses[0].state.running.startedAt}')
    [[ $ready == true && ! $started < $2 ]]
}

# is_waiting NODE: whether its uninstall is.
is_waiting() {
    local pod
    pod=$("${glance[@]}" --namespace kube-system get pods -l app.kubernetes.io/name=pausenet-uninstall --field-selector "spec.nodeName=$1" -o name)
    "${glance[@]}" --namespace kube-system logs "$pod" -c uninstall | grep 'waiting until no pod is attached'
}

nothing_left_on() {
    local left
    left=$(docker exec "$1" bash -c '
        ls -A /etc/cni/net.d
        ls -A /opt/cni/bin | grep -vxE "host-local|loopback|ptp|portmap"
        ip route show proto 112
        ip -6 route show proto 112
        ip -o link show group 1885435251
        nft list tables | grep pausenet
        true')
    [[ -z $left ]] || die "left on $1: $left"
    say "nothing is left on $1"
}

# --- looking ----------------------------------------------------------------------------------------

state() {
    local node
    set +e
    docker ps --all
    "${glance[@]}" get nodes,pods --all-namespaces -o wide
    "${glance[@]}" --namespace kube-system logs daemonset/pausenet --all-pods --tail 20
    for node in "${NODES[@]}"; do
        printf '\n%s:\n' "$node"
        timeout 20 docker exec "$node" journalctl --no-pager --lines 25 --unit kubelet --unit containerd
    done
} >&2

help_if_asked "$@"
(($#)) || usage
if [[ $* == state ]]; then
    state
    exit
fi
main "$@"
