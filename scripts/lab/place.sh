# shellcheck shell=bash
# A place for daemons: one folder in memory, and an end that leaves nothing behind: no process, mount, cgroup
# or file. It is in the caller's network and mount namespaces, which must not be the machine's.
#
# Use: `source` this file after lib.sh, then
#
#   place_open NAME               make the folder, `home`; everything is removed on exit or a signal
#   place_folders [DIR]           make /run, /var/lib, /var/log and /opt empty, and /etc a writable copy;
#                                 with DIR, what is written under /var/lib is kept there
#   place_mount OPTION... FOLDER  mount, until the end
#   place_keep NAME COMMAND...    start a daemon, and again whenever it ends, as an init would, except while
#                                 the file $home/NAME.hold exists; its output goes to $home/NAME.log
#   place_await WHAT COMMAND...   wait until COMMAND succeeds; after three minutes, show the logs and end
#   place_live COMMAND...         run COMMAND with the script's stdin, and exit with its status
#
# `place_last` may be set, right after place_open, to a command that runs when everything else is gone.
#
# When the script is killed, a guard closes the place. When that is killed, too (a namespace of processes ends with
# its first), what is left is an empty folder and cgroups, which the next place removes.
#
# A process belongs to a place if its command line contains the folder's path, or if it is in a cgroup under
# the folder's name (`name`), where containers run.

home='' name='' place_last=()

