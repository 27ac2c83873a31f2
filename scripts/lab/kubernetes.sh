#!/usr/bin/env bash
# Runs a private Kubernetes: etcd, the API server and the controllers, and machines with a kubelet.
#
# Use: scripts/lab/kubernetes.sh tools      print a folder with the programs, including etcd
#      scripts/lab/kubernetes.sh control-plane [--dual-stack] COMMAND...
#      scripts/lab/kubernetes.sh machine --name NAME --address ADDRESS [--keep DIR] COMMAND...
#      scripts/lab/kubernetes.sh node [--dual-stack] [--kube-proxy] COMMAND...
#
# Combine the parts on the command line. Each runs COMMAND once it is ready, and leaves nothing behind when
# COMMAND ends or a signal arrives. A node with containerd, to look around:
#
#   sudo unshare --net --mount bash
#   cd scripts/lab
#   ./kubernetes.sh control-plane ./kubernetes.sh machine --name node1 --address 192.168.77.1 \
#       ./containerd.sh run ./kubernetes.sh node bash
#
# and for Docker, `./docker.sh run --bridge none` instead of `./containerd.sh run`.
#
# `control-plane` runs in the caller's network and mount namespaces, which must not be the machine's. There it
# makes the bridge lab0 with 192.168.77.254: the network between the machines. COMMAND gets KUBECONFIG (an
# administrator's), kubectl, and KUBE_HOME: a folder with each program's log (NAME.log), audit.log, and
# kubeconfigs of node1, node2, node3 and kube-proxy. RBAC is on.
#
# `machine` runs COMMAND in namespaces of its own, with a veth pair to lab0. Its /run, /var/lib, /var/log and
# /opt are empty and /etc is a copy, as on a new machine. With --keep, /var/lib is DIR and stays, as it does
# over a reboot. `node` runs kubelet in a machine, with the runtime that DOCKER_HOST or
# CONTAINER_RUNTIME_ENDPOINT names; the network is what /etc/cni/net.d and /opt/cni/bin say. Its folder is
# NODE_HOME.
#
# Daemons that end are started again, as by an init, unless the folder has a file NAME.hold, for example
# kube-apiserver.hold.
#
# The programs are built once from Debian bookworm's source package (Kubernetes 1.20, whose kubelet still
# supports Docker), which takes some minutes, and kept in the lab's cache (see lib.sh).

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=place.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/place.sh"
self=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/kubernetes.sh

# --- the programs ---------------------------------------------------------------------------------

PROGRAMS=(kube-apiserver kubelet kube-scheduler kube-controller-manager kube-proxy kubectl)

tools() {
    local target
    target=$(lab_dir)/kubernetes
    lab_once "$target" make_tools "${PROGRAMS[@]}"
    printf '%s\n' "$target"
}

