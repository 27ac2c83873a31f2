#!/usr/bin/env bash
# Builds programs whose present versions Debian does not have, all in one way: from the Go module proxy.
#
# Use: scripts/lab/programs.sh get SET...              print the folder of each set, a line each
#      scripts/lab/programs.sh table                   what there is: set, program, version, size, build time
#      scripts/lab/programs.sh update MODULE VERSION   take another version: rewrites the module's go.mod and go.sum
#
# scripts/lab/go/programs lists the sets. Each comes from a Go module of ours, scripts/lab/go/MODULE, whose
# go.mod and go.sum name exact versions and their hashes. A set is built once and kept in the lab's cache
# (see lib.sh) until its version, or how it is built, changes. What Go downloads and compiles on the way is
# removed afterwards; a run that was interrupted goes on where it stopped.
#
# A module's folder may have a file `stamps`: variables that its programs take their version from, a line each,
# NAME=VALUE, where the words VERSION and MINOR are the module's.
#
# Needs Go 1.26 or newer; where the machine has none, Debian sid's is unpacked for the build.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
modules=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/go

GO_MINOR=26
export BUILD_LIMIT=1800 FETCH_LIMIT=600 # seconds for one program

# --- the list -------------------------------------------------------------------------------------

# lines SET: `MODULE PROGRAM PACKAGE HOW` of each program; HOW is build, test for a test's binary, seccomp for
# one with parts in C and libseccomp, or files for a folder of the module's source that is copied as it is.
lines() { awk -v set="$1" '$1 == set { print $2, $3, $4, $5 == "" ? "build" : $5 }' "$modules/programs"; }

sets() { awk '/^[^#]/ && !seen[$1]++ { print $1 }' "$modules/programs"; }

# modules_of SET: where its programs come from.
modules_of() { lines "$1" | awk '!seen[$1]++ { print $1 }'; }

# requirement MODULE PACKAGE: `PATH VERSION` of the module that has the package, as go.mod says.
requirement() {
    awk -v package="$2" '
        $1 == "require" { $1 = ""; $0 = $0 }
        index(package "/", $1 "/") == 1 && $2 ~ /^v/ { print $1, $2; exit }' "$modules/$1/go.mod"
}

version() { requirement "$@" | cut -d' ' -f2; }

# What decides about the bytes of a set.
digest() {
    local module
    {
        for module in $(modules_of "$1"); do
            cat -- "$modules/$module/go.mod" "$modules/$module/go.sum"
            [[ ! -e $modules/$module/stamps ]] || cat -- "$modules/$module/stamps"
        done
        lines "$1"
    } | sha256sum | cut -c -12
}

target() { printf '%s/go/%s-%s\n' "$(lab_dir)" "$1" "$(digest "$1")"; }

# --- building -------------------------------------------------------------------------------------

get() {
    local set folder lab
    for set; do
        [[ -n $(lines "$set") ]] || die "no set '$set'; there are: $(sets | paste -sd' ')"
    done
    lab=$(lab_dir)
    for set; do
        folder=$(target "$set")
        [[ ! -e $folder ]] || continue
        find_go
        lab_once "$folder" make_set "$set" "$modules" "$go" "$(lines "$set")"
        # Earlier versions of it.
        find "$lab/go" -mindepth 1 -maxdepth 1 -name "$set-????????????" ! -path "$folder" -exec rm -r -- {} +
    done
    forget_downloads "$lab"
    for set; do
        target "$set"
    done
}

