#!/usr/bin/env bash
# CHECK of the reference's `tuning` fails right after its own ADD for a setting that is a list, such as
# net.ipv4.ip_local_port_range: the config has a space between the numbers, the kernel shows a tab, and the plugin
# compares the text.
#
# Use: findings/tuning-check-of-a-list.sh      (as root; builds containernetworking/plugins with Go in a temporary
#                                               folder)
# Seen with containernetworking/plugins 1.10.0: ADD succeeds and CHECK fails with "2000 3000" ; both succeed with a tab
# in the config, and with a setting that is one number. Fails when CHECK takes the space.

set -euo pipefail
PLUGINS=1.10.0

if [[ ${1-} != inside ]]; then
    work=$(mktemp -d)
    trap 'chmod -R u+w -- "$work"; rm -rf -- "$work"' EXIT
    (
        cd -- "$work"
        export GOPATH=$work/go GOFLAGS=-mod=mod
        go mod init finding 2>/dev/null
        go get "github.com/containernetworking/plugins/plugins/meta/tuning@v$PLUGINS" 2>/dev/null
        go build -o tuning github.com/containernetworking/plugins/plugins/meta/tuning
    )
    unshare --net --mount "$0" inside "$work"
    exit
fi

cd -- "$2"
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip netns add pod
ip -n pod link add eth0 type veth peer name eth1

# call VERB VALUE: the exit status.
call() {
    local config status=0
    config=$(printf '{"cniVersion": "1.0.0", "name": "net", "type": "tuning",
        "sysctl": {"net.ipv4.ip_local_port_range": "%s"}, "prevResult": {"cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}]}}' "$2")
    CNI_COMMAND=$1 CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=. \
        ./tuning <<<"$config" >"$1.txt" || status=$?
    echo "$status"
}

with_space="$(call ADD '2000 3000') $(call CHECK '2000 3000')"
grep -o '"msg": *"[^"]*"' CHECK.txt || true
with_tab="$(call ADD '2000\t3000') $(call CHECK '2000\t3000')"
echo "ADD and CHECK with a space: $with_space; with a tab: $with_tab"
[[ $with_space == '0 1' && $with_tab == '0 0' ]]
