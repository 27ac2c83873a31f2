#!/usr/bin/env bash
# Prints files for `docker load` or `ctr images import`: images that Kubernetes needs and no registry gives here.
#
# Use: scripts/lab/images.sh coredns    CoreDNS, as lab/coredns:latest
#      scripts/lab/images.sh e2e        what Kubernetes' own network tests run, under the names that they have
#                                       with the list of registries that `registries` prints
#      scripts/lab/images.sh registries print that list, for KUBE_TEST_REPO_LIST
#
# The programs are those of programs.sh; the rest is a small Debian with the tools that the tests run in pods.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=archive.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/archive.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

# What the tests type in the pods of their images.
export TOOLS=nginx-light,busybox-static,curl,wget,netcat-openbsd,bind9-dnsutils,iproute2,iputils-ping,net-tools,procps,conntrack

# --- the images -----------------------------------------------------------------------------------

coredns() {
    local programs target
    programs=$("$here/programs.sh" get kubernetes)
    target=$(lab_dir)/images/coredns-${programs##*-}
    lab_once "$target" make_coredns "$programs"
    printf '%s\n' "$target/images.tar"
}

make_coredns() {
    local out=$1 work=$2 programs=$3
    need_packages jq
    mkdir -- "$work/root" "$work/image"
    cp -- "$programs/coredns" "$work/root"
    layer "$work/image" coredns "$work/root"
    archive "$work/image" 'lab/coredns:latest coredns "Entrypoint":["/coredns"]'
    mv -- "$work/image/images.tar" "$out"
}

e2e() {
    local kubernetes tests target
    tests=$("$here/programs.sh" get e2e)
    kubernetes=$("$here/programs.sh" get kubernetes)
    target=$(lab_dir)/images/e2e-4-${tests##*-} # raise the number when the images change
    lab_once "$target" make_e2e "$tests/e2e.test" "$kubernetes"
    printf '%s\n' "$target/images.tar"
}

# make_e2e OUT WORK TESTS PROGRAMS
make_e2e() {
    local out=$1 work=$2 tests=$3 programs=$4 debian=$2/debian own=$2/own image name images=()
    need_packages jq openssl
    say "making the images of Kubernetes' tests, once"
    debian_root bookworm "$debian" "$work" "$TOOLS"
    mkdir -p -- "$debian/var/log/nginx" "$own/uploads"
    # One test has its own DNS server, from the image of agnhost.
    cp -- "$programs/agnhost" "$programs/coredns" "$own"
    ln -s -- agnhost "$own/agnhost-2"
    # Its HTTPS servers have a certificate in the image.
    openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN=localhost -keyout "$own/localhost.key" \
        -out "$own/localhost.crt" 2>"$work/log" || { cat "$work/log" >&2 && die "openssl failed"; }
    chmod 644 -- "$own/localhost.key"
    mkdir -- "$work/image"
    layer "$work/image" debian "$debian"
    layer "$work/image" agnhost "$own"
    registries >"$work/registries"
    for name in $(KUBE_TEST_REPO_LIST=$work/registries "$tests" --list-images); do
        case $name in
        */agnhost:*) images+=("$name debian,agnhost \"Entrypoint\":[\"/agnhost\"],\"Cmd\":[\"pause\"]") ;;
        */pause:*) images+=("$name agnhost \"Entrypoint\":[\"/agnhost\",\"pause\"]") ;;
        */busybox:*) images+=("$name debian \"Cmd\":[\"sh\"]") ;;
        */distroless-iptables:*) images+=("$name debian \"Cmd\":[\"sleep\",\"infinity\"]") ;; # for its conntrack
        */nginx:*) images+=("$name debian \"Cmd\":[\"nginx\",\"-g\",\"daemon off;\"]") ;;
        */glibc-dns-testing:*) images+=("$name debian \"Cmd\":[\"sleep\",\"infinity\"]") ;;
        esac
    done
    ((${#images[@]})) || die "e2e.test names no image that is known here"
    archive "$work/image" "${images[@]}"
    mv -- "$work/image/images.tar" "$out"
}

registries() {
    local key
    for key in gcAuthenticatedRegistry promoterE2eRegistry buildImageRegistry invalidRegistry gcEtcdRegistry \
        gcRegistry sigStorageRegistry cloudProviderGcpRegistry privateRegistry dockerLibraryRegistry; do
        printf '%s: lab.invalid/e2e\n' "$key"
    done
}

help_if_asked "$@"
(($# == 1)) || usage
case $1 in
coredns | e2e | registries) "$1" ;;
*) usage ;;
esac
