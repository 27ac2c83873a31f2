# shellcheck shell=bash
# What the lab's scripts share: packages, a cache whose entries are complete, and --help. Brings debian.sh along.
#
# The lab runs real clients and peers against pausenet. All of them come from Debian, through the machine's
# own mirror; whatever is unpacked or built is kept in one folder, outside the checkout:
#
#   ${PAUSENET_LAB:-$HOME/.cache/pausenet-lab}
#
# Use: `source` this file from a script, then
#
#   help_if_asked ARG...          if the first ARG is --help or -h, print the script's first comment and exit
#   usage                         print the same to stderr and exit with status 2: wrong usage
#   lab_dir                       print the cache folder (made if missing)
#   lab_once TARGET FUNC ARG...   make TARGET, a folder in the cache, once: see below
#   lab_work NAME                 set `work` to an empty folder in the cache, for this script to remove at its end
#   lab_hold DIR                  make the folder DIR, and hold it for as long as this script, and what it
#                                 starts, lives; fails if another one holds it
#   lab_held DIR                  whether somebody does
#   lab_unless_held DIR COMMAND...  run COMMAND if nobody does; nobody can meanwhile
#   need_packages PKG...          install what is missing (as root) or say how to (otherwise)
#   await WHAT COMMAND...         wait until COMMAND succeeds, at most AWAIT seconds; then end
#   reason LOG                    print the line of a program's output that says why it failed
#   say, die                      print a line to stderr; die also ends the script
#
# Results go to stdout, everything else to stderr. An entry of the cache stays until its folder is removed:
# `rm -r` it to get the suite's current version. Do not write to folders in the cache: copy a source tree
# before a build that writes there. What is not an entry yet is in .tmp there, and what a killed run left in
# that folder is removed by the next run.

set -euo pipefail
shopt -s inherit_errexit

AWAIT=180 # seconds
export LEAST=500 # MB that must be free where something is to be made

say() { printf 'lab: %s\n' "$*" >&2; }
# In a job of lab_once, LAB_JOB is the status that says that the reason has been told.
die() { say "$@"; exit "${LAB_JOB:-1}"; }

# The comment at the top of the running script, without the line of the interpreter.
lab__help() { sed -n '2,$ { /^#/!q; /^# shellcheck/q; s/^# \{0,1\}//; p }' "$0"; }

help_if_asked() {
    [[ ${1-} == -h || ${1-} == --help ]] || return 0
    lab__help
    exit
}

usage() {
    lab__help >&2
    exit 2
}

lab_dir() {
    local dir=${PAUSENET_LAB:-${HOME:?set HOME or PAUSENET_LAB}/.cache/pausenet-lab} problem
    problem=$(mkdir -p -- "$dir" 2>&1) ||
        die "the cache folder $dir cannot be made: ${problem##*: }; set PAUSENET_LAB to another folder"
    (cd -- "$dir" && pwd -P)
}

# lab__need_room LAB WHY: full disks are met by other programs in many ways; apt hangs.
lab__need_room() {
    local free
    [[ -w $1 ]] || die "$2, and the cache $1 is read-only; make it writable, or set PAUSENET_LAB to another folder"
    free=$(lab__free "$1")
    ((free >= LEAST)) || die "$2, and the disk of the cache $1 has only $free MB left, where $LEAST are the least:" \
        "make room, or set PAUSENET_LAB to another folder"
}

lab__free() { df --output=avail --block-size=1M -- "$1" | tail -n 1 | tr -d ' '; }

await() {
    local what=$1 deadline=$((SECONDS + AWAIT))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || die "waited $AWAIT s in vain for $what"
        sleep 0.1
    done
}

reason() {
    local line
    # apt's own word, the first that speaks of an error, or the last.
    line=$(grep -am 1 '^E:' "$1" || grep -aiEm 1 'error|failed|mismatch|no space left' "$1" || tail -n 1 -- "$1") || true
    printf '%.300s\n' "${line:-it printed nothing}"
}

# --- once -----------------------------------------------------------------------------------------

