#!/usr/bin/env bash
# bridge 1.10.0 never lets dhcp give a lease back.
#
# dhcp 1.10.0 sends its release from the leased address, as servers such as dnsmasq demand. The plugin bridge calls
# the DEL of its IPAM after it has removed the interface, and with it the address: the daemon cannot send, and
# the lease stays with the server until it expires. ptp, macvlan and the others call the IPAM first.
#
# Use: findings/bridge-dhcp-no-release.sh       (as root; needs Go 1.26, iproute2, dnsmasq-base)
# Seen: 1 lease is left after DEL. Fails when that has changed.

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
        for plugin in main/bridge ipam/dhcp; do
            go get -tool "github.com/containernetworking/plugins/plugins/$plugin@$PLUGINS"
            go build -o "$work/bin/" "github.com/containernetworking/plugins/plugins/$plugin"
        done
    ) >&2
    left=$(unshare --net --mount --pid --fork --kill-child --mount-proc "$0" inside "$work/bin")
    echo "bridge $PLUGINS with dhcp: $left lease is left after DEL"
    [[ $left == 1 ]] || { echo "this has changed" >&2 && exit 1; }
    exit
fi

export CNI_PATH=$2 CNI_IFNAME=eth0 CNI_CONTAINERID=one CNI_NETNS=/run/netns/one
for folder in /run /var/lib; do mount -t tmpfs tmpfs "$folder"; done
ip link set lo up
ip netns add one
ip netns add server
ip link add br0 up type bridge
ip link add uplink up master br0 type veth peer name eth0 netns server
ip -n server link set eth0 up
ip -n server addr add 10.9.0.254/24 dev eth0

# wait_for COMMAND...: until it succeeds.
wait_for() {
    for _ in {1..300}; do
        ! "$@" || return 0
        sleep 0.1
    done
    echo "never: $*" >&2
    return 1
}

ip netns exec server dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=eth0 --bind-interfaces \
    --user=root --pid-file --no-ping --dhcp-authoritative --dhcp-range=10.9.0.100,10.9.0.120,255.255.255.0,120 \
    --dhcp-leasefile=/run/leases --log-facility=/run/dnsmasq.log &
"$CNI_PATH/dhcp" daemon 2>/run/dhcp.log &
wait_for test -S /run/cni/dhcp.sock
wait_for grep -q "DHCP, IP range" /run/dnsmasq.log

config='{"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "br0", "ipam": {"type": "dhcp"}}'
CNI_COMMAND=ADD "$CNI_PATH/bridge" <<<"$config" >/dev/null
wait_for test -s /run/leases
CNI_COMMAND=DEL "$CNI_PATH/bridge" <<<"$config"
wait_for grep -qE "failed to release|DHCPRELEASE" /run/dhcp.log /run/dnsmasq.log
wc -l </run/leases
