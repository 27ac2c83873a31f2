#!/usr/bin/env bash
# Prints the path of a podman that keeps everything in one folder: configuration, storage, temporary files and
# Debian's conflist for its network. It is Podman 4.3, which supports CNI.
#
# Use: scripts/lab/podman.sh DIR [PAUSENET]
#
#   DIR        made if missing; a second run writes the configuration again and keeps containers
#   PAUSENET   a pausenet binary to use as the plugins bridge, host-local and portmap
#
# Without PAUSENET, all plugins are the reference's (Debian bookworm's, see peers.sh). Then, as root:
#   "$(scripts/lab/podman.sh DIR)" run -d -p 8080:80 IMAGE
#
# DIR/busybox.tar is the file system of an image with /bin/busybox and a page to serve:
#   podman import --change 'ENTRYPOINT ["/bin/busybox"]' DIR/busybox.tar localhost/lab/busybox
#
# Links and addresses (/var/lib/cni) are those of the caller's namespaces: run it in a network and mount
# namespace to keep them apart.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

readonly CONFLIST=/etc/cni/net.d/87-podman-bridge.conflist

# configure DIR
configure() {
    local dir=$1
    mkdir -p -- "$dir"/{net.d,storage,run,tmp}
    cat >"$dir/containers.conf" <<END
[containers]
log_driver = "k8s-file"

[network]
network_backend = "cni"
cni_plugin_dirs = ["$dir/plugins"]
network_config_dir = "$dir/net.d"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
# Not in /dev/shm, which is the machine's.
lock_type = "file"
tmp_dir = "$dir/run"
runtime = "lab"

[engine.runtimes]
lab = ["$dir/runc"]
END
    cat >"$dir/storage.conf" <<END
[storage]
driver = "vfs"
graphroot = "$dir/storage"
runroot = "$dir/run"
END
    cp -- "$CONFLIST" "$dir/net.d/"
}

# plugins DIR PAUSENET: make the plugins that the conflist names.
plugins() {
    local dir=$1 ours=$2 peers name
    peers=$("$(dirname -- "${BASH_SOURCE[0]}")/peers.sh" bookworm)
    mkdir -p -- "$dir/plugins"
    for name in bridge host-local portmap firewall tuning; do
        ln -sfn -- "${ours:-$peers/$name}" "$dir/plugins/$name"
    done
}

# programs DIR: write a podman that finds its configuration, and a runc for machines without CAP_SYS_RESOURCE,
# which removes from the bundle what needs that capability.
programs() {
    local dir=$1
    cat >"$dir/podman" <<END
#!/bin/sh
export CONTAINERS_CONF='$dir/containers.conf' CONTAINERS_STORAGE_CONF='$dir/storage.conf' TMPDIR='$dir/tmp'
exec podman "\$@"
END
    cat >"$dir/runc" <<'END'
#!/bin/bash
before=
for arg; do
    case $before in --bundle | -b) bundle=$arg ;; esac
    case $arg in --bundle=*) bundle=${arg#*=} ;; esac
    before=$arg
done
if [[ -n ${bundle-} ]]; then
    config=$bundle/config.json
    jq 'del(.process.rlimits, .process.oomScoreAdj)' "$config" >"$config.lab" && mv -- "$config.lab" "$config"
fi
exec runc "$@"
END
    chmod +x -- "$dir/podman" "$dir/runc"
}

# image DIR
image() {
    local dir=$1 root
    [[ ! -e $dir/busybox.tar ]] || return 0
    root=$(mktemp -d -- "$dir/tmp/image.XXXXXX")
    mkdir -p -- "$root/bin" "$root/www"
    cp -- /bin/busybox "$root/bin/"
    printf 'hello\n' >"$root/www/index.html"
    tar -C "$root" --owner=0 --group=0 -c -f "$dir/busybox.tar.new" bin www
    rm -r -- "$root"
    mv -- "$dir/busybox.tar.new" "$dir/busybox.tar"
}

main() {
    help_if_asked "$@"
    (($# == 1 || $# == 2)) || usage
    local dir=$1 ours=${2:-}
    [[ -z $ours || -x $ours ]] || die "$ours is not a program"
    need_packages podman runc busybox-static iptables jq
    [[ -e $CONFLIST && -z $(dpkg --verify podman | grep -F " $CONFLIST" || true) ]] ||
        die "$CONFLIST was changed since the package podman was installed"
    mkdir -p -- "$dir"
    dir=$(cd -- "$dir" && pwd -P)
    configure "$dir"
    plugins "$dir" "${ours:+$(realpath -- "$ours")}"
    programs "$dir"
    image "$dir"
    printf '%s\n' "$dir/podman"
}

main "$@"
