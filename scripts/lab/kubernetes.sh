#!/usr/bin/env bash
# Runs a private Kubernetes: etcd, the API server and the controllers, and machines with a kubelet.
#
# Use: scripts/lab/kubernetes.sh up|down|kubectl|node   a whole cluster in the background: see `up --help`
#      scripts/lab/kubernetes.sh tools [1.37|1.20]      print a folder with the programs, including etcd
#      scripts/lab/kubernetes.sh control-plane [--version 1.20] [--dual-stack] COMMAND...
#      scripts/lab/kubernetes.sh machine --name NAME --address ADDRESS [--keep DIR] COMMAND...
#      scripts/lab/kubernetes.sh kubelet [--dual-stack] [--kube-proxy [MODE]] COMMAND...
#
# Combine the parts on the command line. Each runs COMMAND once it is ready, and leaves nothing behind when
# COMMAND ends or a signal arrives. A node, to look around:
#
#   sudo unshare --net --mount bash
#   cd scripts/lab
#   ./kubernetes.sh control-plane ./kubernetes.sh machine --name node1 --address 192.168.77.1 \
#       ./containerd.sh run ./kubernetes.sh kubelet bash
#
# `control-plane` runs in the caller's network and mount namespaces, which must not be the machine's. There it
# makes the bridge lab0 with 192.168.77.254: the network between the machines. COMMAND gets KUBECONFIG (an
# administrator's), kubectl, and KUBE_HOME: a folder with each program's log (NAME.log), audit.log, and
# kubeconfigs of node1 to node10 and kube-proxy. RBAC is on.
#
# `machine` runs COMMAND in namespaces of its own, with a veth pair to lab0. Its /run, /var/lib, /var/log and
# /opt are empty and /etc is a copy, as on a new machine. With --keep, /var/lib is DIR and stays, as it does
# over a reboot. `kubelet` makes a machine a node, with the runtime that CONTAINER_RUNTIME_ENDPOINT or
# DOCKER_HOST names; the network is what /etc/cni/net.d and /opt/cni/bin say. Its folder is NODE_HOME. The
# MODE of kube-proxy is nftables (default) or iptables.
#
# Daemons that end are started again, as by an init, unless the folder has a file NAME.hold, for example
# kube-apiserver.hold.
#
# Versions (machines and nodes take the control plane's):
#
#   1.37   built once by programs.sh, as is written there: 10 to 40 minutes
#   1.20   from Debian bookworm's source package, built once in 10 minutes: an old one, whose kubelet
#          still speaks to Docker (`DOCKER_VERSION=20.10 ./docker.sh run --bridge none` instead of
#          `./containerd.sh run`). Its kube-proxy has only iptables.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=place.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/place.sh"
self=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/kubernetes.sh

# --- the programs ---------------------------------------------------------------------------------

PROGRAMS=(kube-apiserver kubelet kube-scheduler kube-controller-manager kube-proxy kubectl)

# version, of the control plane and all its nodes
KUBERNETES_VERSION=${KUBERNETES_VERSION:-1.37}

tools() {
    local target
    case $KUBERNETES_VERSION in
    1.37) "${self%/*}/programs.sh" get kubernetes ;;
    1.20)
        target=$(lab_dir)/kubernetes-1.20
        lab_once "$target" make_tools "${PROGRAMS[@]}"
        DOCKER_VERSION=20.10 "${self%/*}/docker.sh" tools >/dev/null # its runtime
        printf '%s\n' "$target"
        ;;
    *) die "no Kubernetes $KUBERNETES_VERSION here; there are 1.37 and 1.20" ;;
    esac
}

# is_old: its flags and its API are those of 1.20.
is_old() { [[ $KUBERNETES_VERSION == 1.20 ]]; }