# make_set OUT WORK SET MODULES GO LINES
make_set() {
    local out=$1 work=$2 set=$3 modules=$4 go=$5 lines=$6 lab module program package how start build fetch environment use
    lab=$(lab_dir)
    local common=(GOROOT="${go%/bin/go}" GOENV=off GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0
        GOFLAGS='-mod=readonly -buildvcs=false -trimpath'
        GOMODCACHE="$lab/.go/mod" GOCACHE="$lab/.go/build" GOTMPDIR="$2")
    mkdir -p -- "$lab/.go"
    # Until this job ends, nobody removes what is downloaded.
    exec {use}>>"$lab/.locks/go-downloads"
    flock -s "$use"
    while read -r module program package how; do
        say "building $program of $set"
        start=$SECONDS
        build=(build) fetch=(list -deps)
        environment=("${common[@]}")
        case $how in
        files)
            copy_files "$module" "$package" "$out/$program"
            continue
            ;;
        test) build=(test -vet=off -c) fetch+=(-test) ;;
        seccomp)
            need_packages gcc libc6-dev pkg-config libseccomp-dev
            build+=(-tags seccomp) fetch+=(-tags seccomp)
            environment+=(CGO_ENABLED=1)
            ;;
        esac
        fetch "$program" "$module" "${fetch[@]}" "$package"
        sound_go "$BUILD_LIMIT" "$module" "${build[@]}" -ldflags "-s -w $(stamps "$module" "$package")" -o "$out/$program" "$package" ||
            die "$program $(version "$module" "$package") could not be built: $why"
        printf '%s %s\n' "$program" $((SECONDS - start)) >>"$out/.times"
    done <<<"$lines"
}

# The next five are called with the variables of make_set; `why` is set where they fail.

# fetch PROGRAM MODULE ARG...: what go needs for the command, into go's own cache.
fetch() {
    sound_go "$FETCH_LIMIT" "${@:2}" ||
        die "the modules of $1 $(version "$2" "${!#}") could not be fetched from ${GOPROXY:-the Go module proxy}: $why"
}

# copy_files MODULE PACKAGE FOLDER
copy_files() {
    local path source
    path=$(requirement "$1" "$2" | cut -d' ' -f1)
    fetch "${3##*/}" "$1" mod download "$path"
    run_go "$FETCH_LIMIT" "$1" list -m -f '{{.Dir}}' "$path"
    source=$(<"$work/printed")
    cp -r --no-preserve=mode -- "$source/${2#"$path"/}" "$3"
}

# sound_go LIMIT MODULE ARG...: and again, if it failed and a download was damaged in the cache, which would stay so.
sound_go() { run_go "$@" || { (($? != 124)) && forget_damaged "$2" && run_go "$@"; }; }

# run_go LIMIT MODULE ARG...: what it prints is in work/printed then.
run_go() {
    local status=0
    # Behind the tests that may run beside it. It stays in this process group, which a signal to the job ends.
    (
        cd -- "$modules/$2" || exit
        exec timeout --foreground --kill-after=10 "$1" nice -n 10 env "${environment[@]}" "$go" "${@:3}"
    ) 2>&1 >"$work/printed" | tee -- "$work/log" >&2 || status=${PIPESTATUS[0]}
    case $status in
    0) return ;;
    124) why="not done after $1 s" ;;
    *) why=$(reason "$work/log") ;;
    esac
    why+="; see to that and run the same again: what was fetched and compiled so far is kept in $lab/.go"
    return "$status"
}

# forget_damaged MODULE: remove the downloads that are not what go.sum says; fails if there is none.
forget_damaged() {
    local first=$why module version download found=false
    run_go "$FETCH_LIMIT" "$1" mod verify && return 1
    why=$first
    while read -r module version; do
        say "the download of $module $version is damaged, and is removed"
        # shellcheck disable=SC2001 # bash has no such case
        download=$(sed 's/[A-Z]/!\L&/g' <<<"$module") # as go names its folders
        chmod -R u+w -- "$lab/.go/mod/$download@$version" 2>/dev/null || true
        rm -rf -- "$lab/.go/mod/$download@$version" "$lab/.go/mod/cache/download/$download/@v/$version".*
        found=true
    done < <(sed -nE 's/^([^ ]+) (v[^ :]+): .*(zip|dir).*/\1 \2/p' "$work/log" | sort -u)
    $found
}

