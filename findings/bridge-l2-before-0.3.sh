#!/usr/bin/env bash
# bridge 1.10.0 makes an interface without addresses for a config of version 0.2.0, and then says that it cannot.
#
# Results of versions before 0.3.0 have no room for an interface without an address. bridge without `ipam` (a
# network of layer 2) finds that out when it prints its result: ADD fails, after all was made, and the interface
# stays in the container. With version 0.3.0 the same config succeeds.
#
# Use: findings/bridge-l2-before-0.3.sh      (as root; needs Go 1.26, iproute2)
# Seen: 0.2.0 fails and leaves eth0, 0.3.0 succeeds. Fails when that has changed.

set -euo pipefail
PLUGINS=v1.10.0

if [[ ${1-} != inside ]]; then
    work=$(mktemp -d)
    trap 'chmod -R u+w -- "$work" && rm -rf -- "$work"' EXIT
    export GOMODCACHE=$work/mod GOCACHE=$work/cache GOFLAGS=-mod=mod CGO_ENABLED=0
    mkdir -- "$work/module"
    (
        cd -- "$work/module"
        go mod init finding
        go get -tool "github.com/containernetworking/plugins/plugins/main/bridge@$PLUGINS"
        go build -o "$work/bridge" github.com/containernetworking/plugins/plugins/main/bridge
    ) >&2
    seen=$(unshare --net --mount "$0" inside "$work/bridge")
    printf 'bridge %s without ipam:\n%s\n' "$PLUGINS" "$seen"
    [[ $seen == $'0.2.0: status 1, interfaces left: eth0\n0.3.0: status 0, interfaces left: eth0' ]] ||
        { echo "this has changed" >&2 && exit 1; }
    exit
fi

for folder in /run /var/lib; do mount -t tmpfs tmpfs "$folder"; done
for version in 0.2.0 0.3.0; do
    ip netns add "in-$version"
    status=0
    CNI_COMMAND=ADD CNI_CONTAINERID=$version CNI_NETNS=/run/netns/in-$version CNI_IFNAME=eth0 CNI_PATH=/nonexistent \
        "$2" <<<"{\"cniVersion\": \"$version\", \"name\": \"n\", \"type\": \"bridge\", \"bridge\": \"br0\"}" >/dev/null || status=$?
    left=$(ip -n "in-$version" -o link | sed -n 's/^[0-9]*: \([^@:]*\)@.*/\1/p')
    echo "$version: status $status, interfaces left: $left"
done
