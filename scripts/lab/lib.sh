# shellcheck shell=bash
# What the lab's scripts share: packages, Debian's suites, a cache whose entries are complete, and --help.
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
#   need_packages PKG...          install what is missing (as root) or say how to (otherwise)
#   sid_unpack DIR PKG...         unpack these packages of Debian sid together into a folder of yours
#   sid_depends PKG               print what the package depends on, a name a line; fails if sid has no PKG
#   bookworm_unpack DIR PKG...    unpack packages of Debian bookworm
#   bookworm_source DIR WORK PKG  unpack a source package into DIR, an empty folder, Debian's patches applied
#   bookworm_mirror               print the URI of a mirror that has Debian bookworm
#   say, die                      print a line to stderr; die also ends the script
#
# Results go to stdout, everything else to stderr. An entry of the cache stays until its folder is removed:
# `rm -r` it to get the suite's current version. Do not write to folders in the cache: copy a source tree
# before a build that writes there.

set -euo pipefail
shopt -s inherit_errexit

say() { printf 'lab: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

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
    local dir=${PAUSENET_LAB:-${HOME:?set HOME or PAUSENET_LAB}/.cache/pausenet-lab}
    mkdir -p -- "$dir"
    (cd -- "$dir" && pwd -P)
}

# --- once -----------------------------------------------------------------------------------------

