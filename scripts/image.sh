#!/usr/bin/env bash
# Makes the container images of pausenet: pausenet/pause, one static binary and nothing under it, and
# pausenet/node, the same with the node daemon, the plugin that it installs, and pausectl.
#
# What comes out is a docker-archive, the one form that `docker load`, `podman load` and
# `ctr images import` all take under the image's short name: each completes that as it does a name
# that is typed, so "pausenet/pause" finds the image everywhere. (In an OCI layout containerd takes a
# name as it stands, and its CRI then looks for another.) Nothing is fetched and no runtime is asked:
# a layer is a tar, and the rest is JSON. The same binaries give the same bytes, and the same source
# the same binaries: names are sorted, owners are numbers, and the clock stands at 1970.
#
# Needs bash, coreutils, sed and GNU tar; and Rust, unless the binaries are built already: root's, or
# that of the user whose checkout it is.

set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source-path=SCRIPTDIR source=cargo.sh
source "$repo/scripts/cargo.sh"

EPOCH=1970-01-01T00:00:00Z

usage() {
    cat <<'END'
Makes a container image of pausenet, as a file for docker, podman and containerd: pausenet/pause,
which is pause alone, or pausenet/node, with pausenetd, pausenet, pausectl and pause.

Usage: scripts/image.sh [--node] [--output FILE] [--binary FILE | --binaries DIR]

  -n, --node           make pausenet/node
  -o, --output FILE    where to write it; - is stdout (default: pause-image.tar or node-image.tar in
                       this folder)
  -b, --binary FILE    the pause to put in (default: this checkout's, which is built for release)
      --binaries DIR   a folder with the binaries to put in, instead of building them
  -h, --help           this text

An image has two tags: the version in Cargo.toml, and latest.

Examples:
  scripts/image.sh --output - | docker load
  scripts/image.sh --node -o node.tar && ctr -n k8s.io images import node.tar
  scripts/image.sh -o pause.tar && podman load -i pause.tar
  scripts/image.sh -o pause.tar && ctr -n k8s.io images import pause.tar
  docker run -d --net=none --name anchor pausenet/pause
END
}

say() { printf 'image: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

main() {
    local image=pause output='' binary='' binaries=''
    while (($#)); do
        case $1 in
        -h | --help) usage && exit ;;
        -n | --node) image=node && shift ;;
        -o | --output)
            output=$(value "$@")
            shift 2
            ;;
        -b | --binary)
            binary=$(value "$@")
            shift 2
            ;;
        --binaries)
            binaries=$(value "$@")
            shift 2
            ;;
        --output=?*) output=${1#*=} && shift ;;
        --binary=?*) binary=${1#*=} && shift ;;
        --binaries=?*) binaries=${1#*=} && shift ;;
        *) say "unknown argument '$1', see --help" && exit 2 ;;
        esac
    done
    [[ -z $binary || $image == pause && -z $binaries ]] || die "--binary is for a pause alone, see --help"
    output=${output:-$image-image.tar}
    [[ $output != - || ! -t 1 ]] || die "an image is nothing for a terminal: send it on, or see --help"

    work=$(mktemp -d)
    trap 'rm -rf -- "$work" ${unfinished:+"$unfinished"}' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "image_$image"
    gather "$work/root"
    make_image "$work/image" "$work/root"
    deliver "$work/image" "$output"
}

# What an image is: its name, the user (Nobody as in Kubernetes' own pause image, one that the host
# does not have; root for the node's network), the binary that runs, and those that lie beside it.

image_pause() {
    NAME=pausenet/pause USER_ID=65535:65535 RUNS=pause BESIDE=()
    DESCRIPTION='Holds the namespaces of a pod, reaps zombies, and does nothing else'
}

image_node() {
    NAME=pausenet/node USER_ID=0:0 RUNS=pausenetd BESIDE=(pausenet pausectl pause)
    DESCRIPTION='The network of a Kubernetes node: the daemon, and the plugin that it installs'
}

# gather DIR: puts the binaries there. Copies, so that what is looked at is what goes in.
gather() {
    local name file
    for name in "$RUNS" "${BESIDE[@]}"; do
        if [[ -n $binary ]]; then
            file=$binary
        elif [[ -n $binaries ]]; then
            file=$binaries/$name
        else
            file=$(build "$name") || die "the build failed"
        fi
        [[ -f $file && -r $file ]] || die "cannot read the binary $file"
        install -D -m 755 -- "$file" "$1/$name"
    done
}

# value OPTION [FILE]...
value() {
    [[ -n ${2-} ]] || die "$1 needs a file, see --help"
    printf %s "$2"
}

# build NAME: prints the path of this checkout's binary, built by itself: a package that is built
# together with others may get their features of what both depend on.
build() {
    local cargo
    find_cargo "$repo" || die "cargo is not to be found; Rust comes from https://rustup.rs"
    cd -- "$repo" || return # where .cargo/config.toml says that binaries are static
    local messages
    messages=$("${cargo[@]}" build --release --locked --package "$1" \
        --message-format=json-render-diagnostics) || return
    sed -n "s/.*\"executable\":\"\([^\"]*\/$1\)\".*/\1/p" <<<"$messages"
}

