#!/usr/bin/env bash
# Runs a command with a private podman 5, whose networks are netavark's.
#
# Use: scripts/lab/podman5.sh tools           print a folder with a root: Debian sid, with podman and netavark
#      scripts/lab/podman5.sh run COMMAND...
#
# `run` runs COMMAND in the caller's network and mount namespaces, which must not be the machine's, with a `podman`
# in PATH that keeps everything in one folder in memory, PODMAN_HOME. Podman itself lives in that root, with a mount
# namespace of its own: its packages are for a newer Debian than this machine may be. When COMMAND ends or a
# signal arrives, nothing is left: no container, process, mount or file. The folder /lab of the root is
# PODMAN_HOME/share; in it is busybox.tar, the file system of an image with /bin/busybox and a page to serve:
#
#   podman import --change 'ENTRYPOINT ["/bin/busybox"]' /lab/busybox.tar localhost/lab/busybox

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=place.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/place.sh"

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

PACKAGES=podman,netavark,aardvark-dns,conmon,libseccomp2,nftables,iptables,iproute2,busybox-static,jq,procps
export PACKAGES

tools() {
    local target
    target=$(lab_dir)/podman-5
    lab_once "$target" make_root
    printf '%s\n' "$target/root"
}

make_root() {
    local out=$1 work=$2
    debian_root sid "$out/root" "$work" "$PACKAGES"
    # shellcheck disable=SC2016 # expanded in there
    unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" podman --version' "$out/root" >&2 ||
        die "podman does not run on this machine"
}

run() {
    local root runc holder first deadline=$((SECONDS + 60))
    root=$(tools)
    runc=$("$here/programs.sh" get runc)/runc
    place_open podman
    export PODMAN_HOME=$home
    mkdir -- "$home"/{root,upper,work,share,bin}
    configure
    cp -- "$runc" "$home/share" # crun refuses a machine with cgroup v1 and v2
    image "$root"
    # The root is shared by all runs: what one writes is in memory.
    place_mount -t overlay -o "lowerdir=$root,upperdir=$home/upper,workdir=$home/work" overlay "$home/root"
    mkdir -p -- "$home/root/lab"
    place_mount --bind "$home/share" "$home/root/lab"
    # It holds the namespaces that podman lives in; at its end, the kernel ends all containers.
    unshare --mount --pid --fork --kill-child --propagation slave \
        "$BASH" -c "$(declare -f enter_root); enter_root" "$home/root" &
    holder=$!
    place__daemons+=("$holder")
    until [[ -e $home/share/ready ]]; do
        if ((SECONDS >= deadline)) || ! kill -0 "$holder"; then die "podman's root could not be entered"; fi
        sleep 0.02
    done
    first=$(tr -d ' ' <"/proc/$holder/task/$holder/children")
    cat >"$home/bin/podman" <<END
#!/bin/sh
# Containers in a cgroup under the place's name, so that all of them are found.
case \$1 in
run | create) verb=\$1 && shift && set -- "\$verb" --cgroup-parent=/$name "\$@" ;;
pod) [ "\$2" != create ] || { shift 2 && set -- pod create --cgroup-parent=/$name "\$@"; } ;;
esac
exec env CONTAINERS_CONF=/lab/containers.conf CONTAINERS_STORAGE_CONF=/lab/storage.conf TMPDIR=/tmp \
    PODMAN_IGNORE_CGROUPSV1_WARNING=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    nsenter --target $first --mount --pid --root --wd -- /usr/bin/podman "\$@"
END
    chmod +x -- "$home/bin/podman"
    export PATH=$home/bin:$PATH
    podman version >/dev/null || die "podman does not run"
    place_live "$@"
}

# enter_root, with the folder as $0. pivot_root, not chroot: containers' runtimes look for the namespace's root.
enter_root() {
    set -e
    mount --rbind "$0" "$0"
    cd -- "$0"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs tmpfs run
    mount -t tmpfs tmpfs tmp
    mkdir -p old
    pivot_root . old
    cd /
    umount -l /old
    : >/lab/ready
    exec sleep infinity
}

configure() {
    cat >"$home/share/containers.conf" <<END
[containers]
log_driver = "k8s-file"

[network]
network_backend = "netavark"
firewall_driver = "nftables"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
# Not in /dev/shm, which is the machine's.
lock_type = "file"
runtime = "lab"

[engine.runtimes]
lab = ["/lab/runtime"]
END
    cat >"$home/share/storage.conf" <<'END'
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
END
    # For machines without CAP_SYS_RESOURCE: removes from the bundle what needs that capability.
    cat >"$home/share/runtime" <<'END'
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
exec /lab/runc "$@"
END
    chmod +x -- "$home/share/runtime"
}

# image ROOT
image() {
    mkdir -p -- "$home/image/bin" "$home/image/www"
    cp -- "$1/bin/busybox" "$home/image/bin/"
    printf 'hello\n' >"$home/image/www/index.html"
    tar -C "$home/image" --owner=0 --group=0 -c -f "$home/share/busybox.tar" bin www
}

help_if_asked "$@"
verb=${1-}
shift || usage
case $verb in
tools) (($# == 0)) || usage && tools ;;
run) (($#)) || usage && run "$@" ;;
*) usage ;;
esac
