#!/usr/bin/env bash
# Builds pausenet and shows in two minutes what it does: two pods, processes that share one of them, and a
# network that stays when they die. Everything that is shown is also checked: if it is not as expected, the
# script fails.
#
# Use: scripts/quickstart.sh
#
# Needs Rust. Other missing packages are installed (as root) or named (otherwise).
#
# The machine stays as it is: everything happens in network and mount namespaces of its own, with an empty
# /run and /var/lib; and, unless you are root, in a user namespace.

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

# --- outside: build, and enter namespaces of our own --------------------------------------------------

outside() {
    need_packages gcc libc6-dev iproute2 socat
    local programs enter
    programs=$(build) || die "the build failed"
    mapfile -t enter < <(enter_command)
    ((${#enter[@]})) || cannot_enter
    title "Namespaces of our own"
    if ((EUID == 0)); then
        tell "You are root, but nothing here touches the machine's network: the rest happens in new"
        tell "network and mount namespaces, which end with this script."
    else
        tell "You are not root, and need not be: the rest happens in a new user namespace, in which you"
        tell "are root, with network and mount namespaces of its own."
    fi
    mapfile -t programs <<<"$programs"
    exec "${enter[@]}" "$BASH" "$0" --inside "${programs[@]}"
}

# build: print the paths of pausenet, pausectl and pause, a line each.
build() {
    local cargo target name messages
    find_cargo "$repo" || die "cargo was not found; get Rust from https://rustup.rs"
    say "building (release)"
    cd -- "$repo" || return
    target=$(plugin_target) || return
    # The plugin by itself, as for a release: what pausectl asks of shared crates would make it larger.
    messages=$("${cargo[@]}" build --release --locked --target "$target" -p pausenet --message-format=json-render-diagnostics) || return
    messages+=$'\n'$("${cargo[@]}" build --release --locked -p pausectl -p pause --message-format=json-render-diagnostics) || return
    for name in pausenet pausectl pause; do
        sed -n "s/.*\"executable\":\"\([^\"]*\/$name\)\".*/\1/p" <<<"$messages"
    done
}

# enter_command: print the command that enters new namespaces, a word a line, or nothing.
enter_command() {
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

cannot_enter() {
    local sysctl=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
    if ((EUID == 0)); then
        die "this root cannot make namespaces: it lacks CAP_SYS_ADMIN (usually in a container;" \
            "with Docker: docker run --privileged)"
    elif [[ -r $sysctl && $(<"$sysctl") != 0 ]]; then
        die "AppArmor lets only root make namespaces here (the default of Ubuntu from 24.04 on)." \
            "Run it as root: sudo $0" \
            "- or allow it until the next boot: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    fi
    die "this system lets only root make namespaces (sysctl user.max_user_namespaces," \
        "kernel.unprivileged_userns_clone, or the container around us). Run it as root: sudo $0"
}

# --- inside: the demonstration -----------------------------------------------------------------------------

title() { printf '\n%s== %s ==%s\n' "$bold" "$*" "$plain"; }
tell() { printf '%s\n' "$*"; }

# shown [exec] COMMAND...: print the command, and run it.
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
    local stage
    # Copy the binaries: a checkout below /run or /var/lib would be hidden by the mounts.
    stage=$(mktemp -d)
    mount -n -t tmpfs -o mode=755 tmpfs "$stage"
    mkdir -- "$stage/bin"
    pausectl=$2
    cp -- "$@" "$stage/bin"
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

# A program that prints the address and the MAC of its own eth0.
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

# field NAME: print the values of a field in the JSON on stdin, one a line.
field() { sed -n 's/^ *"'"$1"'": "\{0,1\}\([^",]*\)"\{0,1\},\{0,1\}$/\1/p'; }

# in_b COMMAND: run a command in member B, a shell in pod web, and print its output.
in_b() {
    local answer
    printf '%s; printf "\\0"\n' "$1" >&"$b_in"
    IFS= read -r -d '' -t 20 -u "$b_out" answer || die "FAILED: member B does not answer"
    printf '%s' "${answer%$'\n'}"
}

# ask HOST PORT: print a command for in_b that connects (retrying until the server listens) and prints the
# reply.
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
    tell "A answers on 127.0.0.1:8080 with the address and MAC of its eth0; B is a shell that stays in"
    tell "the pod until the end."
    write_eth0
    shown exec pausectl pod exec web -- socat TCP-LISTEN:8080,bind=127.0.0.1,reuseaddr,fork EXEC:/run/bin/eth0 &
    member_a=$!
    disown "$member_a" # or bash reports its end
    coproc B { exec pausectl pod exec web -- bash; }
    disown "$B_PID"
    exec {b_out}<&"${B[0]}" {b_in}>&"${B[1]}" # bash closes its own two in subshells
    expect "eth0 of B, as the CNI result has it" "$address $mac" "$(in_b eth0)"
    expect "eth0 of A, as A tells B over 127.0.0.1" "$address $mac" "$(in_b "$(ask 127.0.0.1 8080)")"

    title "From one pod to the other"
    shown exec pausectl pod exec db -- socat TCP-LISTEN:5432,reuseaddr,fork EXEC:/run/bin/eth0 &
    disown $!
    result=$(in_b "$(ask "${db_address%/*}" 5432)")
    expect "B in web asks db at ${db_address%/*}" "$db_address" "${result% *}"
    shown pausectl pod ls

    title "A dies (kill -9), the network stays"
    kill -KILL "$member_a"
    expect_end "$member_a"
    expect "127.0.0.1:8080 in the pod" "refused" \
        "$(in_b '(: <>/dev/tcp/127.0.0.1/8080) 2>/dev/null && echo A || echo refused')"
    expect "eth0 of B" "$address $mac" "$(in_b eth0)"
    result=$(in_b "$(ask "${db_address%/*}" 5432)")
    expect "B in web asks db again" "$db_address" "${result% *}"

    title "Remove the pods"
    shown pausectl pod rm --force web db
    expect "pods" "no pods" "$(pausectl pod ls)"
    expect "veths on the host" 0 "$(ip -o link show type veth | wc -l)"
    expect "addresses in the store" 0 "$(find /var/lib/cni/networks -name '10.*' | wc -l)"
    for pid in "${pauses[@]}"; do
        expect_end "$pid"
    done
    title "Everything was as expected"
    tell "Next: src/docs/README.md, and $pausectl --help"
}

main() {
    help_if_asked "$@"
    bold='' green='' plain=''
    if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
        bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'
    fi
    case ${1:-} in
    --inside) inside "${@:2}" ;;
    '') outside ;;
    *)
        say "use: scripts/quickstart.sh [--help]"
        exit 2
        ;;
    esac
}

main "$@"
