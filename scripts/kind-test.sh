#!/usr/bin/env bash
# Tests that a cluster's pods reach what they should: pods on their own node and on others, Services, node
# ports, names, the outside; and that a pod whose pause dies comes back.

set -euo pipefail
shopt -s inherit_errexit

# shellcheck source-path=SCRIPTDIR source=steps.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/steps.sh"

usage() {
    cat <<'END'
Tests the network of a cluster (such as scripts/kind-up.sh makes) from pods on each of its nodes.

Usage: scripts/kind-test.sh [--context NAME] [--client IMAGE] [--server IMAGE] [--outside URL]... [--dry-run]

  --context NAME   the cluster's context in kubectl (default: the current one)
  --client IMAGE   an image with a shell and wget (default: busybox)
  --server IMAGE   an image that serves HTTP on port 80 (default: nginx)
  --outside URL    a page outside the cluster (default: http://example.com); repeatable
  --dry-run        print the steps and change nothing
  -h, --help       print this text

Where pods have IPv4 and IPv6 addresses, everything is tested with both. The tests run in the namespace
pausenet-test, which is deleted at the end, also after a failure. The client is a DaemonSet that sees the
processes of its node, so that it can kill a pause there.

Examples:
  scripts/kind-test.sh --context kind-pausenet
  scripts/kind-test.sh --dry-run
END
}

NAMESPACE=pausenet-test
NODE_PORT=30080 HOST_PORT=18080

main() {
    local context=() client=busybox server=nginx outside=() url
    while (($#)); do
        case $1 in
        -h | --help) usage && exit ;;
        --context) context=(--context "$(value "$@")") && shift ;;
        --client) client=$(value "$@") && shift ;;
        --server) server=$(value "$@") && shift ;;
        --outside) outside+=("$(value "$@")") && shift ;;
        --dry-run) dry_run=true ;;
        *) wrong "$1" ;;
        esac
        shift
    done
    ((${#outside[@]})) || outside=(http://example.com)
    kubectl=(kubectl "${context[@]}")
    here=("${kubectl[@]}" --namespace "$NAMESPACE")
    local look="inspect the pods: ${here[*]} get pods -o wide"
    local routes='check that each node has a route to the pods of the others: ip route show proto all'

    step 'check that the API server answers' 'name the cluster with --context' \
        "${kubectl[@]}" get --raw /readyz
    $dry_run || trap clean_up EXIT
    step 'start a client and a server on each node' "$look" start "$client" "$server"
    step 'wait for the clients' "$look" "${here[@]}" rollout status daemonset/client --timeout 180s
    step 'wait for the servers' "$look" "${here[@]}" rollout status daemonset/server --timeout 180s
    step 'each client reaches the server on its own node' "$look" servers_on same
    step 'each client reaches the servers on other nodes' "$routes" servers_on other
    step 'each client reaches the Service' 'check that kube-proxy runs on each node' the_service
    if has_dns; then
        step 'each client reaches the Service by its name' 'inspect CoreDNS in namespace kube-system' \
            from_each http://server
    else
        skip 'each client reaches the Service by its name' 'this cluster has no DNS'
    fi
    step "each client reaches NodePort $NODE_PORT of each node" 'check that kube-proxy runs on each node' \
        ports "$NODE_PORT"
    step "each client reaches hostPort $HOST_PORT of each node" \
        'check that the conflist in /etc/cni/net.d has the capability portMappings' ports "$HOST_PORT"
    for url in "${outside[@]}"; do
        step "each client reaches $url" \
            'check whether the node reaches it, and its masquerade: nft list table inet pausenetd' from_each "$url"
    done
    step 'a server whose pause is killed comes back' "$look" kill_a_pause
    step 'each client reaches the Service again' "$look" the_service
    step 'delete everything' "$look" "${kubectl[@]}" delete namespace "$NAMESPACE" --timeout 180s
    done_with 'the network works'
}

clean_up() {
    "${kubectl[@]}" delete namespace "$NAMESPACE" --ignore-not-found --wait=false >/dev/null
}

# start CLIENT SERVER: remove what a failed run has left, and start the pods.
start() {
    "${kubectl[@]}" delete namespace "$NAMESPACE" --ignore-not-found --timeout 180s || return
    "${kubectl[@]}" apply -f - <<END
apiVersion: v1
kind: Namespace
metadata: {name: $NAMESPACE}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client, namespace: $NAMESPACE}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      hostPID: true
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers:
        - {name: client, image: $1, imagePullPolicy: IfNotPresent, command: [sleep, "86400"]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server, namespace: $NAMESPACE}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers:
        - name: server
          image: $2
          imagePullPolicy: IfNotPresent
          ports: [{containerPort: 80, hostPort: $HOST_PORT}]
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: $NAMESPACE}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports: [{port: 80, nodePort: $NODE_PORT}]
END
}

