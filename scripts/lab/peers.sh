#!/usr/bin/env bash
# Prints a folder with the reference CNI plugins (bridge, ptp, host-local, portmap...), which pausenet replaces,
# is chained with, compared with and measured against.
#
# Use: scripts/lab/peers.sh [bookworm|1.9|today]
#
#   bookworm   (default) 1.1.1, the machine's package containernetworking-plugins
#   1.9        1.9.1, built by programs.sh; only those that scripts/bench measures
#   today      1.10.0, built by programs.sh

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# check_plugins DIR: check that they exist and run.
check_plugins() {
    local name answer
    for name in bridge ptp host-local loopback portmap; do
        answer=$(CNI_COMMAND=VERSION "$1/$name" <<<'{"cniVersion":"1.0.0"}') || die "$1/$name does not run"
        [[ $answer == *supportedVersions*1.0.0* ]] || die "$1/$name does not speak CNI 1.0.0: $answer"
    done
}

main() {
    help_if_asked "$@"
    local suite=${1:-bookworm} target changed
    (($# <= 1)) || suite=
    case $suite in
    bookworm)
        need_packages containernetworking-plugins
        target=/usr/lib/cni
        # They may have been replaced, for example by pausenet.
        changed=$(dpkg --verify containernetworking-plugins | grep -F " $target/" || true)
        [[ -z $changed ]] || die "changed since the package containernetworking-plugins was installed:"$'\n'"$changed"
        check_plugins "$target"
        ;;
    1.9) target=$("$(dirname -- "${BASH_SOURCE[0]}")/programs.sh" get plugins-1.9) ;;
    today) target=$("$(dirname -- "${BASH_SOURCE[0]}")/programs.sh" get plugins) ;;
    *) usage ;;
    esac
    printf '%s\n' "$target"
}

main "$@"
