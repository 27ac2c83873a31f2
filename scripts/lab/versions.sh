#!/usr/bin/env bash
# Prints with which versions of which programs a group of tests runs.
#
# Use: scripts/lab/versions.sh GROUP      GROUP is a folder of tests/; for one without clients it prints nothing
#
# What is not there yet is not made for this, but left out.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

# built SET PROGRAM: the version that programs.sh builds.
built() { awk -v set="$1" -v program="$2" '$1 == set && $2 == program { print $3 }' <<<"$table"; }

# tell NAME COMMAND...: the name with the first version in what the command prints.
tell() {
    local version
    version=$("${@:2}" 2>&1 </dev/null | grep -Eom 1 '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1) || true
    [[ -z $version ]] || told+=("$1 $version")
}

# debian ROOT PACKAGE: what a root of Debian has installed.
debian() {
    # shellcheck disable=SC2016 # dpkg's own
    dpkg-query --admindir "$1/var/lib/dpkg" --showformat '${Version}\n' --show "$2"
}

told=()
help_if_asked "$@"
(($# == 1)) || usage
table=$("$here/programs.sh" table)
case $1 in
docker)
    if [[ ${DOCKER_VERSION:-28} == 29 ]]; then
        tell 'Docker 29: moby' built docker dockerd # whose own number is another than Docker's
    else
        tell Docker "$(lab_dir)/docker-${DOCKER_VERSION:-28}/dockerd" --version
        tell containerd "$(lab_dir)/docker-${DOCKER_VERSION:-28}/containerd" --version
    fi
    ;;
podman)
    tell podman debian "$(lab_dir)/podman-5/root" podman
    tell netavark debian "$(lab_dir)/podman-5/root" netavark
    tell podman podman --version
    ;;
kubernetes)
    tell Kubernetes built kubernetes kubelet
    tell containerd built containerd containerd
    tell runc built runc runc
    tell etcd built kubernetes etcd
    tell CoreDNS built kubernetes coredns
    tell critest built cri-tools critest
    ;;
e2e) tell e2e.test built e2e e2e.test ;;
daemon)
    tell Kubernetes built kubernetes kube-apiserver
    tell etcd built kubernetes etcd
    ;;
cnitool)
    tell cnitool built cni cnitool
    tell cnitool built cni-1.1 cnitool
    ;;
peers)
    tell 'reference plugins' built plugins bridge
    tell 'reference plugins' debian / containernetworking-plugins
    ;;
esac
(IFS=, && printf '%s\n' "${told[*]}" | sed 's/,/, /g')
