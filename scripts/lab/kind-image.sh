#!/usr/bin/env bash
# Prints the path of a file for `docker load`: kind's node image with Kubernetes 1.37, as lab/kind-node:latest.
#
# Use: scripts/lab/kind-image.sh
#
# It is made once and kept in the lab's cache (see lib.sh), as kind makes it: Debian with systemd, the files of kind's
# base image from kind's own source, the programs, and in its containerd the images that kubeadm asks for.
# What is not as in kind's images:
#
#   programs         built by programs.sh; Debian is bookworm, whose systemd still runs on cgroup v1
#   images           of Kubernetes: nothing but these programs, under the names that kubeadm asks for; kube-proxy's
#                    also has nft and iptables
#   pause            pausenet's; it comes from the file /kind/pause.tar, which whoever runs the image puts there
#   kindnet, local-path-provisioner, crictl: left out; the StorageClass is a name
#   cgroup v1        kubelet 1.37 refuses it unless told otherwise; controllers that the machine has not mounted are
#                    hidden from systemd, which would mount them
#   runc             the lab's runc.sh, for machines without CAP_SYS_RESOURCE
#   kubeadm          waits longer
#   sysctls          those of the whole machine stay as they are

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=archive.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/archive.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

# Those of kind's Dockerfile, without the ones for disks on other machines.
PACKAGES=systemd,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs,bash
PACKAGES+=,ca-certificates,curl,jq,procps
export PACKAGES

SETS=(kind kubernetes kubeadm containerd runc plugins)

