#!/usr/bin/env bash
# Prints the path of netavark, with which podman makes networks, built from its crate. scripts/bench measures it.
#
# Use: scripts/lab/netavark.sh

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=../cargo.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/../cargo.sh"

VERSION=2.1.0

make_netavark() {
    local out=$1 work=$2 cargo=("${@:4}")
    # --locked: with the versions that its authors tested.
    CARGO_TARGET_DIR=$work/target "${cargo[@]}" install --quiet --locked --version "$3" --root "$out" netavark >&2
}

main() {
    help_if_asked "$@"
    (($# == 0)) || usage
    local cargo target
    target=$(lab_dir)/netavark-$VERSION
    if [[ ! -e $target ]]; then
        find_cargo . || die "Rust is missing: see https://rustup.rs"
        need_packages gcc libc6-dev protobuf-compiler
        say "building netavark $VERSION"
        lab_once "$target" make_netavark "$VERSION" "${cargo[@]}"
    fi
    printf '%s\n' "$target/bin/netavark"
}

main "$@"