place_open() {
    local kind
    ((EUID == 0)) || die "this needs root"
    [[ $(tr -s ' ' </proc/self/uid_map) == ' 0 0 4294967295' ]] || die "this needs root outside of user namespaces"
    for kind in net mnt; do
        [[ $(readlink "/proc/self/ns/$kind") != $(readlink "/proc/1/ns/$kind") ]] ||
            die "this is the machine's own network; run: unshare --net --mount ${BASH_SOURCE[1]} ..."
    done
    place_sweep
    home=$(mktemp -d -t "pausenet-$1.XXXXXX")
    lab_hold "$home" || die "$home is held by another script"
    name=${home##*/}
    place__child=0 place__daemons=() place__mounts=() place__guard=0
    trap place__close EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    exec {place__input}<&0 </dev/null
    mount -t tmpfs -o mode=0755 tmpfs "$home" # removing an image from a disk takes seconds
    place__remember
    # The kernel tells the guard when this script is killed. Its command line must not name the folder.
    export PLACE=$home
    # shellcheck disable=SC2016 # expanded in there
    setsid setpriv --pdeathsig TERM "$BASH" -c "$(declare -f); "'place__guard' {place__input}<&- >/dev/null 2>&1 &
    place__guard=$!
    disown "$place__guard"
}

place__guard() {
    local quiet
    home=$PLACE name=${PLACE##*/}
    # shellcheck disable=SC1091 # place__remember writes it
    trap 'source "$home/.place"; place__guard=0; place__close; exit' TERM
    exec {quiet}<> <(:)
    while :; do
        read -r -u "$quiet" || true
    done
}

# place__remember: for the guard.
place__remember() {
    declare -p place__child place__daemons place__mounts place_last >"$home/.new"
    mv -- "$home/.new" "$home/.place"
}

# place_sweep: remove what is left of places whose guards were killed, too.
place_sweep() {
    local left
    for left in "${TMPDIR:-/tmp}"/pausenet-{containerd,docker,kubernetes,machine,node,podman}.??????; do
        [[ ! -d $left || ! -O $left ]] || lab_unless_held "$left" place__remove "$left"
    done
}

place__remove() {
    place__remove_cgroups "${1##*/}"
    rmdir -- "$1" 2>/dev/null || true
}

place__remove_cgroups() {
    find /sys/fs/cgroup -depth -type d \( -path "*/$1/*" -o -path "*/$1" \) -exec rmdir -- {} + 2>/dev/null || true
}

place_folders() {
    local folder
    mount --make-rshared / # as an init does, so that kubelet's mounts reach containers
    for folder in /run /var/lib /var/log /opt; do
        if [[ $folder == /var/lib && -n ${1-} ]]; then
            place_mount --bind "$1" "$folder"
        else
            place_mount -t tmpfs -o mode=0755 tmpfs "$folder"
        fi
    done
    mkdir -- "$home/etc" "$home/etc/upper" "$home/etc/work"
    place_mount -t overlay -o "lowerdir=/etc,upperdir=$home/etc/upper,workdir=$home/etc/work" overlay /etc
}

place_mount() {
    mount "$@"
    place__mounts=("${!#}" "${place__mounts[@]}")
    place__remember
}

# In a session of its own: Ctrl-C in a terminal must not end a daemon before its containers.
place_keep() {
    local log=$home/$1.log hold=$home/$1.hold
    shift
    while kill -0 $$ 2>/dev/null; do
        [[ -e $hold ]] || setsid "$@" || true
        sleep 0.1 # a daemon that cannot start must not take all processors
    done >>"$log" 2>&1 {place__input}<&- &
    place__daemons+=($!)
    place__remember
}

place_await() {
    local what=$1 deadline=$((SECONDS + 180)) log
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            for log in "$home"/*.log; do
                printf '%s:\n' "$log" && tail -n 15 -- "$log" | cut -c -300
            done >&2
            die "timed out waiting for $what"
        fi
        sleep 0.1
    done
}

place_live() {
    local status
    "$@" <&"$place__input" {place__input}<&- &
    place__child=$!
    place__remember
    # A trapped signal ends a wait, too.
    while status=0; wait "$place__child" || status=$?; ((status > 128)) && kill -0 "$place__child" 2>/dev/null; do :; done
    place__child=0
    exit "$status"
}

# Everything that the daemons made is below the folder or has its name, so they are not asked to undo it. (It
# would take seconds, and they may hang.)
place__close() {
    set +e
    trap '' INT TERM HUP
    ((place__child == 0)) || place__end_child
    if ((${#place__daemons[@]})); then
        kill -KILL "${place__daemons[@]}"
        # Not `wait`: in the first process of a namespace it may go on for as long as any orphan lives.
        while kill -0 "${place__daemons[@]}"; do
            sleep 0.02
        done
    fi 2>/dev/null
    while place__kill_what_lives; do
        sleep 0.02
    done
    local mount
    for mount in "${place__mounts[@]}"; do
        umount --lazy -- "$mount"
    done
    while read -r mount; do
        umount --lazy -- "$mount"
    done < <(awk -v home="$home" 'index($5, home) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
    place__remove_cgroups "$name"
    rmdir -- "$home"
    ((${#place_last[@]} == 0)) || "${place_last[@]}" 2>/dev/null
    ((place__guard == 0)) || kill -KILL "$place__guard" 2>/dev/null
}

# The command may have a place of its own to close.
place__end_child() {
    local deadline=$((SECONDS + 30))
    kill -TERM "$place__child" && kill -HUP "$place__child" # a shell at a terminal ignores the first
    while kill -0 "$place__child" && ((SECONDS < deadline)); do
        sleep 0.02
    done
    kill -KILL "$place__child"
} 2>/dev/null

# Kill what is in our cgroups or has our folder in its command line. Fails if there is nothing.
place__kill_what_lives() {
    local pids all=(/proc/[0-9]*/cmdline) # listed before the grep, which would find itself
    mapfile -t pids < <(
        find /sys/fs/cgroup \( -path "*/$name/*" -o -path "*/$name" \) -name cgroup.procs -exec cat {} +
        grep -lsF -- "$home/" "${all[@]}" | tr -dc '0-9\n'
    )
    ((${#pids[@]})) && kill -KILL "${pids[@]}"
    ((${#pids[@]}))
} 2>/dev/null
