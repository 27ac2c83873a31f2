# shellcheck shell=bash
# Debian's suites, beside the machine's own lists. They come through the machine's own mirror; lib.sh brings this
# along.
#
#   sid_unpack DIR PKG...         unpack these packages of Debian sid together into a folder of yours
#   sid_depends PKG               print what the package depends on, a name a line; fails if sid has no PKG
#   bookworm_unpack DIR PKG...    unpack packages of Debian bookworm
#   bookworm_source DIR WORK PKG  unpack a source package into DIR, an empty folder, Debian's patches applied
#   debian_root SUITE DIR WORK PKG,...  make DIR a root with these packages, by debootstrap

export APT_LIMIT=400 ROOT_LIMIT=1200 # seconds for one call of apt, and for one root

sid_unpack() { lab__unpack sid "$@"; }
sid_depends() { lab__depends sid "$1"; }
bookworm_unpack() { lab__unpack bookworm "$@"; }

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

debian_root() {
    local suite=$1 root=$2 work=$3 packages=$4 lab lock uri
    ((EUID == 0)) || die "debootstrap needs root"
    need_packages debootstrap debian-archive-keyring wget
    lab=$(lab_dir)
    lab__lock lock "$lab" "apt-$suite"
    lab__lists "$lab" "$suite"
    exec {lock}>&-
    uri=$(sed -n 's/^URIs: //p' "$lab/apt/$suite/debian.sources")
    say "$suite: making a root with debootstrap from $uri"
    printf '%s\n' 'timeout = 20' 'tries = 2' >"$work/wgetrc" # for wget, which would wait for hours
    # In namespaces of its own, so that its mounts and processes end with it, and it with this shell.
    WGETRC=$work/wgetrc setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child \
        timeout --kill-after=10 "$ROOT_LIMIT" debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$uri" \
        >"$work/log" 2>&1 || {
        tail -n 20 -- "$work/log" >&2
        die "$suite: debootstrap could not make a root from $uri: $(reason "$work/log"); look at the network, and run the same again"
    }
    rm -rf -- "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/usr/share/{doc,info,locale,man}/*
}

lab__depends() {
    local suite=$1 package=$2 lab lock answer
    lab=$(lab_dir)
    lab__lock lock "$lab" "apt-$suite"
    lab__lists "$lab" "$suite"
    answer=$(lab__ask_depends) || { lab__update "$lab" "$suite" && answer=$(lab__ask_depends); } || {
        say "$suite has no package $package"
        return 1
    }
    exec {lock}>&-
    sed -n 's/^  Depends: //p' <<<"$answer"
}

# With the variables of lab__depends.
lab__ask_depends() { lab__apt "$lab" "$suite" apt-cache --important depends "$package" 2>/dev/null | grep .; }

# lab__fetch SUITE DIR ARG...: run apt-get ARG... in DIR. Suites move on: when it fails, because a file is
# gone from the mirror, or the lists are damaged, renew the lists and try once more.
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
        die "$suite: apt-get $* failed: $(reason "$log"); look at the network, and run the same again"
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
    local lab=$1 suite=$2 dir=$1/apt/$2 keyring uri why=''
    need_packages debian-archive-keyring
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ ! -e $keyring ]] || break
    done
    # Beside the old ones, which stay if this fails half way.
    rm -rf -- "$dir/new"
    mkdir -p -- "$dir/new/lists" "$dir/new/cache"
    # The machine's hooks around an update are for its own lists and cache, not for these. No sandbox user: it
    # could not enter a cache in a private home; signature and hashes are checked anyway.
    cat >"$dir/new/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
Acquire::Retries "1";
Acquire::http::Timeout "20";
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
            "Signed-By: $keyring" >"$dir/new/debian.sources"
        if lab__apt "$lab" "$suite/new" apt-get -q update >"$dir/log" 2>&1; then
            rm -rf -- "$dir/updated" "$dir/lists" "$dir/cache"
            mv -- "$dir/new"/* "$dir"
            rmdir -- "$dir/new"
            touch -- "$dir/updated"
            return 0
        fi
        why+=" $(reason "$dir/log");"
    done
    rm -rf -- "$dir/new"
    [[ ! -e $dir/log ]] || cat -- "$dir/log" >&2
    [[ -e $dir/updated ]] || die "$suite: no apt source of this machine gives the package lists:${why:- there is none;}" \
        "look at the network and at /etc/apt, and run the same again"
    say "$suite: could not renew the package lists, continuing with the old ones"
}

# lab__apt LAB SUITE TOOL ARG...: run an apt tool with the suite's lists instead of the machine's. The
# machine's proxies and credentials apply.
lab__apt() {
    local dir=$1/apt/$2 tool=$3 status=0
    shift 3
    LC_ALL=C.UTF-8 timeout --foreground --kill-after=10 "$APT_LIMIT" "$tool" -c "$dir/apt.conf" -o "Dir::Etc::sourcelist=$dir/debian.sources" \
        -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" "$@" || status=$?
    ((status != 124)) || printf 'E: not done after %d s; is the disk full?\n' "$APT_LIMIT" >&2
    return "$status"
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