image() {
    local folders digest target
    # Even if the image is there already: its digest is made of theirs.
    mapfile -t folders < <("$here/programs.sh" get "${SETS[@]}")
    ((${#folders[@]} == ${#SETS[@]})) || die "programs are missing"
    digest=$({
        printf '%s\n' "${folders[@]##*/}"
        cat -- "$here/kind-image.sh" "$here/archive.sh" "$here/runc.sh"
    } | sha256sum | cut -c -12)
    target=$(lab_dir)/images/kind-$digest
    if [[ ! -e $target ]]; then
        lab_once "$target" make_image "$here/runc.sh" "${folders[@]}"
        # Earlier versions of it.
        find "$(lab_dir)/images" -mindepth 1 -maxdepth 1 -name 'kind-????????????' ! -path "$target" -exec rm -r -- {} +
    fi
    printf '%s\n' "$target/images.tar"
}

# make_image OUT WORK RUNC_SH FOLDER...
make_image() {
    local out=$1 root=$2/root image=$2/image work=$2 runc_sh=$3 version
    local kind=$4 kubernetes=$5 kubeadm=$6 containerd=$7 runc=$8 plugins=$9
    need_packages jq
    version=$("$kubeadm/kubeadm" version -o short)
    say "bookworm: making kind's node image with Kubernetes $version, once"
    debian_root bookworm "$root" "$work" "$PACKAGES"
    cp -a -- "$root" "$work/debian" # from here on the root is a node
    as_in_kinds_dockerfile
    for_this_machine
    mkdir -- "$image"
    images_of_kubernetes "$image" "$work/debian"
    import "$root" "$image/images.tar" "$work/import.log"
    rm -r -- "$image" "$work/debian"
    mkdir -- "$image"
    layer "$image" node "$root"
    archive "$image" "lab/kind-node:latest node \"Env\":[\"container=docker\"],\"StopSignal\":\"SIGRTMIN+3\",$(
        )\"Entrypoint\":[\"/kind/bin/lab-entrypoint\",\"/usr/local/bin/entrypoint\",\"/sbin/init\"]"
    mv -- "$image/images.tar" "$out"
    printf '%s\n' "$version" >"$out/version"
}

# --- the node, with the variables of make_image -----------------------------------------------------

# as_in_kinds_dockerfile: what images/base/Dockerfile and pkg/build/nodeimage of kind do.
as_in_kinds_dockerfile() {
    local units=$root/lib/systemd/system
    cp -r -- "$kind/base/." "$root"
    find "$root/kind" "$root/etc/systemd/system" "$root/etc/sysctl.d" -type d -exec chmod 755 {} +
    chmod 755 -- "$root"/kind/bin/* "$root"/usr/local/bin/*
    rm -f -- "$units"/sysinit.target.wants/systemd-tmpfiles-setup.service "$units"/multi-user.target.wants/* \
        "$root"/etc/systemd/system/*.wants/* "$units"/local-fs.target.wants/* "$units"/basic.target.wants/* \
        "$units"/sockets.target.wants/*{udev,initctl}*
    echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
    ln -sf -- /usr/lib/systemd/systemd "$root/sbin/init"
    chroot "$root" systemctl --quiet enable kubelet.service containerd.service undo-mount-hacks.service
    chroot "$root" systemctl --quiet mask systemd-binfmt.service
    mkdir -p -- "$root/etc/kubernetes/manifests" "$root/opt/cni/bin" "$root/kind/manifests"
    cp -- "$containerd"/{containerd,containerd-shim-runc-v2,ctr} "$root/usr/local/bin"
    cp -- "$runc/runc" "$root/usr/local/sbin"
    cp -- "$kubernetes"/{kubelet,kubectl} "$kubeadm/kubeadm" "$root/usr/bin"
    cp -- "$plugins"/{host-local,loopback,ptp,portmap} "$root/opt/cni/bin"
    chroot "$root" ctr oci spec |
        jq 'del(.process.rlimits) | .hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}]' \
            >"$root/etc/containerd/cri-base.json"
    printf '%s' "$version" >"$root/kind/version"
    cat >"$root/kind/manifests/default-storage.yaml" <<'END'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/host-path
END
}

# for_this_machine: what only the lab needs.
for_this_machine() {
    local config=$root/etc/containerd/config.toml systemd=$root/etc/systemd/system
    # Debian's sysctls are for the whole machine.
    rm -rf -- "$root"/usr/lib/sysctl.d "$root/etc/sysctl.conf"
    cp -- "$runc_sh" "$root/kind/bin/lab-runc"
    sed -i 's/^ *SystemdCgroup = true/&\n    BinaryName = "\/kind\/bin\/lab-runc"/
        s/restrict_oom_score_adj = false/restrict_oom_score_adj = true/
        s/sandbox_image = .*/sandbox_image = "pausenet\/pause:latest"/' "$config"
    mkdir -p -- "$root/kind/kubelet.conf.d" "$systemd/kubelet.service.d" "$systemd/containerd.service.d"
    cat >"$root/kind/kubelet.conf.d/lab.conf" <<'END'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
oomScoreAdj: 0
END
    printf 'KUBELET_EXTRA_ARGS="%s --config-dir=/kind/kubelet.conf.d"\n' \
        "$(sed -n 's/^KUBELET_EXTRA_ARGS=//p' "$root/etc/default/kubelet")" >"$root/etc/default/kubelet.lab"
    mv -- "$root/etc/default/kubelet.lab" "$root/etc/default/kubelet"

    # kubelet sets these for the whole machine: it gets files to write to instead.
    cat >"$root/kind/bin/lab-sysctls" <<'END'
#!/bin/bash
set -euo pipefail
mkdir -p /run/lab-sysctls
for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
    kernel/keys/root_maxbytes; do
    file=/run/lab-sysctls/${key//\//.}
    [[ ! -e $file ]] || continue
    cat "/proc/sys/$key" >"$file"
    mount --bind "$file" "/proc/sys/$key"
done
END
    printf '[Service]\nExecStartPre=/kind/bin/lab-sysctls\n' >"$systemd/kubelet.service.d/20-lab.conf"
    # On a busy machine the API server needs longer to come up than the minute that kubeadm gives it.
    mv -- "$root/usr/bin/kubeadm" "$root/kind/bin/kubeadm"
    cat >"$root/usr/bin/kubeadm" <<'END'
#!/bin/bash
set -euo pipefail
config=/kind/kubeadm.conf
if [[ -f $config ]] && ! grep -q '^timeouts:' "$config"; then
    sed -i -E 's/^kind: (Init|Join)Configuration$/&\ntimeouts: {kubernetesAPICall: 4m0s}/' "$config"
fi
exec /kind/bin/kubeadm "$@"
END
    # Before the node counts as up, so before kubeadm starts pods.
    printf '[Service]\nExecStartPost=/usr/local/bin/ctr -n k8s.io images import /kind/pause.tar\n' \
        >"$systemd/containerd.service.d/20-lab.conf"

    # systemd mounts all controllers of cgroup v1 that the kernel has, after kind's entrypoint has made kubelet's
    # cgroup in those that the machine has mounted. The others are hidden in the same way as kind hides `misc`, and
    # shown again by the same undo-mount-hacks.service.
    cat >"$root/kind/bin/lab-entrypoint" <<'END'
#!/bin/bash
set -euo pipefail
if [[ ! -f /sys/fs/cgroup/cgroup.controllers ]]; then
    awk 'NR == 1 || $2 != 0' /proc/cgroups >/kind/lab-cgroups
    mount --bind /kind/lab-cgroups /proc/cgroups
fi
exec "$@"
END
    chmod 755 -- "$root"/kind/bin/* "$root/usr/bin/kubeadm"
}

# --- the images in the node -------------------------------------------------------------------------

# images_of_kubernetes FOLDER DEBIAN: an archive of those that kubeadm asks for.
images_of_kubernetes() {
    local folder=$1 debian=$2 name program images=()
    for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd coredns; do
        mkdir -p -- "$work/$program"
        if [[ $program == coredns ]]; then
            cp -- "$kubernetes/coredns" "$work/coredns"
        else
            mkdir -p -- "$work/$program/usr/local/bin" "$work/$program/tmp"
            cp -- "$kubernetes/$program" "$work/$program/usr/local/bin"
        fi
    done
    packet_filters "$debian" "$work/kube-proxy"
    for name in $("$kubeadm/kubeadm" config images list --kubernetes-version "$version" 2>/dev/null); do
        program=${name%:*}
        program=${program##*/}
        case $program in
        pause) ;;
        coredns) images+=("$name coredns \"Entrypoint\":[\"/coredns\"]") ;;
        *) images+=("$name $program \"Cmd\":[\"$program\"]") ;;
        esac
        [[ $program == pause ]] || layer "$folder" "$program" "$work/$program"
    done
    archive "$folder" "${images[@]}"
}