# lab_once TARGET FUNC ARG...: unless TARGET (an absolute path in lab_dir) exists, call
# `FUNC OUT WORK ARG...` with two empty folders, and rename OUT to TARGET when FUNC has succeeded, so that
# an existing TARGET is complete. Of two concurrent calls, one works and the other waits. On failure or a
# signal, also to this script alone, everything that FUNC started ends, and both folders are removed; so are
# those of a killed run.
#
# FUNC runs in a bash of its own, which has this script's functions but only its exported variables. There
# `set -e` holds, wherever lab_once was called (a function called as `if f` or `f ||` otherwise continues
# after an error).
lab_once() {
    local target=$1
    [[ ! -e $target ]] || return 0
    local lab job
    lab=$(lab_dir)
    [[ $target == "$lab"/* ]] || die "lab_once: $target is not in $lab"
    lab__need_room "$lab" "${target##*/} is not in the cache yet"
    lab__need_outside "${target##*/} is not in the cache $lab yet"
    job=(bash -c "set -euo pipefail; shopt -s inherit_errexit; $(declare -f); lab__job \"\$@\"" lab "$lab" "$@")
    if [[ -n ${LAB_JOB-} ]]; then # within a job: part of it, and of its process group
        "${job[@]}"
        return
    fi
    local traps pid='' status=0
    traps=$(trap -p INT TERM HUP)
    trap 'lab__stop INT' INT
    trap 'lab__stop TERM' TERM
    trap 'lab__stop HUP' HUP
    # The kernel tells the job when this script is killed.
    LAB_JOB=79 setsid setpriv --pdeathsig TERM "${job[@]}" </dev/null &
    pid=$!
    wait "$pid" || status=$?
    trap - INT TERM HUP
    eval "$traps"
    case $status in
    0) return ;;
    137) say "${target##*/} could not be made: what makes it was killed; run the same again" ;; # by whoever wants memory
    esac
    return 1
}

# On a signal while lab_once waits: end the job, let it clean up, then let the signal take its usual effect.
# (lab_once's variables are in scope.)
lab__stop() {
    if [[ -n $pid ]]; then
        kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    say "${target##*/}: stopped; nothing half-made is kept"
    trap - INT TERM HUP
    eval "$traps"
    kill -s "$1" "$BASHPID"
    exit 1
}

lab__job() {
    local lab=$1 target=$2 func=$3 lock job status=0
    shift 3
    lab__name=${target#"$lab"/}
    lab__name=${lab__name//\//-}
    lab__tmp=''
    trap 'lab__end_job' TERM INT HUP
    lab__lock lock "$lab" "$lab__name"
    [[ ! -e $target ]] || exit 0
    lab__tmp=$lab/.tmp/$lab__name # only the lock's holder uses this folder
    trap 'lab__job_ended $?' EXIT
    lab__sweep "$lab"
    rm -rf -- "$lab__tmp"
    mkdir -p -- "$lab__tmp/out" "$lab__tmp/work" "${target%/*}"
    # In the background: a shell hears a signal only between commands.
    "$func" "$lab__tmp/out" "$lab__tmp/work" "$@" &
    job=$!
    wait "$job" || status=$?
    ((status == 0)) || exit "$status"
    sync --file-system -- "$lab__tmp" # or the new name may reach the disk before the contents
    mv -T -- "$lab__tmp/out" "$target"
}

# On a signal: end all that the job started.
lab__end_job() {
    trap '' TERM INT HUP
    kill -TERM 0
    wait
    exit 143
}

# lab__job_ended STATUS: say why, unless that is said, and leave nothing.
lab__job_ended() {
    case $1 in
    0 | 143) ;;
    *)
        if (($(lab__free "$lab") < 20)); then
            say "$lab__name could not be made: the disk of the cache $lab is full; make room there, and run the same again"
        elif (($1 != LAB_JOB)); then
            say "$lab__name could not be made in $lab: the line above says why; run the same again when that is mended"
        fi
        ;;
    esac
    rm -rf -- "$lab__tmp"
}

# lab_work NAME: set `work` to an empty folder in the cache; the script removes it when it ends.
lab_work() {
    local lab
    lab=$(lab_dir)
    lab__need_room "$lab" "$1 needs a folder"
    mkdir -p -- "$lab/.tmp"
    lab__sweep "$lab"
    work=$(mktemp -d -- "$lab/.tmp/$1.XXXXXX")
    lab_hold "$work"
}

