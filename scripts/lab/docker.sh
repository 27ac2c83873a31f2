#!/usr/bin/env bash
# Runs a private Docker daemon, and makes images for it, without touching the machine's Docker.
#
# Use: scripts/lab/docker.sh tools    print a folder with docker, dockerd, containerd, ctr and runc
#      scripts/lab/docker.sh images   print the path of a file for `docker load`: the images of the lab
#      scripts/lab/docker.sh run [--bridge none] [--live-restore] COMMAND...
#
# DOCKER_VERSION in the environment chooses the version: 28 (default), 29 or 20.10. `run` starts a daemon in the caller's network and mount namespaces, which must not be the machine's, and
# runs COMMAND with DOCKER_HOST and PATH set to use it. When COMMAND ends or a signal arrives, it leaves
# nothing behind: no container, process, mount, cgroup or file. Without `--bridge none` the daemon makes
# docker0 and its rules in that network; by nftables instead of iptables if DOCKER_FIREWALL is nftables (29 only).
# The signal USR1 restarts the daemon, as an upgrade would; with `--live-restore` containers survive that. To look
# around:
#
#   sudo unshare --net --mount scripts/lab/docker.sh run bash
#   docker load -i "$(scripts/lab/docker.sh images)"
#
# The programs are kept in the lab's cache (see lib.sh); installed, they would start a daemon on the machine:
#
#   28      Debian sid's Docker and containerd, with the runc of 29
#   29      the daemon is built once by programs.sh, as is written there: 5 to 15 minutes; the client is that of
#           28, since a Go module of the client's 29 does not build by itself
#   20.10   Debian bookworm's: the last that a kubelet speaks to
#
# The images stand in for the public ones of the same
# names, and behave like them as far as tests and pages use them. The first two are one small Debian:
#
#   hwchiu/netutils:latest   an entrypoint that greets and sleeps, whatever its arguments (run other
#                            programs with `--entrypoint` or `exec`); has ifconfig, ping, ip, wget, bash
#   nginx:latest             serves "Welcome to nginx!" on port 80
#   busybox:latest           a shell, unless another command is given

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=place.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/place.sh"
# shellcheck source-path=SCRIPTDIR source=archive.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/archive.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

# --- the programs ---------------------------------------------------------------------------------

# version, of the daemon and its client
DOCKER_VERSION=${DOCKER_VERSION:-28}

tools() {
    local target sets
    target=$(lab_dir)/docker-$DOCKER_VERSION
    case $DOCKER_VERSION in
    20.10) lab_once "$target" make_old ;;
    28) lab_once "$target" make_debian "$("$here/programs.sh" get runc)" ;;
    29)
        # A set moves with its version.
        sets=$("$here/programs.sh" get docker containerd runc)
        target+=-$(sha256sum <<<"$sets" | cut -c -8)
        [[ -e $target ]] || lab_once "$target" make_links "$sets" "$(DOCKER_VERSION=28 "$here/docker.sh" tools)"
        ;;
    *) die "no Docker $DOCKER_VERSION here; there are 20.10, 28 and 29" ;;
    esac
    printf '%s\n' "$target"
}

make_old() {
    local out=$1 work=$2
    need_packages iptables libdevmapper1.02.1 libseccomp2 libsystemd0
    bookworm_unpack "$work" docker.io containerd runc tini
    cp -- "$work"/usr/sbin/{dockerd,docker-proxy,runc} "$out"
    cp -- "$work"/usr/bin/{docker,containerd,containerd-shim-runc-v2,ctr} "$out"
    cp -- "$work/usr/bin/tini-static" "$out/docker-init"
    are_programs "$out"
}

# make_debian OUT WORK RUNC: of sid's packages, those programs that need nothing newer than this machine.
make_debian() {
    local out=$1 work=$2 runc=$3
    need_packages iptables libdevmapper1.02.1 libsystemd0
    sid_unpack "$work/sid" docker.io docker-cli containerd
    bookworm_unpack "$work/bookworm" tini
    cp -- "$work"/sid/usr/sbin/{dockerd,docker-proxy} "$out"
    cp -- "$work"/sid/usr/bin/{docker,containerd,containerd-shim-runc-v2,ctr} "$out"
    cp -- "$work/bookworm/usr/bin/tini-static" "$out/docker-init"
    cp -- "$runc/runc" "$out"
    are_programs "$out"
}

