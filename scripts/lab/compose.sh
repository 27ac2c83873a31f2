#!/usr/bin/env bash
# Prints the path of docker-compose, to run compose files with the daemon of docker.sh.
#
# Use: scripts/lab/compose.sh
#
# It is Debian bookworm's 1.29, unpacked in the lab's cache (see lib.sh) with the Python packages that it
# needs.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

make_compose() {
    local out=$1 work=$2
    need_packages python3
    bookworm_unpack "$work" docker-compose python3-{docker,dockerpty,docopt,dotenv,jsonschema,attr} \
        python3-{pyrsistent,importlib-metadata,requests,certifi,chardet,idna,urllib3,texttable} \
        python3-{charset-normalizer,websocket,yaml,six,packaging,pkg-resources,setuptools}
    cp -r -- "$work/usr/lib/python3/dist-packages" "$out/packages"
    cp -- "$work/usr/bin/docker-compose" "$out/program"
    # shellcheck disable=SC2016 # expanded by the program
    printf '%s\n' '#!/bin/sh' 'here=$(dirname -- "$0")' \
        'PYTHONPATH=$here/packages exec /usr/bin/python3 "$here/program" "$@"' >"$out/docker-compose"
    chmod 755 -- "$out/docker-compose"
    "$out/docker-compose" version >&2 || die "docker-compose does not run on this machine"
}

help_if_asked "$@"
(($# == 0)) || usage
target=$(lab_dir)/docker-compose
lab_once "$target" make_compose
printf '%s\n' "$target/docker-compose"
