#!/usr/bin/env bash
# portmap 1.10.0 with masqAll hides the client of a direct connection, too, but only with nftables.
#
# masqAll is about what comes in by the mapped port of the host: the container sees the host as the client.
# The nftables backend also masquerades what goes straight to the container's own address and port, past the
# mapping, from another container of the same bridge, where bridged packets pass netfilter (br_netfilter). The
# iptables backend leaves that alone. So a container's log names its neighbours with one backend, and only the
# gateway with the other.
#
# Use: findings/portmap-masqall-direct.sh     (as root; needs Go 1.26, iproute2, iptables, nftables, python3, jq)
# Seen: nftables 10.9.0.1, iptables 10.9.0.3. Fails when that has changed.

set -euo pipefail
PLUGINS=v1.10.0

if [[ ${1-} != inside ]]; then
    work=$(mktemp -d)
    trap 'chmod -R u+w -- "$work" && rm -rf -- "$work"' EXIT
    export GOMODCACHE=$work/mod GOCACHE=$work/cache GOFLAGS=-mod=mod CGO_ENABLED=0
    mkdir -- "$work/module" "$work/bin"
    (
        cd -- "$work/module"
        go mod init finding
        for plugin in main/bridge ipam/host-local meta/portmap; do
            go get -tool "github.com/containernetworking/plugins/plugins/$plugin@$PLUGINS"
            go build -o "$work/bin/" "github.com/containernetworking/plugins/plugins/$plugin"
        done
    ) >&2
    for backend in nftables iptables; do
        seen=$(unshare --net --mount --pid --fork --kill-child --mount-proc "$0" inside "$work/bin" "$backend")
        echo "portmap $PLUGINS, masqAll, $backend: a direct connection from 10.9.0.3 is seen as from $seen"
        results=${results-}$seen,
    done
    [[ $results == 10.9.0.1,10.9.0.3, ]] || { echo "this has changed" >&2 && exit 1; }
    exit
fi

export CNI_PATH=$2 CNI_IFNAME=eth0
backend=$3
for folder in /run /var/lib; do mount -t tmpfs tmpfs "$folder"; done
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
[[ -e /proc/sys/net/bridge ]] || { echo "this needs the module br_netfilter" >&2 && exit 1; }
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

# add CONTAINER PLUGIN CONFIG: ADD, with fields that both plugins need.
add() {
    CNI_COMMAND=ADD CNI_CONTAINERID=$1 CNI_NETNS=/run/netns/$1 "$CNI_PATH/$2" <<<"$3"
}
bridge='{"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
    "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}'
for container in one two; do
    ip netns add "$container"
    ip -n "$container" link set lo up
    result=$(add "$container" bridge "$bridge")
    [[ $container == one ]] || continue
    add one portmap "$(jq -n --argjson result "$result" --arg backend "$backend" '{
        cniVersion: "1.0.0", name: "n", type: "portmap", backend: $backend, masqAll: true, prevResult: $result,
        runtimeConfig: {portMappings: [{hostPort: 8080, containerPort: 80, protocol: "tcp"}]}}')" >/dev/null
done

# The server prints the address of its first client.
ip netns exec one python3 -c '
import socket
server = socket.create_server(("10.9.0.2", 80))
server.settimeout(20)
print("listening", flush=True)
print(server.accept()[1][0], flush=True)' >/run/server &
for _ in {1..200}; do
    ! grep -q listening /run/server || break
    sleep 0.1
done
ip netns exec two python3 -c 'import socket; socket.create_connection(("10.9.0.2", 80), 10)'
wait
tail -n 1 /run/server