# make_links OUT WORK SETS CLIENT: the programs of several sets as one folder, and the client of another.
make_links() {
    local out=$1 sets=$3 client=$4 folder program
    need_packages iptables
    while read -r folder; do
        for program in "$folder"/*; do
            ln -s -- "$program" "$out/${program##*/}"
        done
    done <<<"$sets"
    ln -s -- "$client/docker" "$out/docker"
    are_programs "$out"
}

are_programs() {
    local program
    for program in dockerd docker containerd ctr runc; do
        "$1/$program" --version >&2 || die "$program does not run on this machine"
    done
}

# --- the images -----------------------------------------------------------------------------------

images() {
    local target
    target=$(lab_dir)/docker-images-2 # raise the number when the images change, or old caches are used
    lab_once "$target" make_images
    printf '%s\n' "$target/images.tar"
}

make_images() {
    local out=$1 work=$2 root=$2/root box=$2/box image=$2/image
    need_packages busybox-static jq
    debian_root bookworm "$root" "$work" nginx-light,wget,net-tools,iputils-ping,iproute2
    mkdir -p -- "$root/var/log/nginx"
    # The real entrypoint greets again and again.
    printf '%s\n' 'echo "Hello! 0 secs elapsed..."' 'exec sleep infinity' >"$root/entrypoint.bash"
    mkdir -p -- "$box/bin" "$box/etc" "$box/tmp"
    cp -- /bin/busybox "$box/bin"
    /bin/busybox --list | grep -vx busybox | xargs -I NAME ln -s busybox "$box/bin/NAME"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$box/etc/passwd"

    mkdir -- "$image"
    layer "$image" debian "$root"
    layer "$image" busybox "$box"
    archive "$image" \
        'hwchiu/netutils:latest debian "Entrypoint":["/bin/bash","./entrypoint.bash"],"WorkingDir":"/"' \
        'nginx:latest debian "Cmd":["nginx","-g","daemon off;"]' \
        'busybox:latest busybox "Cmd":["sh"]'
    mv -- "$image/images.tar" "$out"
}

# --- the daemon -----------------------------------------------------------------------------------

run() {
    local options=() new=() folder
    while [[ ${1-} == -* ]]; do
        case $1 in
        --bridge) [[ ${2-} == none ]] || usage && options+=(--bridge none) && shift 2 ;;
        --live-restore) options+=(--live-restore) && shift ;;
        --) shift && break ;;
        *) usage ;;
        esac
    done
    (($#)) || usage
    PATH=$(tools):$PATH
    export PATH
    place_open docker
    trap 'kill "$(<"$home/pid")"' USR1

    # Docker and containerd make these, whatever their options say.
    for folder in /run/docker /run/containerd /opt/containerd; do
        [[ -e $folder ]] || new+=("$folder")
    done
    ((${#new[@]} == 0)) || place_last=(find "${new[@]}" -depth -type d -empty -delete)
    mkdir -p /run/containerd
    place_mount -t tmpfs tmpfs /run/containerd # the sockets of shims

    if [[ -n ${DOCKER_FIREWALL-} ]]; then
        options+=(--firewall-backend "$DOCKER_FIREWALL")
        # This backend leaves it to the host's administrator.
        sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    fi
    if [[ $DOCKER_VERSION == 20.10 ]]; then
        options+=(--experimental --ip6tables) # what later versions do unasked
    else
        options+=(--feature containerd-snapshotter=false)
    fi
    printf '{"runtimes":{"lab":{"path":"%s"}},"default-runtime":"lab"}' "$here/runc.sh" >"$home/daemon.json"
    mkdir -- "$home/client"
    export DOCKER_HOST=unix://$home/docker.sock DOCKER_CONFIG=$home/client
    place_keep dockerd dockerd --config-file "$home/daemon.json" --host "$DOCKER_HOST" --pidfile "$home/pid" \
        --data-root "$home/data" --exec-root "$home/exec" \
        --cgroup-parent "/$name" --exec-opt native.cgroupdriver=cgroupfs "${options[@]}"
    place_await Docker docker version
    place_live "$@"
}

help_if_asked "$@"
(($#)) || usage
verb=$1
shift
case $verb in
tools | images) (($# == 0)) || usage && "$verb" ;;
run) run "$@" ;;
*) usage ;;
esac