# lab_once TARGET FUNC ARG...: unless TARGET (an absolute path in lab_dir) exists, call
# `FUNC OUT WORK ARG...` with two empty folders, and rename OUT to TARGET when FUNC has succeeded, so that
# an existing TARGET is complete. Of two concurrent calls, one works and the other waits. On failure or a
# signal both folders are removed, and so are those of a killed run.
#
# FUNC runs in a bash of its own, which has this script's functions but only its exported variables. There
# `set -e` holds, wherever lab_once was called (a function called as `if f` or `f ||` otherwise continues
# after an error), and one signal ends everything that FUNC started.
lab_once() {
    local target=$1
    [[ ! -e $target ]] || return 0
    local lab job
    lab=$(lab_dir)
    [[ $target == "$lab"/* ]] || die "lab_once: $target is not in $lab"
    lab__need_outside "${target##*/} is not in the cache $lab yet"
    job=(bash -c "set -euo pipefail; shopt -s inherit_errexit; $(declare -f); lab__job \"\$@\"" lab "$lab" "$@")
    if [[ -n ${LAB_JOB:-} ]]; then # within a job: part of it, and of its process group
        "${job[@]}"
        return
    fi
    local traps pid status=0
    traps=$(trap -p INT TERM HUP)
    LAB_JOB=1 setsid "${job[@]}" </dev/null &
    pid=$!
    trap 'lab__stop INT' INT
    trap 'lab__stop TERM' TERM
    trap 'lab__stop HUP' HUP
    wait "$pid" || status=$?
    trap - INT TERM HUP
    eval "$traps"
    return "$status"
}

# On a signal while lab_once waits: end the job, let it clean up, then let the signal take its usual effect.
# (lab_once's variables are in scope.)
lab__stop() {
    kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    trap - INT TERM HUP
    eval "$traps"
    kill -s "$1" "$BASHPID"
    exit 1
}

lab__job() {
    local lab=$1 target=$2 func=$3
    shift 3
    local name=${target#"$lab"/} lock
    name=${name//\//-}
    lab__lock lock "$lab" "$name"
    [[ ! -e $target ]] || exit 0
    lab__tmp=$lab/.tmp/$name # only the lock's holder uses this folder
    trap 'rm -rf -- "$lab__tmp"' EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    rm -rf -- "$lab__tmp"
    mkdir -p -- "$lab__tmp/out" "$lab__tmp/work" "${target%/*}"
    "$func" "$lab__tmp/out" "$lab__tmp/work" "$@"
    mv -T -- "$lab__tmp/out" "$target"
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
    mkdir -p -- "$2/.locks"
    exec {lab__fd}>>"$2/.locks/$3"
    if ! flock -n "$lab__fd"; then
        say "$3: another run holds the lock, waiting"
        flock "$lab__fd"
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
            die "could not install ${missing[*]}"
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

# --- Debian's suites, beside the machine's own lists ----------------------------------------------

sid_unpack() { lab__unpack sid "$@"; }
sid_depends() { lab__depends sid "$1"; }
bookworm_unpack() { lab__unpack bookworm "$@"; }

bookworm_mirror() {
    local lab lock
    lab=$(lab_dir)
    lab__lock lock "$lab" apt-bookworm
    lab__lists "$lab" bookworm
    exec {lock}>&-
    sed -n "s/^URIs: //p" "$lab/apt/bookworm/debian.sources"
}

lab__unpack() {
    local suite=$1 out=$2 debs deb
    shift 2
    mkdir -p -- "$out"
    debs=$(mktemp -d -- "$out/.debs.XXXXXX")
    say "$suite: fetching $*"
    lab__fetch "$suite" "$debs" download "$@"
    for deb in "$debs"/*.deb; do
        dpkg -x "$deb" "$out"
    done
    rm -r -- "$debs"
}

bookworm_source() {
    local out=$1 work=$2 package=$3
    need_packages dpkg-dev
    say "bookworm: fetching the source of $package"
    lab__fetch bookworm "$work" source --download-only --only-source "$package"
    rmdir -- "$out" # dpkg-source wants to make it
    dpkg-source -q --no-check -x "$work"/*.dsc "$out" >&2 # apt has verified it against the signed list
}

lab__depends() {
    local lab lock answer
    lab=$(lab_dir)
    lab__lock lock "$lab" "apt-$1"
    lab__lists "$lab" "$1"
    answer=$(lab__apt "$lab" "$1" apt-cache --important depends "$2" 2>/dev/null) || answer=
    exec {lock}>&-
    [[ $answer == "$2"* ]] || return 1
    sed -n 's/^  Depends: //p' <<<"$answer"
}

# lab__fetch SUITE DIR ARG...: run apt-get ARG... in DIR. Suites move on: when it fails, because a file is
# gone from the mirror, renew the lists and try once more.
lab__fetch() {
    local suite=$1 dir=$2 lab lock log
    shift 2
    lab=$(lab_dir)
    log=$lab/apt/$suite/log
    lab__lock lock "$lab" "apt-$suite"
    lab__lists "$lab" "$suite"
    (
        cd -- "$dir" || exit
        lab__apt "$lab" "$suite" apt-get -q "$@" >"$log" 2>&1 && exit
        lab__update "$lab" "$suite"
        lab__apt "$lab" "$suite" apt-get -q "$@" >"$log" 2>&1
    ) || {
        cat -- "$log" >&2
        die "$suite: apt-get $* failed"
    }
    exec {lock}>&-
}

# lab__lists LAB SUITE: renew the suite's lists if they are older than a day.
lab__lists() {
    [[ -z $(find "$1/apt/$2/updated" -mtime -1 2>/dev/null) ]] || return 0
    lab__update "$1" "$2"
}

# lab__update LAB SUITE: fetch the suite's lists of packages and sources, from the first of the machine's
# mirrors that has the suite with a signature of Debian's archive.
lab__update() {
    local lab=$1 suite=$2 dir=$1/apt/$2 keyring uri
    need_packages debian-archive-keyring
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ ! -e $keyring ]] || break
    done
    mkdir -p -- "$dir/lists" "$dir/cache"
    # The machine's hooks around an update are for its own lists and cache, not for these. No sandbox user: it
    # could not enter a cache in a private home; signature and hashes are checked anyway.
    cat >"$dir/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourceparts "/dev/null";
END
    rm -f -- "$dir/log"
    say "$suite: fetching the package lists"
    for uri in $(lab__mirrors "$dir"); do
        printf '%s\n' 'Types: deb deb-src' "URIs: $uri" "Suites: $suite" 'Components: main' \
            "Signed-By: $keyring" >"$dir/new.sources"
        if lab__apt "$lab" "$suite" apt-get -q -o "Dir::Etc::sourcelist=$dir/new.sources" update >"$dir/log" 2>&1; then
            mv -- "$dir/new.sources" "$dir/debian.sources"
            touch -- "$dir/updated"
            return 0
        fi
    done
    rm -f -- "$dir/new.sources"
    [[ ! -e $dir/log ]] || cat -- "$dir/log" >&2
    [[ -e $dir/updated ]] || die "$suite: none of the apt sources of this machine is a Debian mirror with this suite"
    say "$suite: could not renew the package lists, continuing with the old ones"
}

# lab__apt LAB SUITE TOOL ARG...: run an apt tool with the suite's lists instead of the machine's. The
# machine's proxies and credentials apply.
lab__apt() {
    local dir=$1/apt/$2 tool=$3
    shift 3
    LC_ALL=C.UTF-8 "$tool" -c "$dir/apt.conf" -o "Dir::Etc::sourcelist=$dir/debian.sources" \
        -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" "$@"
}

# lab__mirrors DIR: print the URIs from which the machine gets Debian, the likeliest first. apt reads its
# sources for us, in both formats. Once it has lists it knows which are Debian's; before that, every source
# with a plain suite (no -security, -updates and the like) is worth a try.
lab__mirrors() {
    mkdir -p -- "$1/none"
    {
        # shellcheck disable=SC2016 # apt's variables
        apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 2>/dev/null |
            sed -n 's/^Debian|Debian|//p'
        apt-get -o Debug::NoLocking=true -o "Dir::State::Lists=$1/none" update --print-uris 2>/dev/null |
            sed -n "s#^'\(.*/\)dists/[^-/]*/InRelease' .*#\1#p"
    } | grep -v '^cdrom:' | awk '!seen[$0]++' || true
}
