#!/usr/bin/env bash
# Runs every test, on a Debian or Ubuntu machine that has Rust and nothing else yet.
#
# Use: scripts/test.sh [ARGUMENT OF cargo test]...        for example scripts/test.sh --test crash
#      scripts/test.sh --setup                            packages and peers only, no tests
#
# Installs missing Debian packages (as root) or names them (otherwise). The tests make networks, so they
# need root; everything they make is in namespaces of their own, and the machine stays as it is. If you are
# not root, they run in a user namespace.
#
# The clients and peers that pausenet is tested with (cnitool, Docker, podman, Kubernetes, the reference
# plugins) come from Debian too; see scripts/README.md. A test that cannot run here prints a line with SKIPPED
# and the reason. With CI=true that is a failure, unless the kernel lacks a feature.

set -euo pipefail
# shellcheck source=lab/lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lab/lib.sh"
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# What every test needs: a linker for Rust, and the tools that the tests themselves run.
NEEDED=(gcc libc6-dev iproute2 iputils-ping mount nftables util-linux strace)
# What tests with clients and peers need; a user who is not root and lacks them skips those tests.
LAB=(iptables containernetworking-plugins debian-archive-keyring dnsmasq-base podman runc busybox-static jq openssl)

packages() {
    ((EUID == 0)) && { need_packages "${NEEDED[@]}" "${LAB[@]}"; return; }
    local missing all
    lab__missing "${NEEDED[@]}" "${LAB[@]}"
    all=${missing[*]}
    [[ -n $all ]] || return 0
    say "missing packages; do: sudo apt-get install --no-install-recommends $all"
    lab__missing "${NEEDED[@]}"
    ((${#missing[@]} == 0)) || exit 1
    say "continuing without them: the tests that need them are skipped"
}

rust() {
    command -v cargo >/dev/null || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    command -v cargo >/dev/null || die "Rust is missing: see https://rustup.rs"
}

# peer VARIABLE SCRIPT ARG...: set the variable by which tests find a peer; empty means unavailable. This
# happens here because nothing can be installed in a user namespace.
peer() {
    local variable=$1 path
    shift
    [[ -z ${!variable+set} ]] || return 0
    path=$("scripts/lab/$1.sh" "${@:2}") || path=
    export "$variable=$path"
}

# Build the programs that the tests run, and print their folder.
programs() {
    local messages
    messages=$(cargo build --locked "${what[@]}" --bins --message-format=json-render-diagnostics)
    messages=$(sed -n 's/.*"executable":"\([^"]*\)\/pausenet".*/\1/p' <<<"$messages")
    [[ -n $messages ]] || die "cargo built no pausenet"
    printf '%s\n' "$messages"
}

# Set `become_root` to the command that runs another as root of network and mount namespaces.
namespaces() {
    become_root=()
    ((EUID != 0)) || return 0
    become_root=(unshare --user --map-root-user --net --mount --)
    local problem
    problem=$("${become_root[@]}" sh -c 'mount -t tmpfs tmpfs /run && ip link set lo up' 2>&1) && return
    say "this machine does not let you make user namespaces: ${problem##*$'\n'}"
    if [[ $(sysctl_value kernel.apparmor_restrict_unprivileged_userns) == 1 ]]; then
        say "AppArmor forbids them (the default on Ubuntu); to allow them until the next boot:"
        say "  sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    elif [[ $(sysctl_value kernel.unprivileged_userns_clone) == 0 ]]; then
        say "to allow them until the next boot: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    fi
    die "or run the tests as root: sudo env PATH=\"\$PATH\" HOME=\"\$HOME\" scripts/test.sh"
}

sysctl_value() { cat "/proc/sys/${1//.//}" 2>/dev/null || true; }

# totals LOG: set passed, failed and ignored from the results of all test programs.
totals() {
    read -r passed failed ignored < <(
        sed -n 's/^test result: [^.]*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' "$1" |
            awk '{ p += $1; f += $2; i += $3 } END { print p + 0, f + 0, i + 0 }'
    )
}

# groups LOG: how long each group of tests took, how many passed, and with which clients.
groups() {
    local seconds passed name
    awk '/^ *Running / { name = $2 == "unittests" ? "unit tests" : $2; sub("/main.rs$", "", name) }
        /^ *Doc-tests / { name = "examples in the documentation" }
        /^test result: .* finished in / && $4 > 0 { printf "%.1f %d %s\n", $NF, $4, name }' "$1" | sort -rn |
        while read -r seconds passed name; do
            printf '  %7.1f s  %4d passed  %-12s %s\n' "$seconds" "$passed" "$name" "$(scripts/lab/versions.sh "$name")"
        done
}

main() {
    local start=$SECONDS built status=0 passed failed ignored skipped become_root log
    help_if_asked "$@"
    packages
    [[ ${1-} == --setup ]] || rust
    namespaces
    peer PAUSENET_CNITOOL programs get cni
    peer PAUSENET_CNITOOL_1_1 programs get cni-1.1
    peer PAUSENET_PEERS peers bookworm
    peer PAUSENET_PEERS_TODAY peers today
    peer PAUSENET_NFT_SID nft
    if ((EUID == 0)); then # a daemon needs a real root
        peer PAUSENET_DOCKER docker tools
        peer PAUSENET_DOCKER_IMAGES docker images
        peer PAUSENET_PODMAN_5 podman5 tools
        peer PAUSENET_CONTAINERD containerd tools
        peer PAUSENET_CRI_TOOLS programs get cri-tools
        peer PAUSENET_KUBERNETES kubernetes tools # builds of some minutes, once
        peer PAUSENET_COREDNS images coredns
    fi
    [[ ${1-} != --setup ]] || return 0

    # Build outside the user namespace, which has no network to fetch crates from.
    local what=(--workspace)
    cargo test --locked --no-run "${what[@]}" "$@"
    PAUSENET_PROGRAMS=$(programs)
    export PAUSENET_PROGRAMS
    built=$SECONDS

    log=$(mktemp)
    # shellcheck disable=SC2064 # expand now: it is a local
    trap "rm -f -- '$log'" EXIT
    "${become_root[@]}" cargo test --locked --offline --no-fail-fast "${what[@]}" "$@" 2>&1 </dev/null | tee "$log" || status=1

    totals "$log"
    skipped=$(grep -c '^SKIPPED ' "$log" || true)
    # The test harness counts a test that returns early as passed.
    passed=$((passed - skipped))
    skipped=$((skipped + ignored))
    if ((status != 0 && failed == 0)); then
        failed=1 # a test program that ended before it printed a result
    fi
    printf '\nbuilt in %d s, ran in %d s' $((built - start)) $((SECONDS - built))
    ((EUID == 0)) || printf ', in a user namespace'
    printf '\n'
    printf 'groups:\n'
    groups "$log"
    if grep -q '^MEASURED ' "$log"; then
        printf 'measured:\n'
        sed -n 's/^MEASURED /  /p' "$log"
    fi
    if ((skipped)); then
        printf 'skipped:\n'
        grep '^SKIPPED \|^test .* \.\.\. ignored' "$log" | sed 's/^/  /'
    fi
    if ((failed)); then
        printf 'failed:\n'
        sed -n 's/^test \(.*\) \.\.\. FAILED$/  \1/p' "$log"
    fi
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    return "$status"
}

main "$@"
