#!/usr/bin/env bash
# containerd 2.4.2 does not notice a CNI conflist that is moved into its conf_dir from another folder.
#
# Writing a file elsewhere on the same filesystem and moving it in is the usual way to let nobody see half a
# file. containerd's CRI plugin watches conf_dir, but passes over events that only say "created", and that is
# all a move from outside causes. The network stays "not initialized" until something else happens there: a
# write, a removal, or a rename within conf_dir, which is what installers should end with.
#
# Use: findings/containerd-conflist-moved-in.sh     (as root; needs Go 1.26, util-linux, jq; some minutes)
# Seen: false after the move, true after the rename. Fails when that has changed.

set -euo pipefail
CONTAINERD=v2.4.2 CRI_TOOLS=v1.37.0

if [[ ${1-} != inside ]]; then
    work=$(mktemp -d)
    trap 'chmod -R u+w -- "$work" && rm -rf -- "$work"' EXIT
    export GOMODCACHE=$work/mod GOCACHE=$work/cache GOFLAGS=-mod=mod CGO_ENABLED=0
    mkdir -- "$work/module" "$work/bin"
    (
        cd -- "$work/module"
        go mod init finding
        go get -tool "github.com/containerd/containerd/v2/cmd/containerd@$CONTAINERD"
        go build -o "$work/bin/containerd" github.com/containerd/containerd/v2/cmd/containerd
        rm go.mod go.sum
        go mod init finding
        go get -tool "sigs.k8s.io/cri-tools/cmd/crictl@$CRI_TOOLS"
        go build -o "$work/bin/crictl" sigs.k8s.io/cri-tools/cmd/crictl
    ) >&2
    PATH=$work/bin:$PATH unshare --net --mount --pid --fork --kill-child --mount-proc "$0" inside "$work/run"
    exit
fi

run=$2
mkdir -- "$run"
mount -t tmpfs tmpfs "$run"
for folder in /run /opt; do mount -t tmpfs tmpfs "$folder"; done # containerd writes there, too
mkdir -- "$run"/{conf,elsewhere,bin}
cat >"$run/config.toml" <<END
version = 3
root = "$run/root"
state = "$run/state"
[grpc]
address = "$run/containerd.sock"
[ttrpc]
address = "$run/ttrpc.sock"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["$run/bin"]
conf_dir = "$run/conf"
END
containerd --config "$run/config.toml" >"$run/log" 2>&1 &
export CONTAINER_RUNTIME_ENDPOINT=unix://$run/containerd.sock

# is_ready: true or false, as the runtime says of its network.
is_ready() { crictl --timeout 3s info 2>/dev/null | jq '.status.conditions[] | select(.type == "NetworkReady").status'; }

# within SECONDS VALUE: whether it says so in this time.
within() {
    local deadline=$((SECONDS + $1))
    until [[ $(is_ready) == "$2" ]]; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

within 30 false || { cat -- "$run/log" >&2 && exit 1; }
printf '{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "loopback"}]}' >"$run/elsewhere/10-n.conflist"
mv -- "$run/elsewhere/10-n.conflist" "$run/conf"
noticed=false
within 10 true && noticed=true
echo "containerd $CONTAINERD, a conflist moved in from another folder, after 10 s: network ready: $noticed"
mv -- "$run/conf/10-n.conflist" "$run/conf/20-n.conflist"
renamed=false
within 10 true && renamed=true
echo "containerd $CONTAINERD, the conflist renamed within conf_dir: network ready: $renamed"
[[ $noticed == false && $renamed == true ]] || { echo "this has changed" >&2 && exit 1; }
