#!/usr/bin/env bash
# Runs kernel tests (tests/kernel) on another kernel, in a virtual machine.
#
# Use: scripts/lab/kernel-tests.sh KERNEL [FILTER...]
#      scripts/lab/kernel-tests.sh KERNEL without     that kernel without one part after the other
#
# KERNEL is one that vm.sh knows: 5.10, 6.1, 6.12 or sid. FILTER is a part of a test's name; without one, a
# selection runs that has every mode, VLANs, published ports, masquerade, bandwidth, MAC checks, CHECK, GC and
# STATUS. All of them (`scripts/lab/kernel-tests.sh 6.1 ::`) take twenty minutes. They test this checkout's plugin,
# built without optimisation, or the one in the folder PAUSENET_PROGRAMS.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../cargo.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../cargo.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

SELECTED=(vlan:: ptp:: bandwidth:: check:: spoof:: status:: loopback:: traffic::
    gc::gc_removes masquerade::traffic ports::a_mapped portmap::mapped host_local::)
# What a kernel is booted without: options for its command line, and the tests of that.
WITHOUT=(
    "module_blacklist=nf_tables,sch_tbf,ifb" "lacking::nf_tables lacking::rate_limits"
    "module_blacklist=bridge,sch_ingress,nft_masq" "lacking::bridges lacking::redirection lacking::masquerade"
    "ipv6.disable=1 module_blacklist=nf_conntrack_netlink" "lacking::ipv6 lacking::conntrack"
    "module_blacklist=veth" "lacking::pairs"
)
LIMIT=900 # seconds

help_if_asked "$@"
(($#)) || usage
kernel=$1
shift
(($#)) || set -- "${SELECTED[@]}"
cd -- "$here/../.." || exit
find_cargo . || die "Rust is missing: see https://rustup.rs"
# executable NAME ARG...: where cargo puts an executable.
executable() {
    "${cargo[@]}" "${@:2}" --locked --workspace --message-format=json-render-diagnostics |
        sed -n "s/.*\"executable\":\"\([^\"]*\/$1\(-[0-9a-f]*\)\{0,1\}\)\".*/\1/p" | head -n 1
}
tests=$(executable kernel test --no-run --test kernel)
[[ -n ${PAUSENET_PROGRAMS-} ]] || PAUSENET_PROGRAMS=$(dirname -- "$(executable pausenet build --bins)")
[[ -x $tests && -x $PAUSENET_PROGRAMS/pausenet ]] || die "there are no tests, or no pausenet"
# Nothing can be fetched or installed in there.
PAUSENET_PEERS=$("$here/peers.sh" bookworm)
PAUSENET_PEERS_TODAY=$("$here/peers.sh" today)
PAUSENET_NFT_SID=$("$here/nft.sh")
export PAUSENET_PROGRAMS PAUSENET_PEERS PAUSENET_PEERS_TODAY PAUSENET_NFT_SID VM_LIMIT=$LIMIT
if [[ $* == without ]]; then
    for ((at = 0; at < ${#WITHOUT[@]}; at += 2)); do
        read -ra names <<<"${WITHOUT[at + 1]}"
        say "kernel tests on $kernel with ${WITHOUT[at]}"
        VM_OPTIONS=${WITHOUT[at]} "$here/vm.sh" "$kernel" "$tests" --ignored --test-threads=2 --color=never "${names[@]}"
    done
    exit
fi
say "kernel tests on $kernel: $*"
# shellcheck disable=SC2016 # expanded in there
"$here/vm.sh" "$kernel" sh -c 'printf "with Linux %s\n" "$(uname -r)" && exec "$@"' - "$tests" --test-threads=2 --color=never "$@"
