#!/usr/bin/env bash
# Prints the path of docker-compose, to run compose files with the daemon of docker.sh.
#
# Use: scripts/lab/compose.sh
#
# It is Debian sid's, a 2.x, unpacked in the lab's cache (see lib.sh).

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

make_compose() {
    local out=$1 work=$2
    sid_unpack "$work" docker-compose
    cp -- "$work/usr/libexec/docker/cli-plugins/docker-compose" "$out"
    "$out/docker-compose" version >&2 || die "docker-compose does not run on this machine"
}

help_if_asked "$@"
(($# == 0)) || usage
target=$(lab_dir)/docker-compose-2
lab_once "$target" make_compose
printf '%s\n' "$target/docker-compose"