# pods APP: print a line for each pod: name, node, and its address, or one of each family.
pods() {
    "${here[@]}" get pods -l "app=$1" \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIPs[*].ip}{"\n"}{end}'
}

# Print the addresses of the nodes, one a line, of the families that pods have: kube-proxy opens no ports
# for others.
nodes() {
    local address families
    families=$(pods server | cut -d' ' -f3- | tr ' ' '\n' | while read -r address; do family "$address"; done)
    "${kubectl[@]}" get nodes \
        -o 'jsonpath={range .items[*]}{.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}' |
        tr ' ' '\n' | while read -r address; do
        [[ -z $address || $families != *"$(family "$address")"* ]] || printf '%s\n' "$address"
    done
}

family() { [[ $1 == *:* ]] && printf 'IPv6\n' || printf 'IPv4\n'; }

# fetch POD URL: retry, since rules for Services and ports follow their objects after a moment.
fetch() {
    local deadline=$((SECONDS + 30)) why
    # GNU wget retries twenty times, and busybox wget has no option for it.
    until why=$(timeout 10 "${here[@]}" exec "$1" -- wget -O /dev/null -T 3 "$2" 2>&1 >/dev/null); do
        if ((SECONDS >= deadline)); then
            printf '    %s does not reach %s: %s\n' "$1" "$2" "$why"
            return 1
        fi
        sleep 0.2
    done
    printf '    %s reaches %s\n' "$1" "$2"
}

from_each() {
    local client tried=0
    while read -r client _; do
        tried=$((tried + 1))
        fetch "$client" "$1" </dev/null || return
    done < <(pods client)
    ((tried)) || { printf '    there is no client pod\n' && return 1; }
}

# servers_on same|other
servers_on() {
    local client client_node server_node addresses address tried=0 relation
    while read -r client client_node _; do
        while read -r _ server_node addresses; do
            relation=other
            [[ $client_node != "$server_node" ]] || relation=same
            [[ $relation == "$1" ]] || continue
            tried=$((tried + 1))
            for address in $addresses; do
                fetch "$client" "http://$(literal "$address")" </dev/null || return
            done
        done < <(pods server)
    done < <(pods client)
    ((tried)) || { printf '    there is no server on such a node\n' && return 1; }
}

the_service() {
    local addresses address
    addresses=$(service_addresses) || { printf '    it has no address\n' && return 1; }
    for address in $addresses; do
        from_each "http://$(literal "$address")" || return
    done
}

# Old API servers with one family know clusterIP only.
service_addresses() {
    "${here[@]}" get service server -o 'jsonpath={.spec.clusterIP} {.spec.clusterIPs[*]}' |
        tr ' ' '\n' | grep . | sort -u
}

# ports PORT
ports() {
    local addresses address
    addresses=$(nodes | grep .) || { printf '    the nodes have no address\n' && return 1; }
    for address in $addresses; do
        from_each "http://$(literal "$address"):$1" || return
    done
}

# Print an address as a URL has it.
literal() {
    [[ $1 != *:* ]] && printf '%s\n' "$1" || printf '[%s]\n' "$1"
}

has_dns() {
    $dry_run || "${kubectl[@]}" -n kube-system get service kube-dns >/dev/null 2>&1
}

# The pause of a pod is the process `pause` in the pod's cgroup.
kill_a_pause() {
    local server node uid client deadline=$((SECONDS + 120)) restarts
    read -r server node _ < <(pods server)
    client=$(pods client | awk -v node="$node" '$2 == node { print $1 }')
    uid=$("${here[@]}" get pod "$server" -o 'jsonpath={.metadata.uid}')
    # shellcheck disable=SC2016 # expanded by the shell in the pod
    "${here[@]}" exec "$client" -- sh -c '
        for process in /proc/[0-9]*; do
            grep -q "$1\|$2" "$process/cgroup" 2>/dev/null || continue
            [ "$(cat "$process/comm")" = pause ] && kill -9 "${process#/proc/}" && exit
        done
        echo "    there is no pause of pod $1" && exit 1
    ' sh "$uid" "${uid//-/_}" || return
    printf '    killed the pause of %s on %s\n' "$server" "$node"
    until restarts=$("${here[@]}" get pod "$server" -o 'jsonpath={.status.containerStatuses[0].restartCount}') &&
        ((restarts > 0)); do
        ((SECONDS < deadline)) || { printf '    it has not been restarted\n' && return 1; }
        sleep 0.2
    done
    "${here[@]}" wait --for condition=Ready "pod/$server" --timeout 120s
}

main "$@"