# lab__sweep LAB: remove what killed runs left.
lab__sweep() {
    local left lock
    for left in "$1"/.tmp/*; do
        lock=$1/.locks/${left##*/} # that of a job; otherwise the folder is held itself
        [[ -e $lock ]] || lock=$left
        [[ ! -d $left ]] || lab_unless_held "$lock" rm -rf -- "$left"
    done
}

lab_hold() {
    local held
    while :; do
        mkdir -p -- "$1"
        { exec {held}<"$1"; } 2>/dev/null || continue
        # Whoever only asks, or sweeps, holds it for a moment.
        flock --wait 2 "$held" || return
        [[ ! $1 -ef /proc/self/fd/$held ]] || return 0
        exec {held}<&- # a sweep was faster
    done
}

lab_held() { ! flock -n -- "$1" true; }

lab_unless_held() {
    local held
    { exec {held}<"$1"; } 2>/dev/null || return 0 # gone
    if flock -n "$held"; then
        "${@:2}"
    fi
    exec {held}<&-
}

# lab__need_outside WHY: end where nothing can be fetched or installed: in a namespace without a network, or
# in a machine of the lab (kubernetes.sh), whose /var/lib has no packages. apt would try for minutes, and
# then blame the mirror.
lab__need_outside() {
    # A route of any interface but lo; a kernel may have no IPv6.
    if [[ -s /var/lib/dpkg/status ]] &&
        awk '$1 !~ /^(Iface|lo)$/ && $NF != "lo" { found = 1 } END { exit !found }' \
            < <(cat /proc/net/route /proc/net/ipv6_route 2>/dev/null); then
        return 0
    fi
    die "$1, and its packages cannot be fetched in here;" \
        "leave the namespaces (exit) and first run: sudo scripts/test.sh --setup"
}

# lab__lock VAR LAB NAME: take the lock NAME; set VAR to the file descriptor that holds it.
lab__lock() {
    lab__need_room "$2" "${3#apt-} is to be fetched"
    mkdir -p -- "$2/.locks"
    exec {lab__fd}>>"$2/.locks/$3"
    if ! flock -n "$lab__fd"; then
        say "$3: another run holds the lock, waiting"
        # In the background: a shell hears a signal only between commands.
        flock "$lab__fd" &
        wait $!
    fi
    printf -v "$1" %s "$lab__fd"
}

# --- the machine's packages -----------------------------------------------------------------------

need_packages() {
    local missing lab lock log install
    lab__missing "$@"
    ((${#missing[@]})) || return 0
    ((EUID == 0)) ||
        die "missing packages: ${missing[*]}; run: sudo apt-get install --no-install-recommends ${missing[*]}"
    lab__need_outside "missing packages: ${missing[*]}"
    lab=$(lab_dir)
    lab__lock lock "$lab" apt-install
    lab__missing "$@" # another run may have installed them since
    if ((${#missing[@]} == 0)); then
        exec {lock}>&-
        return 0
    fi
    log=$lab/apt-install.log
    say "installing ${missing[*]}"
    install=(apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=600 "${missing[@]}")
    if ! lab__outside "${install[@]}" >"$log" 2>&1; then
        say "the package lists may be missing or old: running apt-get update"
        { lab__outside apt-get update -q && lab__outside "${install[@]}"; } >"$log" 2>&1 || {
            cat -- "$log" >&2
            die "the packages ${missing[*]} could not be installed: $(reason "$log"); look at this machine's apt sources, and run the same again"
        }
    fi
    rm -f -- "$log"
    exec {lock}>&-
}

# lab__missing PKG...: set `missing` to those that are not installed.
lab__missing() {
    local state package have=' '
    missing=()
    while read -r state package; do
        [[ $state != installed ]] || have+="$package "
    done < <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' -- "$@" 2>/dev/null)
    for package; do
        [[ $have == *" $package "* ]] || missing+=("$package")
    done
}

# lab__outside COMMAND...: run it in a session of its own, since a signal to this script must not stop dpkg
# half way; and without our locks, which a daemon started by a package would hold for ever.
lab__outside() (
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        ((fd <= 2)) || exec {fd}>&-
    done
    exec env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 setsid -w "$@" </dev/null
)

# shellcheck source-path=SCRIPTDIR source=debian.sh
source "${BASH_SOURCE[0]%/*}/debian.sh"
