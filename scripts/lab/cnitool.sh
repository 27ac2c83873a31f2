#!/usr/bin/env bash
# Prints the path of a working cnitool, libcni's own command-line client: the runtime's side of CNI.
#
# Use: scripts/lab/cnitool.sh [1.1|1.3]
#
#   1.3   (default) from Debian sid: CNI 1.1.0, with gc and status
#   1.1   from Debian bookworm: CNI 1.0.0
#
# Then, as root:
#   NETCONFPATH=DIR CNI_PATH=PLUGINS "$(scripts/lab/cnitool.sh)" add NETWORK /run/netns/NAME
#
# It is built, statically, from upstream's release in Debian's source package golang-github-appc-cni
# (Debian's patches change only tests and the Go API), and kept in the lab's cache (see lib.sh). 1.1 is built
# with the machine's golang-go. 1.3 needs a newer Go than bookworm's, so sid's is unpacked for the build and
# removed afterwards.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# build_cnitool OUT WORK VERSION
build_cnitool() {
    local out=$1 work=$2 version=$3 source goroot gocode
    case $version in
    1.1)
        need_packages golang-go golang-github-spf13-cobra-dev
        source=$(bookworm_upstream golang-github-appc-cni)
        goroot=$(go env GOROOT)
        gocode=/usr/share/gocode
        ;;
    1.3)
        source=$(sid_upstream golang-github-appc-cni)
        local go=1.26
        if ! sid_depends "golang-$go-go" >/dev/null; then # sid has moved on: take its default
            go=$(sid_depends golang-go | sed -n 's/^golang-\([0-9.]*\)-go$/\1/p')
        fi
        sid_unpack "$work/deb" "golang-$go-go" "golang-$go-src" \
            golang-github-spf13-cobra-dev golang-github-spf13-pflag-dev
        goroot=$work/goroot
        cp -rL -- "$work/deb/usr/lib/go-$go" "$goroot" # one folder: its src and pkg are links into share
        gocode=$work/deb/usr/share/gocode
        ;;
    esac
    local tree=$work/gopath/src/github.com/containernetworking/cni
    mkdir -p -- "${tree%/*}"
    cp -r -- "$source" "$tree"
    say "building cnitool $version"
    env -i PATH="$PATH" HOME="$work" GOROOT="$goroot" GOPATH="$work/gopath:$gocode" GOCACHE="$work/cache" \
        GOTMPDIR="$work" GOENV=off GOTOOLCHAIN=local GOPROXY=off GO111MODULE=off CGO_ENABLED=0 \
        "$goroot/bin/go" build -trimpath -buildvcs=false -o "$out/cnitool" \
        github.com/containernetworking/cni/cnitool >&2
    local help
    help=$("$out/cnitool" 2>&1 || true)
    [[ $help == *add* && ($version == 1.1 || $help == *gc*status*) ]] || die "not a cnitool $version: $help"
}

main() {
    help_if_asked "$@"
    local version=${1:-1.3} target
    [[ $# -le 1 && ($version == 1.1 || $version == 1.3) ]] || usage
    target=$(lab_dir)/cnitool-$version
    lab_once "$target" build_cnitool "$version"
    printf '%s\n' "$target/cnitool"
}

main "$@"
