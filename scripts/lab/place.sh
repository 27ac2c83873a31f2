# shellcheck shell=bash
# A place for daemons: one folder in memory, and an end that leaves nothing of it: no process, mount,
# cgroup or file. In the caller's network and mount namespaces, which have to be the caller's own.
#
# Use: `source` this file after lib.sh, then
#
#   place_open NAME               from here on `home` is the folder, and all of it goes on exit or signal
#   place_folders [DIR]           /run, /var/lib, /var/log and /opt are empty, /etc is a copy to write on;
#                                 with DIR, what is written under /var/lib stays there
#   place_mount OPTION... FOLDER  mount, until the end
#   place_keep NAME COMMAND...    start a daemon, and again when it ends, as an init would, but not as
#                                 long as there is a file $home/NAME.hold; its words are in NAME.log
#   place_await WHAT COMMAND...   wait until COMMAND succeeds; if it does not, show the logs and end
#   place_live COMMAND...         run COMMAND with the script's stdin, and exit with its status
#   usage                         what stands at the top of the script that calls it; the end of wrong use
#
# `place_last` may be set to a command to run when all of this is gone.
#
# What belongs to a place is known by the folder: its path is in a daemon's command line, and its name
# (`name`) is the cgroup under which containers run.

home='' name='' place_last=()

usage() {
    sed -n '4,/^# shellcheck/{/^# shellcheck/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[1]}" >&2
    exit 2
}

place_open() {
    local kind
    ((EUID == 0)) || die "this needs root"
    [[ $(tr -s ' ' </proc/self/uid_map) == ' 0 0 4294967295' ]] || die "this needs root outside of user namespaces"
    for kind in net mnt; do
        [[ $(readlink "/proc/self/ns/$kind") != $(readlink "/proc/1/ns/$kind") ]] ||
            die "this is the machine's own network; do: unshare --net --mount ${BASH_SOURCE[1]} ..."
    done
    home=$(mktemp -d -t "pausenet-$1.XXXXXX")
    name=${home##*/}
    place__child=0 place__daemons=() place__mounts=()
    trap place__close EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    exec {place__input}<&0 </dev/null
    mount -t tmpfs -o mode=0755 tmpfs "$home" # a disk takes seconds to forget an image
}

place_folders() {
    local folder
    mount --make-rshared / # as an init does: what kubelet mounts has to reach containers
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
}

# In a session of its own: a key pressed in a terminal must not end a daemon before what it looks after.
place_keep() {
    local log=$home/$1.log hold=$home/$1.hold
    shift
    while :; do
        [[ -e $hold ]] || setsid "$@" || true
        sleep 0.1 # a daemon that cannot start must not take the whole machine
    done >>"$log" 2>&1 {place__input}<&- &
    place__daemons+=($!)
}

place_await() {
    local what=$1 deadline=$((SECONDS + 180)) log
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            for log in "$home"/*.log; do
                printf '%s:\n' "$log" && tail -n 15 -- "$log" | cut -c -300
            done >&2
            die "waited in vain for $what"
        fi
        sleep 0.1
    done
}

place_live() {
    local status
    "$@" <&"$place__input" {place__input}<&- &
    place__child=$!
    # A signal with a trap of its own ends a wait, too.
    while status=0; wait "$place__child" || status=$?; ((status > 128)) && kill -0 "$place__child" 2>/dev/null; do :; done
    place__child=0
    exit "$status"
}

# All that the daemons have done lies under their folder or carries its name, so they need not be
# asked to undo it. (It would take seconds, and they may be what hangs.)
place__close() {
    set +e
    trap '' INT TERM HUP
    ((place__child == 0)) || place__end_child
    if ((${#place__daemons[@]})); then
        kill -KILL "${place__daemons[@]}"
        wait "${place__daemons[@]}"
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
    find /sys/fs/cgroup -depth -type d \( -path "*/$name/*" -o -path "*/$name" \) -exec rmdir -- {} +
    rmdir -- "$home"
    ((${#place_last[@]} == 0)) || "${place_last[@]}" 2>/dev/null
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

# Kills what is in our cgroups or has our folder in its command line. Fails if there is none.
place__kill_what_lives() {
    local pids all=(/proc/[0-9]*/cmdline) # listed before the grep that would find itself
    mapfile -t pids < <(
        find /sys/fs/cgroup \( -path "*/$name/*" -o -path "*/$name" \) -name cgroup.procs -exec cat {} +
        grep -lsF -- "$home/" "${all[@]}" | tr -dc '0-9\n'
    )
    ((${#pids[@]})) && kill -KILL "${pids[@]}"
    ((${#pids[@]}))
} 2>/dev/null
