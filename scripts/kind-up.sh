#!/usr/bin/env bash
# Makes a kind cluster of two nodes with pausenet as its network.

set -euo pipefail
shopt -s inherit_errexit

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source-path=SCRIPTDIR source=steps.sh
source "$repo/scripts/steps.sh"

usage() {
    cat <<'END'
Makes a kind cluster with pausenet as its network, and waits until its nodes are Ready.

Usage: scripts/kind-up.sh [--name NAME] [--dual-stack] [--node-image IMAGE] [--binaries DIR] [--dry-run]

  --name NAME          the cluster's name (default: pausenet)
  --dual-stack         an IPv4 and an IPv6 address for each pod: conf/kind/dual-stack.yaml
  --node-image IMAGE   kind's node image (default: that of the installed kind)
  --binaries DIR       take pausenet's binaries from this folder instead of building them
  --dry-run            print the steps and change nothing
  -h, --help           print this text

Needs docker (with a running daemon), kind and kubectl; the first run fetches kind's node image. A step
that fails says which it was, why, and what to try.

Examples:
  scripts/kind-up.sh
  scripts/kind-up.sh --dual-stack --name dual
  scripts/kind-test.sh                        then test it
  kind delete cluster --name pausenet         and delete it
END
}

main() {
    local name=pausenet config=conf/kind/cluster.yaml image=() binaries=()
    while (($#)); do
        case $1 in
        -h | --help) usage && exit ;;
        --name) name=$(value "$@") && shift ;;
        --dual-stack) config=conf/kind/dual-stack.yaml ;;
        --node-image) image=(--image "$(value "$@")") && shift ;;
        --binaries) binaries=(--binaries "$(realpath -- "$(value "$@")")") && shift ;;
        --dry-run) dry_run=true ;;
        *) wrong "$1" ;;
        esac
        shift
    done
    cd -- "$repo"
    local archive=target/node-image.tar context=kind-$name

    step 'check that docker has a daemon' 'install Docker and start it, or set DOCKER_HOST' \
        docker version --format '{{.Server.Version}}'
    step 'check that kind is installed' 'get it from https://kind.sigs.k8s.io' \
        kind version
    step 'check that kubectl is installed' 'get it from https://kubernetes.io/docs/tasks/tools' \
        kubectl version --client
    step 'make the image pausenet/node from this checkout' 'the lines above are from scripts/image.sh' \
        scripts/image.sh --node "${binaries[@]}" --output "$archive"
    step "make the cluster $name" "$(cluster_hint "$name" "${image[1]-}")" \
        kind create cluster --name "$name" --config "$config" "${image[@]}"
    step 'load the image into the nodes' 'check whether the disk is full: docker system df' \
        kind load image-archive "$archive" --name "$name"
    step 'apply the DaemonSet' "check the API server: kubectl --context $context get --raw /readyz" \
        kubectl --context "$context" apply -f conf/kubernetes/pausenet.yaml
    step 'wait for pausenetd on each node' \
        "read its log: kubectl --context $context -n kube-system logs daemonset/pausenet" \
        kubectl --context "$context" -n kube-system rollout status daemonset/pausenet --timeout 180s
    step 'wait for the nodes to be Ready' "see what they are waiting for: kubectl --context $context describe nodes" \
        kubectl --context "$context" wait --for condition=Ready node --all --timeout 180s
    done_with "the cluster $name has pausenet as its network; now: scripts/kind-test.sh --context $context"
}

# cluster_hint NAME IMAGE
cluster_hint() {
    printf '%s\n' \
        "if a cluster of that name exists: kind delete cluster --name $1" \
        "if the node image cannot be fetched: on a machine that can, docker pull ${2:-the image that kind names above}," \
        "  docker save it, bring the file here, docker load it, and name it with --node-image"
}

main "$@"
