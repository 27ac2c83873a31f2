#!/usr/bin/env bash
# Runs Docker tests (tests/docker) with another Docker than the one that they usually have.
#
# Use: scripts/lab/docker-tests.sh VERSION [FIREWALL] [-- FILTER...]
#
# VERSION is one that docker.sh knows, FIREWALL iptables (default) or nftables (29 only). FILTER is a part of a
# test's name; without one, a selection runs that has anchors, published ports, the firewall, recreated and
# restarted containers, and the daemon's restart.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

SELECTED=(client:: connected_container:: docs_page:: firewall:: image:: publish:: reanchor:: shared_network:: up::
    watch::)
LIMIT=900 # seconds

help_if_asked "$@"
[[ $# -gt 0 && $1 != -* ]] || usage
export DOCKER_VERSION=$1 DOCKER_FIREWALL=
more=() # tests that are only for that firewall
shift
if (($#)) && [[ $1 != -- ]]; then
    [[ $1 == iptables ]] || DOCKER_FIREWALL=$1 more=(--include-ignored)
    shift
fi
if (($#)); then
    shift
else
    set -- "${SELECTED[@]}"
fi
PAUSENET_DOCKER=$("$here/docker.sh" tools)
export PAUSENET_DOCKER
say "Docker tests with $DOCKER_VERSION${DOCKER_FIREWALL:+ and $DOCKER_FIREWALL}: $*"
printf 'with %s\n' "$("$here/versions.sh" docker)"
# In a process group of its own, so that the limit, and a signal to this script, end all of it.
set -m
timeout --kill-after=30 "$LIMIT" "$here/../test.sh" --test docker -- "${more[@]}" "$@" &
job=$!
set +m
trap 'kill -TERM -- "-$job"; wait "$job"; exit 143' INT TERM HUP
wait "$job"