# stamps MODULE PACKAGE: the linker's arguments that tell a program its version.
stamps() {
    [[ -e $modules/$1/stamps ]] || return 0
    local version minor stamp
    version=$(version "$1" "$2")
    minor=${version#v*.}
    minor=${minor%%.*}
    while read -r stamp; do
        stamp=${stamp/=VERSION/=$version}
        printf -- '-X %s ' "${stamp/=MINOR/=$minor}"
    done <"$modules/$1/stamps"
}

# forget_downloads LAB: gigabytes that only the next version needs. Not while another run builds.
forget_downloads() {
    [[ -d $1/.go ]] || return 0
    local use
    exec {use}>>"$1/.locks/go-downloads"
    if flock -n "$use"; then
        chmod -R u+w -- "$1/.go" 2>/dev/null || true
        rm -rf -- "$1/.go"
    fi
    exec {use}>&-
}

# find_go: sets `go` to a Go that is new enough.
find_go() {
    local candidate
    for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$(lab_dir)/sid/go/bin/go"; do
        if [[ -x $candidate ]] && is_new_enough "$candidate"; then
            go=$("$candidate" env GOROOT)/bin/go
            return
        fi
    done
    lab_once "$(lab_dir)/sid/go" make_go $GO_MINOR
    go=$(lab_dir)/sid/go/bin/go
}

is_new_enough() {
    local version
    version=$(GOTOOLCHAIN=local "$1" env GOVERSION) || return
    version=${version#go1.}
    version=${version%%[!0-9]*}
    ((version >= GO_MINOR))
}

# make_go OUT WORK MINOR: Debian sid's. One folder: its src and pkg are links into share.
make_go() {
    local out=$1 work=$2 go=1.$3
    if ! sid_depends "golang-$go-go" >/dev/null; then # sid has moved on: its default then
        go=$(sid_depends golang-go | sed -n 's/^golang-\([0-9.]*\)-go$/\1/p')
    fi
    sid_unpack "$work" "golang-$go-go" "golang-$go-src"
    cp -rL -- "$work/usr/lib/go-$go/." "$out"
}

# --- for people -----------------------------------------------------------------------------------

table() {
    local set module program package folder size took
    printf '%-16s%-25s%-18s%8s%8s\n' set program version MB seconds
    for set in $(sets); do
        folder=$(target "$set")
        while read -r module program package _; do
            size=- took=-
            if [[ -e $folder/$program ]]; then
                size=$(($(stat -c %s -- "$folder/$program") / 1000000))
                took=$(awk -v program="$program" '$1 == program { print $2 }' "$folder/.times")
            fi
            printf '%-16s%-25s%-18s%8s%8s\n' "$set" "$program" "$(version "$module" "$package")" "$size" "$took"
        done < <(lines "$set")
    done
}

# update MODULE VERSION
update() {
    local module=$1 new=$2 old packages lab goes
    mapfile -t packages < <(awk -v module="$module" '/^[^#]/ && $2 == module && $5 != "files" { print $4 }' "$modules/programs" | sort -u)
    ((${#packages[@]})) || die "no module '$module'; there are: $(awk '/^[^#]/ && !seen[$2]++ { print $2 }' "$modules/programs" | paste -sd' ')"
    lab=$(lab_dir)
    find_go
    old=$(version "$module" "${packages[0]}")
    for goes in "${!packages[@]}"; do # a tool from elsewhere (ginkgo) has a version of its own
        [[ $(version "$module" "${packages[goes]}") == "$old" ]] || unset "packages[$goes]"
    done
    # Kubernetes' own modules: v0.37.2 belongs to v1.37.2.
    sed -i -E "s/(=> k8s.io\/[^ ]+) v0\..*/\1 v0.${new#v1.}/" "$modules/$module/go.mod"
    (
        cd -- "$modules/$module" || exit
        local environment=(GOENV=off GOTOOLCHAIN=local GOFLAGS=-mod=mod GOMODCACHE="$lab/.go/mod" GOCACHE="$lab/.go/build")
        env "${environment[@]}" "$go" get -tool "${packages[@]/%/@$new}"
        # Programs that are tests need more in go.sum than a tool does.
        env "${environment[@]}" "$go" list -test -deps "${packages[@]}" >/dev/null
    ) >&2
    forget_downloads "$lab"
    say "scripts/lab/go/$module is at $new now; scripts/lab/programs.sh get SET builds it"
}

main() {
    help_if_asked "$@"
    case ${1-}/$# in
    get/[2-9] | get/[1-9]?) get "${@:2}" ;;
    table/1) table ;;
    update/3) update "${@:2}" ;;
    *) usage ;;
    esac
}

main "$@"
