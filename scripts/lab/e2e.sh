#!/usr/bin/env bash
# Runs Kubernetes' own network tests (e2e.test 1.37) against pausenet, in a cluster of the lab.
#
# Use: scripts/lab/e2e.sh [--all] [--dual-stack] [--kube-proxy MODE] [--report FILE] [FOCUS]
#      scripts/lab/e2e.sh --setup      programs and images only, no tests
#
# Without options a selection that takes some minutes: all conformance tests of [sig-network] but those of
# proxies. With --all every test of [sig-network] that a cluster without a cloud can run; it prints each one that
# is left out, and why. FOCUS is a regular expression for names of tests instead. FILE gets ginkgo's report, JSON.
# MODE is nftables (default) or iptables.
#
# It starts a cluster (kubernetes.sh up), and ends it. Exits with status 0 if all passed.

# shellcheck disable=SC2317 # a function is called by a trap
# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

PROCESSES=4
SELECTED='\[sig-network\].*\[Conformance\]'
ALL='\[sig-network\]'
LIMIT=60 LIMIT_OF_SELECTED=10 # minutes

# What is left out of all: a pattern, and why.
LEFT_OUT=(
    '\[Serial\]|\[Disruptive\]|\[Flaky\]|\[Slow\]' 'marked by Kubernetes as not for every run'
    'LoadBalancer|load balancer|\[Feature:Ingress|NEG|GCE|\[Feature:.*Cloud' 'needs a cloud'
    'NetworkPolicy|Netpol' 'pausenet has no network policy yet'
    'SCTP' 'needs a kernel with SCTP'
    'invalid conntrack state bug' 'needs the image regression-issue-74839, whose program forges packets'
    'IPv6DualStack' 'needs a cluster with both families: --dual-stack'
    'Internet connection|\[Feature:Networking-(IPv4|IPv6|DNS|Performance)' 'needs the internet'
    '\[Feature:([^I]|I[^P])|\[FeatureGate:' 'needs a feature that is off by default'
    'KubeProxyDaemonSet|kube-proxy.*upgrade|\[Feature:KubeProxy' 'kube-proxy is no pod here'
)

main() {
    local up=() limit=$LIMIT all=false dual=false focus='' report='' setup=false skip tests images registries status=0
    while (($#)); do
        case $1 in
        -h | --help) help_if_asked "$1" ;;
        --setup) setup=true ;;
        --all) all=true ;;
        --dual-stack) dual=true up+=("$1") ;;
        --kube-proxy) up+=("$1" "${2?}") && shift ;;
        --report) report=$(realpath -- "${2?}") && shift ;;
        -*) usage ;;
        *) [[ -z $focus ]] || usage && focus=$1 ;;
        esac
        shift
    done
    ((EUID == 0)) || die "this needs root"
    need_packages jq
    tests=$("$here/programs.sh" get e2e)
    images=$("$here/images.sh" e2e)
    ! $setup || return 0
    work=$(mktemp -d)
    trap 'finish' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    registries=$work/registries
    "$here/images.sh" registries >"$registries"
    if $all; then
        focus=${focus:-$ALL}
    elif [[ -z $focus ]]; then
        focus=$SELECTED limit=$LIMIT_OF_SELECTED
    fi
    skip=$(skipped "$dual" "$all")
    "$here/kubernetes.sh" up "${up[@]}" --load "$images"
    started=true
    say "Kubernetes' tests: $focus"
    printf 'with %s\n' "$("$here/versions.sh" e2e)"
    # e2e.test writes where it stands, and looks for HOME.
    "$here/kubernetes.sh" node lab env HOME="$work" KUBE_TEST_REPO_LIST="$registries" \
        timeout --kill-after=30 "$((limit + 2))m" \
        "$tests/ginkgo" --procs="$PROCESSES" --no-color --succinct --timeout="${limit}m" \
        --focus="$focus" --skip="$skip" --output-dir="$work" --json-report=report.json \
        "$tests/e2e.test" -- --kubeconfig="$(kubeconfig)" --provider=skeleton --num-nodes=2 \
        --allowed-not-ready-nodes=0 --system-pods-startup-timeout=60s --disable-log-dump --dump-logs-on-failure=false \
        --prepull-images=false --delete-namespace=true >"$work/log" 2>&1 || status=$?
    if [[ ! -s $work/report.json ]]; then
        tail -n 40 -- "$work/log" >&2
        die "e2e.test ended with status $status, without a report"
    fi
    [[ -z $report ]] || cp -- "$work/report.json" "$report"
    tell "$work/report.json" "$all"
    return "$status"
}

finish() {
    [[ -z ${started-} ]] || "$here/kubernetes.sh" down
    rm -rf -- "$work"
}

# shellcheck disable=SC2016 # expanded in there
kubeconfig() { "$here/kubernetes.sh" node lab sh -c 'echo "$KUBECONFIG"'; }

# skipped DUAL ALL: the pattern of what is left out.
skipped() {
    local i patterns=()
    for ((i = 0; i < ${#LEFT_OUT[@]}; i += 2)); do
        [[ $1 == false || ${LEFT_OUT[i]} != *IPv6DualStack ]] || continue
        patterns+=("${LEFT_OUT[i]}")
    done
    (IFS='|' && printf '%s\n' "${patterns[*]}")
}

# tell REPORT ALL: what passed, what failed and why, and what did not run and why.
tell() {
    local its='[.[].SpecReports[] | select(.LeafNodeType == "It")
        | . + {name: ((.ContainerHierarchyTexts + [.LeafNodeText]) | join(" "))}]'
    jq -r "$its"' | .[] | select(.State == "failed" or .State == "timedout" or .State == "panicked" or .State == "interrupted")
        | "FAILED " + .name + "\n  " + (.Failure.Message | split("\n") | .[:6] | join("\n  "))' "$1"
    jq -r "$its"' | .[] | select(.State == "skipped" and (.Failure.Message // "") != "")
        | "skipped " + .name + ": " + (.Failure.Message | split("\n")[0])' "$1"
    if [[ $2 == true ]]; then
        jq -r --argjson reasons "$(printf '%s\n' "${LEFT_OUT[@]}" | jq -Rn '[inputs]')" "$its"'
            | map(select(.State == "skipped" and (.Failure.Message // "") == "" and (.name | test("\\[sig-network\\]"))))
            | map(.name as $name | {$name, why: (first(range(0; $reasons | length; 2) | select(. as $i | $name | test($reasons[$i])) | $reasons[. + 1]) // "?")})
            | group_by(.why) | .[] | "left out, \(.[0].why): \(length)", (.[] | "  " + .name)' "$1"
    fi
    jq -r "$its"' | [(map(select(.State == "passed")) | length), (map(select(.State == "failed" or .State == "timedout" or .State == "panicked" or .State == "interrupted")) | length),
        (map(select(.State == "skipped" and (.Failure.Message // "") != "")) | length), (map(.RunTime) | add / 1e9 | floor)]
        | "\(.[0]) passed, \(.[1]) failed, \(.[2]) skipped by themselves; \(.[3]) s of tests"' "$1"
}

main "$@"