# packet_filters DEBIAN ROOT: the programs that kube-proxy runs, with all their libraries.
packet_filters() {
    local debian=$1 root=$2 file extensions programs=(/bin/sh /usr/sbin/nft /usr/sbin/conntrack /usr/sbin/xtables-nft-multi)
    extensions=$(cd -- "$debian" && echo usr/lib/*/xtables)
    mkdir -p -- "$root/$extensions" "$root/run" "$root/usr/sbin"
    cp -- "$debian/$extensions"/*.so "$root/$extensions"
    {
        printf '%s\n' "${programs[@]}"
        cd -- "$debian/$extensions" && printf "/$extensions/%s\n" *.so | xargs chroot "$debian" ldd "${programs[@]}"
    } | grep -o '/[^ :]*' | sort -u | while read -r file; do
        mkdir -p -- "$root/${file%/*}"
        cp -L -- "$debian$file" "$root$file"
    done
    for file in iptables{,-save,-restore} ip6tables{,-save,-restore}; do
        ln -s -- xtables-nft-multi "$root/usr/sbin/$file"
    done
}

# import ROOT ARCHIVE LOG: as kind does, by running the node's containerd in its root.
import() {
    cp -- "$2" "$1/kind/images.tar"
    # shellcheck disable=SC2016 # expanded in there
    unshare --mount --pid --net --fork --kill-child "$BASH" -euc '
        mount --bind "$1" "$1"
        mount -t proc proc "$1/proc"
        mount -t sysfs sysfs "$1/sys"
        mount -t tmpfs tmpfs "$1/run"
        chroot "$1" containerd & daemon=$!
        deadline=$((SECONDS + 30))
        until chroot "$1" ctr version >/dev/null 2>&1; do
            ((SECONDS < deadline)) || { echo "containerd does not answer" && exit 1; }
            sleep 0.1
        done
        chroot "$1" timeout 120 ctr -n k8s.io images import --label io.cri-containerd.pinned=pinned \
            --all-platforms --no-unpack --digests /kind/images.tar
        kill "$daemon"
        wait "$daemon" || true
    ' import "$1" >"$3" 2>&1 || { tail -n 20 "$3" >&2 && die "the images could not be imported"; }
    rm -- "$1/kind/images.tar"
}

help_if_asked "$@"
(($# == 0)) || usage
image
