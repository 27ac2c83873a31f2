#!/usr/bin/env bash
# Tries the lab's cache on bad days: without a network, with a registry that refuses, with half a download, on a full
# disk, interrupted, twice at once. Each has to end in a clear line, at once, and to leave nothing behind.
#
# Use: scripts/lab/bad-days.sh
#
# Takes some seconds, and no internet: it runs in namespaces of its own, with an empty cache. Needs root, and Go
# (see programs.sh).

# shellcheck disable=SC2317 # functions are called by `scene`
# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

SLOWEST=8 # seconds, for one scene
PORT=8080 ADDRESS=203.0.113.1

main() {
    local failed=0 passed=0
    # An address, and so a route: what looks like a network from where nothing answers.
    ip link set lo up
    ip link add outside type bridge
    ip addr add "$ADDRESS/24" dev outside
    ip link set outside up
    mount -t tmpfs tmpfs /mnt
    mkdir -- /mnt/empty
    export PAUSENET_LAB=/mnt/cache GOPROXY=http://$ADDRESS:$PORT GOENV=off GOFLAGS=
    fails 'the cache folder /mnt/file cannot be made: File exists' cache_is_a_file
    fails 'is read-only; make it writable' cache_is_read_only
    fails 'has only 9 MB left' disk_is_full
    fails 'cannot be fetched in here' no_network
    fails 'connection refused; see to that and run the same again' nobody_answers
    fails '404 Not Found; see to that and run the same again' registry_refuses
    fails 'unexpected EOF; see to that and run the same again' half_a_download
    fails "debian.sources: not a mirror; look at the network" a_job_dies
    fails 'the line above says why; run the same again' a_command_fails
    fails 'what makes it was killed' job_is_killed
    for signal in INT TERM HUP; do
        fails 'stopped; nothing half-made is kept' interrupted "$signal"
    done
    fails '' interrupted KILL
    succeeds twice_at_once
    succeeds after_a_killed_run
    succeeds old_version_stays
    printf '%d passed, %d failed\n' "$passed" "$failed"
    ((failed == 0))
}

# --- the scenes -----------------------------------------------------------------------------------

# get: what most of them try.
get() { "$here/programs.sh" get cni; }

cache_is_a_file() { : >/mnt/file && PAUSENET_LAB=/mnt/file get; }

cache_is_read_only() {
    mkdir -p -- /mnt/readonly
    mount -t tmpfs -o ro tmpfs /mnt/readonly
    PAUSENET_LAB=/mnt/readonly get
}

disk_is_full() {
    mkdir -p -- /mnt/small
    mount -t tmpfs -o size=9m tmpfs /mnt/small
    PAUSENET_LAB=/mnt/small get
}

no_network() { unshare --net "$here/programs.sh" get cni; }

nobody_answers() { get; }

registry_refuses() { busybox httpd -f -p "$ADDRESS:$PORT" -h /mnt/empty & get; }

half_a_download() {
    busybox nc -ll -p "$PORT" -e "$here/bad-days.sh" half &
    get
}

# half: answers a request with less than it promises.
half() {
    local line
    while IFS= read -r line && [[ $line != $'\r' ]]; do :; done
    printf 'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nPK'
}

# once FUNC: makes the entry `thing` with it.
once() { "$BASH" -c "$(declare -f "$1"); source '$here/lib.sh'; lab_once \"\$(lab_dir)/thing\" $1"; }

a_job_dies() {
    make() { die "debian.sources: not a mirror; look at the network"; }
    once make
}

a_command_fails() {
    make() { cp -- /mnt/there-is-no-such-file "$1"; }
    once make
}

job_is_killed() {
    make() { kill -KILL 0; }
    once make
}

# interrupted SIGNAL: to the process group, while something is made that would take long.
interrupted() {
    local job deadline=$((SECONDS + SLOWEST))
    make() {
        sleep 1000 &
        : >/mnt/begun
        sleep 1000
    }
    rm -f -- /mnt/begun
    set -m
    once make &
    job=$!
    set +m
    until [[ -e /mnt/begun ]]; do
        ((SECONDS < deadline)) || return 0
        sleep 0.05
    done
    kill -s "$1" -- "-$job"
    wait "$job"
}

twice_at_once() {
    local first
    make() {
        sleep 0.5
        echo made >>/mnt/made
    }
    once make &
    first=$!
    once make && wait "$first" && [[ $(</mnt/made) == made ]]
}

after_a_killed_run() {
    mkdir -p -- "$PAUSENET_LAB/.tmp/thing/out" "$PAUSENET_LAB/.tmp/other"
    make() { : >"$1/program"; }
    once make && [[ -e $PAUSENET_LAB/thing/program && ! -e $PAUSENET_LAB/.tmp/other ]]
}

# Whatever an older version of the lab called what it made.
old_version_stays() {
    mkdir -p -- "$PAUSENET_LAB/things-1" "$PAUSENET_LAB/go/cni-0123456789ab"
    make() { : >"$1/program"; }
    once make && [[ -d $PAUSENET_LAB/things-1 ]]
}

# --- how they are judged --------------------------------------------------------------------------

# fails LINE SCENE ARG...: it fails, its last line is one of the lab's with these words, and it leaves nothing.
fails() {
    local status=0 last why=''
    run "${@:2}" || status=$?
    last=$(tail -n 1 /mnt/log)
    ((status != 0)) || why='it did not fail'
    [[ -z $1 || $last == 'lab: '*"$1"* ]] || why="its last line is: $last"
    judge "$why" "${@:2}"
}

succeeds() {
    local why=''
    run "$@" || why="it failed with status $?"
    judge "$why" "$@"
}

# run SCENE ARG...: with an empty cache.
run() {
    rm -rf -- "$PAUSENET_LAB"
    timeout --kill-after=1 "$SLOWEST" unshare --mount --pid --fork --kill-child --mount-proc \
        "$here/bad-days.sh" scene "$@" >/mnt/log 2>&1
}

# scene NAME ARG...: in a namespace of processes, which ends what the scene has started; what the lab has started has
# to end by itself.
scene() {
    local status=0 left deadline=$((SECONDS + 3))
    set +e
    "$@"
    status=$?
    while left=$(pgrep -fav 'pgrep |busybox |bad-days.sh (scene|half)|<defunct>'); do
        ((SECONDS < deadline)) || break
        sleep 0.1
    done
    [[ -z $left ]] || printf 'left: %s\n' "$left" >&2
    exit "$status"
}

# judge WHY SCENE ARG...: and look at what is left.
judge() {
    local why=$1 left
    shift
    left=$(grep -h '^left: ' /mnt/log || true)
    if [[ $* != 'interrupted KILL' && $* != job_is_killed ]]; then # a later run removes that
        left+=$(find "$PAUSENET_LAB/.tmp" -mindepth 1 2>/dev/null || true)
    fi
    [[ -z $left ]] || why+=" left behind: $left"
    if [[ -z $why ]]; then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$*"
        return
    fi
    failed=$((failed + 1))
    printf 'FAILED  %s: %s\n' "$*" "$why"
    sed 's/^/        /' /mnt/log
}

help_if_asked "$@"
case ${1-} in
'')
    ((EUID == 0)) || die "this needs root"
    need_packages busybox-static procps
    exec unshare --net --mount "$here/bad-days.sh" inside
    ;;
inside) main ;;
half) half ;;
scene) scene "${@:2}" ;;
*) usage ;;
esac
