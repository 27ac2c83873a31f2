#!/usr/bin/env bash
# Builds pausenet and shows in two minutes what it does: two pods, processes that share one of them,
# and a network that stays when they die. Each thing that is shown is also checked: the script fails
# if one of them is not seen.
#
# Use: scripts/quickstart.sh
#
# Rust has to be there; what else is missing is installed (as root) or named (as anyone else).
#
# It leaves the machine as it is: everything happens in a network and a mount namespace of its own,
# with an empty /run and /var/lib. As anyone else than root, a user namespace comes on top.

# shellcheck source=lab/lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lab/lib.sh"
# shellcheck source=cargo.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/cargo.sh"

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf 'quickstart: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

# --- outside: build, and make a place to play in --------------------------------------------------

outside() {
    need_packages gcc libc6-dev iproute2 socat
    local pausectl place
    pausectl=$(build) || die "the build failed"
    mapfile -t place < <(a_place_of_our_own)
    ((${#place[@]})) || no_place
    title "A place of our own"
    if ((EUID == 0)); then
        tell "You are root; still nothing here touches the machine's network: what follows happens"
        tell "in new network and mount namespaces, which end with this script."
    else
        tell "You are not root, and need not be: what follows happens in a new user namespace (where"
        tell "you are root), with network and mount namespaces of its own."
    fi
    exec "${place[@]}" "$BASH" "$0" --inside "${pausectl%/*}"
}

# build: prints the path of pausectl; pausenet and pause lie beside it.
build() {
    local cargo messages
    find_cargo "$repo" || die "cargo is not to be found; Rust comes from https://rustup.rs"
    say "building (release)"
    cd -- "$repo" || return
    messages=$("${cargo[@]}" build --release --locked -p pausectl -p pausenet -p pause --message-format=json-render-diagnostics) || return
    sed -n 's/.*"executable":"\([^"]*\/pausectl\)".*/\1/p' <<<"$messages"
}

# a_place_of_our_own: prints the command that makes one, a word a line, or nothing.
a_place_of_our_own() {
    local try
    for try in '--net --mount' '--user --map-root-user --net --mount'; do
        # shellcheck disable=SC2086 # words
        if unshare $try -- mount -t tmpfs tmpfs /run 2>/dev/null; then
            # shellcheck disable=SC2086
            printf '%s\n' unshare $try --
            return
        fi
    done
}

no_place() {
    local sysctl=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
    if ((EUID == 0)); then
        die "this root may not make namespaces: it lacks CAP_SYS_ADMIN (in a container, as a rule;" \
            "with Docker: docker run --privileged)"
    elif [[ -r $sysctl && $(<"$sysctl") != 0 ]]; then
        die "this system lets only root make namespaces, by AppArmor (as Ubuntu does from 24.04 on)." \
            "Go on as root: sudo $0" \
            "- or allow it until the next boot: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    fi
    die "this system lets only root make namespaces (sysctl user.max_user_namespaces," \
        "kernel.unprivileged_userns_clone, or the container we are in). Go on as root: sudo $0"
}

# --- inside: the show -----------------------------------------------------------------------------

title() { printf '\n%s== %s ==%s\n' "$bold" "$*" "$plain"; }
tell() { printf '%s\n' "$*"; }

# shown [exec] COMMAND...: prints the command, and runs it.
shown() {
    local text="$*"
    printf '%s$ %s%s\n' "$bold" "${text#exec }" "$plain"
    "$@"
}

# expect WHAT WANTED SEEN
expect() {
    [[ -n $2 && $2 == "$3" ]] || die "FAILED: $1: expected \"$2\", saw \"$3\""
    printf '%sok%s  %s: %s\n' "$green" "$plain" "$1" "$3"
}

# expect_end PID
expect_end() {
    local _
    for _ in {1..100}; do
        [[ -e /proc/$1/ns/net ]] || return 0 # a zombie has no namespaces
        sleep 0.05
    done
    die "FAILED: process $1 still lives"
}

inside() {
    local stage bin=$1
    # The binaries come along, or a checkout below /run or /var/lib would be out of sight.
    stage=$(mktemp -d)
    mount -n -t tmpfs -o mode=755 tmpfs "$stage"
    mkdir -- "$stage/bin"
    cp -- "$bin"/{pausectl,pausenet,pause} "$stage/bin"
    cp -r -- "$repo/conf" "$stage/conf"
    mount -n --move "$stage" /run
    rmdir -- "$stage"
    mount -n -t tmpfs -o mode=755 tmpfs /var/lib
    ip link set lo up
    cd -- /run || return
    export PATH=/run/bin:$PATH
    unset CNI_PATH PAUSENET_CONF_DIR PAUSENET_PAUSE
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    show
}

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    pausectl pod rm --force web db >/dev/null 2>&1 || true
    exit "$status"
}

# Answers with the address and the MAC of the asked one's own eth0, to whoever connects.
write_eth0() {
    cat >/run/bin/eth0 <<'END'
#!/bin/sh
set -- $(ip -br -4 address show dev eth0)
address=$3
set -- $(ip -br link show dev eth0)
echo "$address $3"
END
    chmod +x /run/bin/eth0
}

# field NAME: the values of a field in the JSON on stdin, a line each.
field() { sed -n 's/^ *"'"$1"'": "\{0,1\}\([^",]*\)"\{0,1\},\{0,1\}$/\1/p'; }

# in_b COMMAND: has member B, a shell in pod web, run a command; prints what that printed.
in_b() {
    local answer
    printf '%s; printf "\\0"\n' "$1" >&"$b_in"
    IFS= read -r -d '' -t 20 -u "$b_out" answer || die "FAILED: member B does not answer"
    printf '%s' "${answer%$'\n'}"
}

# ask HOST PORT: a command for in_b that connects (again and again while nobody listens yet) and
# prints the answer.
ask() {
    printf 'for _ in {1..50}; do { exec 3<>/dev/tcp/%s/%s; } 2>/dev/null && { cat <&3; exec 3>&-; break; }; sleep 0.1; done' "$1" "$2"
}

show() {
    local result address mac db_address member_a pid pauses=()
    title "Two pods"
    tell "Each is a network namespace, held by a pause process and wired by the CNI plugin."
    result=$(shown pausectl pod create web --conf conf/10-podnet.conflist --output json)
    tell "$result"
    pauses+=("$(field pause <<<"$result")")
    address=$(field address <<<"$result")
    mac=$(sed -n '/"interfaces"/,/\]/p' <<<"$result" | field mac | tail -n 1)
    result=$(shown pausectl pod create db --conf conf/10-podnet.conflist --output json)
    tell "$result"
    pauses+=("$(field pause <<<"$result")")
    db_address=$(field address <<<"$result")
    [[ $address == 10.77.* && $db_address == 10.77.* && $address != "$db_address" ]] ||
        die "FAILED: the pods' addresses are \"$address\" and \"$db_address\""

    title "Two processes join pod web"
    tell "A answers on 127.0.0.1:8080 with the address and MAC of its eth0; B is a shell, at work in"
    tell "the pod until the end."
    write_eth0
    shown exec pausectl pod exec web -- socat TCP-LISTEN:8080,bind=127.0.0.1,reuseaddr,fork EXEC:/run/bin/eth0 &
    member_a=$!
    disown "$member_a" # its end is no news to bash
    coproc B { exec pausectl pod exec web -- bash; }
    disown "$B_PID"
    exec {b_out}<&"${B[0]}" {b_in}>&"${B[1]}" # bash keeps its own two from subshells
    expect "eth0 of B, as the CNI result has it" "$address $mac" "$(in_b eth0)"
    expect "eth0 of A, which told B over 127.0.0.1" "$address $mac" "$(in_b "$(ask 127.0.0.1 8080)")"

    title "From one pod to the other"
    shown exec pausectl pod exec db -- socat TCP-LISTEN:5432,reuseaddr,fork EXEC:/run/bin/eth0 &
    disown $!
    result=$(in_b "$(ask "${db_address%/*}" 5432)")
    expect "B in web asks db at ${db_address%/*}" "$db_address" "${result% *}"
    shown pausectl pod ls

    title "A dies (kill -9), the network stays"
    kill -KILL "$member_a"
    expect_end "$member_a"
    expect "127.0.0.1:8080 in the pod" "nobody there" \
        "$(in_b '(: <>/dev/tcp/127.0.0.1/8080) 2>/dev/null && echo A || echo nobody there')"
    expect "eth0 of B" "$address $mac" "$(in_b eth0)"
    result=$(in_b "$(ask "${db_address%/*}" 5432)")
    expect "B in web asks db again" "$db_address" "${result% *}"

    title "Away with it"
    shown pausectl pod rm --force web db
    expect "pods" "no pods" "$(pausectl pod ls)"
    expect "veths on the host" 0 "$(ip -o link show type veth | wc -l)"
    expect "addresses in the store" 0 "$(find /var/lib/cni/networks -name '10.*' | wc -l)"
    for pid in "${pauses[@]}"; do
        expect_end "$pid"
    done
    title "All of it was as promised"
    tell "Next: README.md, and $bin/pausectl --help"
}

main() {
    bold='' green='' plain=''
    if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
        bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'
    fi
    case ${1:-} in
    --inside) inside "$2" ;;
    '') outside ;;
    *)
        say "use: scripts/quickstart.sh"
        exit 2
        ;;
    esac
}

main "$@"