# make_tools OUT WORK PROGRAM...: build Debian bookworm's Kubernetes, and unpack its etcd.
make_tools() {
    local out=$1 work=$2 tree=$2/tree version flags=() package program
    shift 2
    need_packages golang-go make rsync jq bsdmainutils
    mkdir -- "$tree" "$work/source"
    lab__make_patched "$tree" "$work/source" bookworm kubernetes
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
    local pods=$PODS services=$SERVICES features=IPv6DualStack=false
    [[ ${1-} != --dual-stack ]] || {
        shift
        pods+=,$PODS6 services+=,$SERVICES6 features=IPv6DualStack=true
    }
    (($#)) || usage
    PATH=$(tools):$PATH
    place_open kubernetes
    place_last=(ip link del lab0)
    ip link add lab0 type bridge forward_delay 0
    ip addr add "$ADDRESS/24" dev lab0
    ip addr add "${LAB6}254/64" dev lab0 nodad
    ip link set lab0 up
    ip link set lo up

    local url=https://$ADDRESS:6443 own=(--kubeconfig "$home/controllers.kubeconfig" --bind-address 127.0.0.1)
    export PATH KUBE_HOME=$home KUBECONFIG=$home/kubeconfig
    write_identities "$url"
    place_keep etcd etcd --data-dir "$home/etcd" --name lab \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380
    place_keep kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
        --bind-address 0.0.0.0 --advertise-address "$ADDRESS" --secure-port 6443 \
        --cert-dir "$home/apiserver" --token-auth-file "$home/tokens" --authorization-mode Node,RBAC \
        --enable-admission-plugins NodeRestriction --allow-privileged \
        --service-cluster-ip-range "$services" --feature-gates "$features" \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-signing-key-file "$home/key.pem" --service-account-key-file "$home/key.pem" \
        --kubelet-preferred-address-types InternalIP \
        --audit-policy-file "$home/audit.yaml" --audit-log-path "$home/audit.log"
    place_await 'the API server' is_up
    # nodeipam sleeps ten seconds before it starts, and would delay the other controllers.
    place_keep kube-controller-manager-nodeipam kube-controller-manager "${own[@]}" --leader-elect=false \
        --controllers nodeipam --port 0 --secure-port 0 --feature-gates "$features" \
        --allocate-node-cidrs --cluster-cidr "$pods" --service-cluster-ip-range "$services"
    place_keep kube-controller-manager kube-controller-manager "${own[@]}" --leader-elect=false \
        --controllers '*,-nodeipam' --feature-gates "$features" --use-service-account-credentials \
        --service-account-private-key-file "$home/key.pem" --root-ca-file "$home/apiserver/apiserver.crt" \
        --node-monitor-period 1s --node-monitor-grace-period 8s \
        --flex-volume-plugin-dir "$home/volume-plugins"
    place_keep kube-scheduler kube-scheduler "${own[@]}" --leader-elect=false
    # Pods cannot be made without it.
    place_await 'the default service account' kubectl get serviceaccount default -o 'jsonpath={.secrets[0].name}'
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
node1.kubeconfig system:node:node1 system:nodes
node2.kubeconfig system:node:node2 system:nodes
node3.kubeconfig system:node:node3 system:nodes
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
    ip route add default via "$ADDRESS"
    # kubelet asks this address which cloud it is in, and would wait for a reply.
    ip route add unreachable 169.254.0.0/16
    printf 'nameserver 127.0.0.1\n' >/etc/resolv.conf
    place_live "$@"
}

# --- a node ---------------------------------------------------------------------------------------

node() {
    local features=IPv6DualStack=false pods=$PODS addresses=${MACHINE_ADDRESS-} proxy=false runtime=()
    while [[ ${1-} == --* ]]; do
        case $1 in
        --dual-stack) features=IPv6DualStack=true pods+=,$PODS6 addresses+=,$LAB6${addresses##*.} ;;
        --kube-proxy) proxy=true ;;
        *) usage ;;
        esac
        shift
    done
    (($#)) || usage
    [[ -n ${MACHINE-} && -n ${KUBE_HOME-} ]] || die "a node needs a machine and a control plane: see --help"
    if [[ -n ${CONTAINER_RUNTIME_ENDPOINT-} ]]; then
        runtime=(--container-runtime remote --container-runtime-endpoint "$CONTAINER_RUNTIME_ENDPOINT")
    elif [[ -n ${DOCKER_HOST-} ]]; then
        runtime=(--container-runtime docker --docker-endpoint "$DOCKER_HOST" --network-plugin cni
            --pod-infra-container-image pausenet/pause:latest)
    else
        die "no runtime: set DOCKER_HOST or CONTAINER_RUNTIME_ENDPOINT"
    fi
    PATH=$(tools):$PATH
    place_open node
    export PATH NODE_HOME=$home
    shield_sysctls
    make_cgroups
    # Copies: a process whose command line names a folder is killed when that folder's script ends.
    cp -- "$KUBE_HOME/$MACHINE.kubeconfig" "$home/kubeconfig"
    cp -- "$KUBE_HOME/kube-proxy.kubeconfig" "$home"
    place_keep kubelet kubelet --kubeconfig "$home/kubeconfig" --hostname-override "$MACHINE" \
        --node-ip "$addresses" "${runtime[@]}" --cgroup-driver cgroupfs --cgroup-root "/$name" \
        --volume-plugin-dir "$home/volume-plugins" --fail-swap-on=false --eviction-hard= \
        --cluster-dns 10.96.0.10 --read-only-port 0 --max-pods 250 --feature-gates "$features" \
        --image-gc-high-threshold 100 --serialize-image-pulls=false --registry-qps 0 \
        --event-qps 0 --kube-api-qps 100 --kube-api-burst 200 --node-status-update-frequency 1s
    if $proxy; then
        place_keep kube-proxy kube-proxy --kubeconfig "$home/kube-proxy.kubeconfig" --proxy-mode iptables \
            --hostname-override "$MACHINE" --cluster-cidr "$pods" --feature-gates "$features" \
            --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
    fi
    place_await "the node $MACHINE" kubectl get node "$MACHINE"
    place_live "$@"
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

help_if_asked "$@"
verb=${1-}
shift || usage
case $verb in
tools) (($# == 0)) || usage && tools ;;
control-plane) control_plane "$@" ;;
machine | inside | node) "$verb" "$@" ;;
*) usage ;;
esac
