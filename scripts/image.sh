#!/usr/bin/env bash
# Makes the container images of pausenet: pausenet/pause, one static binary on an empty base, and
# pausenet/node, with the node daemon, the plugin that it installs, pausectl and pause.
#
# The output is a docker-archive: the one format that `docker load`, `podman load` and `ctr images import`
# all import under the image's short name. Each completes that name as it completes a typed one, so
# "pausenet/pause" finds the image everywhere. (From an OCI layout containerd takes the name literally, and
# its CRI then looks for a longer one.) The script needs no network and no runtime: a layer is a tar, and the
# rest is JSON. The same source gives the same binaries, and those the same bytes: names are sorted, owners
# are numbers, and every time is 1970.
#
# Needs bash, coreutils, sed and GNU tar; and Rust (root's, or that of the checkout's owner), unless the
# binaries are given.

set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source-path=SCRIPTDIR source=cargo.sh
source "$repo/scripts/cargo.sh"

EPOCH=1970-01-01T00:00:00Z

usage() {
    cat <<'END'
Makes a container image of pausenet, as a file for docker, podman and containerd: pausenet/pause, with
pause alone, or pausenet/node, with pausenetd, pausenet, pausectl and pause.

Usage: scripts/image.sh [--node] [--output FILE] [--binary FILE | --binaries DIR]

  -n, --node           make pausenet/node
  -o, --output FILE    where to write it; - is stdout (default: pause-image.tar or node-image.tar in
                       this folder)
  -b, --binary FILE    the pause to put in (default: built from this checkout, for release)
      --binaries DIR   take the binaries from this folder instead of building them
  -h, --help           print this text

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
    [[ $output != - || ! -t 1 ]] || die "refusing to write an image to a terminal: redirect it, or see --help"

    work=$(mktemp -d)
    trap 'rm -rf -- "$work" ${unfinished:+"$unfinished"}' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "image_$image"
    gather "$work/root"
    make_image "$work/image" "$work/root"
    deliver "$work/image" "$output"
}

# Each image: its name, its user (for pause the one of Kubernetes' own pause image, which hosts do not have;
# root for the node's network), the binary that it runs, and the other binaries in it.

image_pause() {
    NAME=pausenet/pause USER_ID=65535:65535 RUNS=pause BESIDE=()
    DESCRIPTION='Holds the namespaces of a pod, reaps zombies, and does nothing else'
}

image_node() {
    NAME=pausenet/node USER_ID=0:0 RUNS=pausenetd BESIDE=(pausenet pausectl pause)
    DESCRIPTION='The network of a Kubernetes node: the daemon, and the plugin that it installs'
}

# gather DIR: copy the binaries there, so that the files that are checked are those that go in.
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

# build NAME: build one package and print the path of its binary. One at a time: packages that are built
# together share the features of their common dependencies.
build() {
    local cargo target=()
    find_cargo "$repo" || die "cargo was not found; get Rust from https://rustup.rs"
    cd -- "$repo" || return # .cargo/config.toml there makes binaries static
    [[ $1 != pausenet ]] || target=(--target "$(plugin_target)")
    local messages
    messages=$("${cargo[@]}" build --release --locked --package "$1" "${target[@]}" \
        --message-format=json-render-diagnostics) || return
    sed -n "s/.*\"executable\":\"\([^\"]*\/$1\)\".*/\1/p" <<<"$messages"
}

# --- the image ------------------------------------------------------------------------------------

# make_image DIR ROOT: make the folder DIR, an image whose one layer is what ROOT contains.
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

# config: print the image's configuration, from the variables of make_image.
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

# blob DIR: store stdin under its digest, and print the digest.
blob() {
    local digest
    cat >"$1/blob"
    digest=$(sha256sum <"$1/blob")
    digest=${digest%% *}
    mv -- "$1/blob" "$1/blobs/sha256/$digest"
    printf '%s' "$digest"
}

# pack DIR: print the folder's contents as a tar, the same bytes on every machine at any time.
pack() {
    (
        cd -- "$1"
        printf '%s\0' * | tar --create --null --files-from=- --sort=name --owner=0 --group=0 --numeric-owner \
            --mode=u=rwX,go=rX --mtime=@0 --format=ustar --blocking-factor=20
    )
}

# deliver DIR OUTPUT: write the archive, completely or not at all.
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

# of_cargo_toml KEY: print a string that all packages of the workspace share.
of_cargo_toml() {
    local value
    value=$(sed -n "s/^$1 = \"\(.*\)\"\$/\1/p; /^\[workspace.dependencies/q" "$repo/Cargo.toml")
    [[ -n $value ]] || die "Cargo.toml has no $1"
    printf '%s' "$value"
}

# architectures DIR: print the image's name for the architecture of the binaries there; they must agree.
architectures() {
    local file one machine=''
    for file in "$1"/*; do
        one=$(architecture "$file")
        [[ -z $machine || $machine == "$one" ]] || die "the binaries are for $machine and for $one"
        machine=$one
    done
    printf '%s' "$machine"
}

# architecture BINARY: print the image's name for the architecture in an ELF header. A dynamic binary is
# refused: it would not start, since the image has no libc.
architecture() {
    local machine start size count i
    [[ $(field "$1" 0 4 x) == 464c457f && $(field "$1" 4 2 x) == 0102 ]] ||
        die "not a program for 64-bit Linux, little-endian: $(shown "$1")"
    start=$(field "$1" 32 8) size=$(field "$1" 54 2) count=$(field "$1" 56 2)
    for ((i = 0; i < count; i++)); do # program headers: 2 is DYNAMIC, 3 is INTERP
        [[ $(field "$1" $((start + i * size)) 4) != [23] ]] || die "not a static binary: $(shown "$1")"
    done
    machine=$(field "$1" 18 2)
    case $machine in
    62) printf amd64 ;;
    183) printf arm64 ;;
    *) die "a binary for an unsupported architecture (ELF machine $machine): $(shown "$1")" ;;
    esac
}

# shown FILE: print a gathered binary's original path, where the user gave one.
shown() {
    [[ -n $binary ]] && printf '%s' "$binary" || printf '%s' "${binaries:+$binaries/}${1##*/}"
}

# field FILE OFFSET SIZE [x]: print a number in an ELF file, decimal or hexadecimal.
field() {
    local number
    number=$(od -A n --endian=little -t "${4:-u}$3" -j "$2" -N "$3" -- "$1")
    printf '%s' "${number//[[:space:]]/}"
}

main "$@"