# --- the image ------------------------------------------------------------------------------------

# make_image DIR ROOT: makes the folder DIR, an image with what is in ROOT as its one layer.
make_image() {
    local dir=$1 root=$2 version architecture layer config
    version=$(of_cargo_toml version)
    architecture=$(architectures "$root")

    mkdir -p -- "$dir/blobs/sha256"
    layer=$(pack "$root" | blob "$dir")
    config=$(config | blob "$dir")
    printf '[{"Config":"blobs/sha256/%s","RepoTags":["%s","%s"],"Layers":["blobs/sha256/%s"]}]' \
        "$config" "$NAME:$version" "$NAME:latest" "$layer" >"$dir/manifest.json"
}

# config: prints it, by the variables of make_image.
config() {
    cat <<END
{
  "created": "$EPOCH",
  "architecture": "$architecture",
  "os": "linux",
  "config": {
    "User": "$USER_ID",
    "Entrypoint": ["/$RUNS"],
    "WorkingDir": "/",
    "Labels": {
      "org.opencontainers.image.title": "$NAME",
      "org.opencontainers.image.description": "$DESCRIPTION",
      "org.opencontainers.image.version": "$version",
      "org.opencontainers.image.licenses": "$(of_cargo_toml license)"
    }
  },
  "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]},
  "history": [{"created": "$EPOCH", "created_by": "scripts/image.sh"}]
}
END
}

# blob DIR: stores stdin under its digest, and prints that.
blob() {
    local digest
    cat >"$1/blob"
    digest=$(sha256sum <"$1/blob")
    digest=${digest%% *}
    mv -- "$1/blob" "$1/blobs/sha256/$digest"
    printf '%s' "$digest"
}

# pack DIR: what is in the folder as a tar, the same bytes whoever packs it, wherever and whenever.
pack() {
    (
        cd -- "$1"
        printf '%s\0' * | tar --create --null --files-from=- --sort=name --owner=0 --group=0 --numeric-owner \
            --mode=u=rwX,go=rX --mtime=@0 --format=ustar --blocking-factor=20
    )
}

# deliver DIR OUTPUT: all of it or nothing.
deliver() {
    if [[ $2 == - ]]; then
        pack "$1"
        return
    fi
    mkdir -p -- "$(dirname -- "$2")"
    unfinished=$(mktemp -- "$2.XXXXXX")
    pack "$1" >"$unfinished"
    chmod "$(printf %o $((0666 & ~$(umask))))" -- "$unfinished"
    mv -T -- "$unfinished" "$2"
    printf '%s\n' "$2"
}

# --- what goes into it ----------------------------------------------------------------------------

# of_cargo_toml KEY: a text that all packages of the workspace share.
of_cargo_toml() {
    local value
    value=$(sed -n "s/^$1 = \"\(.*\)\"\$/\1/p; /^\[workspace.dependencies/q" "$repo/Cargo.toml")
    [[ -n $value ]] || die "Cargo.toml has no $1"
    printf '%s' "$value"
}

# architectures DIR: what an image calls the machine of the binaries there, which is one.
architectures() {
    local file one machine=''
    for file in "$1"/*; do
        one=$(architecture "$file")
        [[ -z $machine || $machine == "$one" ]] || die "the binaries are for $machine and for $one"
        machine=$one
    done
    printf '%s' "$machine"
}

# architecture BINARY: what an image calls the machine that an ELF header names. A binary that would
# not start, for want of a libc in the image, is refused.
architecture() {
    local machine start size count i
    [[ $(field "$1" 0 4 x) == 464c457f && $(field "$1" 4 2 x) == 0102 ]] ||
        die "not a program for 64-bit Linux, little-endian: $(shown "$1")"
    start=$(field "$1" 32 8) size=$(field "$1" 54 2) count=$(field "$1" 56 2)
    for ((i = 0; i < count; i++)); do # its program headers: 2 is DYNAMIC, 3 is INTERP
        [[ $(field "$1" $((start + i * size)) 4) != [23] ]] || die "not a static binary: $(shown "$1")"
    done
    machine=$(field "$1" 18 2)
    case $machine in
    62) printf amd64 ;;
    183) printf arm64 ;;
    *) die "a binary for a machine that pause does not know (ELF number $machine): $(shown "$1")" ;;
    esac
}

# shown FILE: a gathered binary by the path that it came from, as far as the user named one.
shown() {
    [[ -n $binary ]] && printf '%s' "$binary" || printf '%s' "${binaries:+$binaries/}${1##*/}"
}

# field FILE OFFSET SIZE [x]: a number of an ELF file, decimal or hexadecimal.
field() {
    local number
    number=$(od -A n --endian=little -t "${4:-u}$3" -j "$2" -N "$3" -- "$1")
    printf '%s' "${number//[[:space:]]/}"
}

main "$@"