# make_tools OUT WORK PROGRAM...: 1.20. Builds Debian bookworm's Kubernetes, and unpacks its etcd.
make_tools() {
    local out=$1 work=$2 tree=$2/tree version flags=() package program
    shift 2
    need_packages golang-go make rsync jq bsdmainutils
    mkdir -- "$tree" "$work/source"
    bookworm_source "$tree" "$work/source" kubernetes
    # The tree's own reflect2 is not for Go 1.18 and newer: iterating over a map writes to stray memory.
    bookworm_unpack "$work/reflect2" golang-github-modern-go-reflect2-dev
    rm -r -- "$tree/vendor/github.com/modern-go/reflect2"
    cp -r -- "$work/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2" "$tree/vendor/github.com/modern-go/"
    version=$(dpkg-parsechangelog -l "$tree/debian/changelog" -S Version)
    version=${version##*really} # "1.20.5+really1.20.2-1.1"
    version=${version%%[+~-]*}
    for package in k8s.io/kubernetes/vendor/k8s.io/{component-base,client-go/pkg}/version; do
        flags+=(-X "$package.gitVersion=v$version" -X "$package.gitMajor=${version%%.*}")
        flags+=(-X "$package.gitMinor=$(cut -d. -f2 <<<"$version")")
    done
    say "building kubernetes $version, once: this takes some minutes"
    mkdir -p -- "$tree/.go/src/k8s.io"
    ln -s -- "$tree" "$tree/.go/src/k8s.io/kubernetes"
    (
        cd -- "$tree/.go/src/k8s.io/kubernetes" || exit
        export HOME=$work GOPATH=$tree/.go GOCACHE=$work/cache GOTMPDIR=$work GOENV=off GOPROXY=off \
            GOFLAGS=-buildvcs=false GO111MODULE=off CGO_ENABLED=0
        # The API server needs code that upstream generates at build time.
        nice -n 5 make --silent generated_files
        for program; do
            say "building $program"
            nice -n 5 go build -trimpath -ldflags "-s -w ${flags[*]}" -o "$out/$program" "k8s.io/kubernetes/cmd/$program"
        done
    ) >&2
    bookworm_unpack "$work/etcd" etcd-server
    cp -- "$work/etcd/usr/bin/etcd" "$out"
    for program in "$@" etcd; do
        "$out/$program" --version >&2 || [[ $program == kubectl ]] || die "$program does not run on this machine"
    done
}

# --- the control plane ----------------------------------------------------------------------------

ADDRESS=192.168.77.254
PODS=10.244.0.0/16 SERVICES=10.96.0.0/16
PODS6=fd00:10:244::/56 SERVICES6=fd00:10:96::/112
LAB6=fd00:77:: # followed by the last part of a machine's IPv4 address

control_plane() {
    local pods=$PODS services=$SERVICES dual=false
    while [[ ${1-} == --* ]]; do
        case $1 in
        --version) KUBERNETES_VERSION=${2?} && shift ;;
        --dual-stack) dual=true pods+=,$PODS6 services+=,$SERVICES6 ;;
        *) usage ;;
        esac
        shift
    done
    (($#)) || usage
    export KUBERNETES_VERSION
    PATH=$(tools):$PATH
    place_open kubernetes
    place_last=(ip link del lab0)
    ip link add lab0 type bridge forward_delay 0
    ip addr add "$ADDRESS/24" dev lab0
    ip addr add "${LAB6}254/64" dev lab0 nodad
    ip link set lab0 up
    ip link set lo up

    local url=https://$ADDRESS:6443 own=(--kubeconfig "$home/controllers.kubeconfig" --bind-address 127.0.0.1)
    local features=() nodeipam_port=(--secure-port 0) account=name
    if is_old; then
        features=(--feature-gates "IPv6DualStack=$dual") nodeipam_port+=(--port 0) account='jsonpath={.secrets[0].name}'
    fi
    export PATH KUBE_HOME=$home KUBECONFIG=$home/kubeconfig
    write_identities "$url"
    place_keep etcd etcd --data-dir "$home/etcd" --name lab \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380
    place_keep kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
        --bind-address 0.0.0.0 --advertise-address "$ADDRESS" --secure-port 6443 \
        --cert-dir "$home/apiserver" --token-auth-file "$home/tokens" --authorization-mode Node,RBAC \
        --enable-admission-plugins NodeRestriction --allow-privileged \
        --service-cluster-ip-range "$services" "${features[@]}" \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-signing-key-file "$home/key.pem" --service-account-key-file "$home/key.pem" \
        --kubelet-preferred-address-types InternalIP \
        --audit-policy-file "$home/audit.yaml" --audit-log-path "$home/audit.log"
    place_await 'the API server' is_up
    # nodeipam sleeps ten seconds before it starts, and would delay the other controllers.
    place_keep kube-controller-manager-nodeipam kube-controller-manager "${own[@]}" --leader-elect=false \
        --controllers nodeipam "${nodeipam_port[@]}" "${features[@]}" \
        --allocate-node-cidrs --cluster-cidr "$pods" --service-cluster-ip-range "$services"
    place_keep kube-controller-manager kube-controller-manager "${own[@]}" --leader-elect=false \
        --controllers '*,-nodeipam' "${features[@]}" --use-service-account-credentials \
        --service-account-private-key-file "$home/key.pem" --root-ca-file "$home/apiserver/apiserver.crt" \
        --node-monitor-period 1s --node-monitor-grace-period 8s \
        --flex-volume-plugin-dir "$home/volume-plugins"
    place_keep kube-scheduler kube-scheduler "${own[@]}" --leader-elect=false
    # Pods cannot be made without it.
    place_await 'the default service account' kubectl get serviceaccount default -o "$account"
    place_live "$@"
}

# First try the port: kubectl takes a tenth of a second to fail.
is_up() { (: <"/dev/tcp/$ADDRESS/6443") && kubectl get --raw /readyz; }

# write_identities URL: the API server makes its own certificate; clients have tokens.
write_identities() {
    local user token
    openssl genrsa -out "$home/key.pem" 2048 2>/dev/null
    printf '%s\n' 'apiVersion: audit.k8s.io/v1' 'kind: Policy' 'omitStages: [RequestReceived]' \
        'rules: [{level: Metadata}]' >"$home/audit.yaml"
    while read -r file user group; do
        token=$(openssl rand -hex 16)
        printf '%s,%s,%s,"%s"\n' "$token" "$user" "$user" "$group" >>"$home/tokens"
        kubeconfig "$1" "$token" >"$home/$file"
    done <<END
kubeconfig admin system:masters
controllers.kubeconfig controllers system:masters
kube-proxy.kubeconfig system:kube-proxy system:authenticated
$(printf 'node%d.kubeconfig system:node:node%d system:nodes\n' {1..10}{,})
END
}

# kubeconfig URL TOKEN
kubeconfig() {
    cat <<END
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: $1, certificate-authority: $home/apiserver/apiserver.crt}}]
users: [{name: lab, user: {token: $2}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
END
}

# --- a machine ------------------------------------------------------------------------------------

machine() {
    local name='' address='' keep=''
    while [[ ${1-} == --* ]]; do
        case $1 in
        --name) name=${2?} ;;
        --address) address=${2?} ;;
        --keep) keep=${2?} ;;
        *) usage ;;
        esac
        shift 2
    done
    [[ $# -gt 0 && -n $name && -n $address ]] || usage
    local outside
    exec {outside}</proc/self/ns/net
    exec unshare --net --mount "$self" inside "$outside" "$name" "$address" "$keep" "$@"
}

# inside OUTSIDE NAME ADDRESS KEEP COMMAND...
inside() {
    local outside=/proc/self/fd/$1 fd=$1 address=$3 keep=$4
    export MACHINE=$2 MACHINE_ADDRESS=$3
    shift 4
    place_open machine
    place_folders "$keep"
    mkdir -p /etc/cni/net.d /opt/cni/bin
    rm -rf /etc/cni/net.d/* /etc/resolv.conf
    ip link add eth0 type veth peer name "lab-$MACHINE" netns "$outside"
    nsenter "--net=$outside" ip link set "lab-$MACHINE" master lab0 up
    exec {fd}<&-
    ip link set lo up
    ip addr add "$address/24" dev eth0
    ip addr add "$LAB6${address##*.}/64" dev eth0 nodad
    ip link set eth0 up
    # Without one, a node's own connections to Services' addresses end before kube-proxy sees them.
    ip route add default via "$ADDRESS"
    ip -6 route add default via "${LAB6}254"
    # kubelet asks this address which cloud it is in, and would wait for a reply.
    ip route add unreachable 169.254.0.0/16
    printf 'nameserver 127.0.0.1\n' >/etc/resolv.conf
    place_live "$@"
}

# --- a node ---------------------------------------------------------------------------------------

run_kubelet() {
    local dual=false pods=$PODS addresses=${MACHINE_ADDRESS-} proxy=''
    while [[ ${1-} == --* ]]; do
        case $1 in
        --dual-stack) dual=true pods+=,$PODS6 addresses+=,$LAB6${addresses##*.} ;;
        --kube-proxy)
            proxy=nftables
            case ${2-} in
            nftables | iptables) proxy=$2 && shift ;;
            esac
            ;;
        *) usage ;;
        esac
        shift
    done
    (($#)) || usage
    [[ -n ${MACHINE-} && -n ${KUBE_HOME-} ]] || die "a node needs a machine and a control plane: see --help"
    PATH=$(tools):$PATH
    place_open node
    export PATH NODE_HOME=$home
    shield_sysctls
    make_cgroups
    # Copies: a process whose command line names a folder is killed when that folder's script ends.
    cp -- "$KUBE_HOME/$MACHINE.kubeconfig" "$home/kubeconfig"
    cp -- "$KUBE_HOME/kube-proxy.kubeconfig" "$home"
    if is_old; then
        start_old_node
    else
        start_node
    fi
    place_await "the node $MACHINE" kubectl get node "$MACHINE"
    place_live "$@"
}

start_node() {
    [[ -n ${CONTAINER_RUNTIME_ENDPOINT-} ]] || die "no runtime: set CONTAINER_RUNTIME_ENDPOINT"
    # Evictions look at the disks of the whole machine, and pods are not to be told from its other processes.
    mkdir -- "$home/manifests"
    cat >"$home/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: $CONTAINER_RUNTIME_ENDPOINT
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$name
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
readOnlyPort: 0
maxPods: 250
oomScoreAdj: 0
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, memory.available: 0%}
nodeStatusUpdateFrequency: 1s
volumePluginDir: $home/volume-plugins
staticPodPath: $home/manifests
END
    place_keep kubelet kubelet --config "$home/kubelet.yaml" --kubeconfig "$home/kubeconfig" \
        --hostname-override "$MACHINE" --node-ip "$addresses"
    [[ -n $proxy ]] || return 0
    cat >"$home/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $home/kube-proxy.kubeconfig}
mode: $proxy
hostnameOverride: $MACHINE
clusterCIDR: "$pods"
detectLocalMode: ClusterCIDR
conntrack: {maxPerCore: 0, min: 0}
oomScoreAdj: 0
END
    place_keep kube-proxy kube-proxy --config "$home/kube-proxy.yaml"
}

start_old_node() {
    local runtime features=(--feature-gates "IPv6DualStack=$dual")
    if [[ -n ${CONTAINER_RUNTIME_ENDPOINT-} ]]; then
        runtime=(--container-runtime remote --container-runtime-endpoint "$CONTAINER_RUNTIME_ENDPOINT")
    elif [[ -n ${DOCKER_HOST-} ]]; then
        runtime=(--container-runtime docker --docker-endpoint "$DOCKER_HOST" --network-plugin cni
            --pod-infra-container-image pausenet/pause:latest)
    else
        die "no runtime: set DOCKER_HOST or CONTAINER_RUNTIME_ENDPOINT"
    fi
    place_keep kubelet kubelet --kubeconfig "$home/kubeconfig" --hostname-override "$MACHINE" \
        --node-ip "$addresses" "${runtime[@]}" --cgroup-driver cgroupfs --cgroup-root "/$name" \
        --volume-plugin-dir "$home/volume-plugins" --fail-swap-on=false --eviction-hard= \
        --cluster-dns 10.96.0.10 --read-only-port 0 --max-pods 250 "${features[@]}" \
        --image-gc-high-threshold 100 --serialize-image-pulls=false --registry-qps 0 \
        --event-qps 0 --kube-api-qps 100 --kube-api-burst 200 --node-status-update-frequency 1s
    [[ -n $proxy ]] || return 0
    place_keep kube-proxy kube-proxy --kubeconfig "$home/kube-proxy.kubeconfig" --proxy-mode iptables \
        --hostname-override "$MACHINE" --cluster-cidr "$pods" "${features[@]}" \
        --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
}

# kubelet sets these sysctls for the whole machine; give it files to write to instead.
shield_sysctls() {
    local key
    mkdir -- "$home/sysctl"
    for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
        kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
        cat -- "/proc/sys/$key" >"$home/sysctl/${key//\//.}"
        place_mount --bind "$home/sysctl/${key//\//.}" "/proc/sys/$key"
    done
    # Where every /proc has something mounted over it, the kernel lets no pod with a user namespace mount its own.
    mkdir -- "$home/proc"
    place_mount -t proc proc "$home/proc"
}

# kubelet needs its cgroup in every hierarchy, ready for processes.
make_cgroups() {
    local hierarchy file
    for hierarchy in /sys/fs/cgroup/*/; do
        [[ -e $hierarchy/cgroup.procs && ! -L ${hierarchy%/} ]] || continue
        mkdir -- "$hierarchy/$name"
        for file in cpuset.cpus cpuset.mems; do
            [[ ! -e $hierarchy/$name/$file ]] || cat -- "$hierarchy/$file" >"$hierarchy/$name/$file"
        done
    done
}

case ${1-} in
up | down | kubectl | node) exec "${self%/*}/cluster.sh" "$@" ;;
esac
help_if_asked "$@"
verb=${1-}
shift || usage
case $verb in
tools)
    (($# <= 1)) || usage
    KUBERNETES_VERSION=${1:-$KUBERNETES_VERSION}
    tools
    ;;
control-plane) control_plane "$@" ;;
machine | inside) "$verb" "$@" ;;
kubelet) run_kubelet "$@" ;;
*) usage ;;
esac
