#!/usr/bin/env bash
# Runs a command as root on another kernel: a virtual machine on this machine's files.
#
# Use: scripts/lab/vm.sh KERNEL COMMAND...
#      scripts/lab/vm.sh kernel KERNEL            fetch it only, and print its folder
#
# KERNEL is one of Debian's:
#
#   5.10   bullseye's
#   6.1    bookworm's
#   6.12   that of bookworm's backports
#   sid    the present one, 7.2 or newer
#
# COMMAND runs where the caller stands, sees the machine's files read-only with a layer in memory over
# them, has fresh /run, /var/lib/cni and cgroup v2, and no network but lo. What it prints comes out here;
# the exit status is its own, or 124 after VM_LIMIT seconds (600), or 125 when the machine did not boot.
# VM_MEMORY is in MB (2048). VM_OPTIONS is for the kernel's command line: module_blacklist=nf_tables,
# ipv6.disable=1. These kernels have what the host's may lack: VLAN filtering of bridges,
# ipvlan, WireGuard, dummy, flowtables, and netkit from 6.7 on.
#
# QEMU without KVM: a shell after 10 to 40 seconds, then some ten times slower than the host.
# For example: scripts/lab/vm.sh 6.1 uname -r

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# kernel NAME: prints the folder with vmlinuz and modules, of this architecture.
kernel() {
    local target
    target=$(lab_dir)/kernels/$1
    lab_once "$target" make_kernel "$1"
    printf '%s\n' "$target"
}

# make_kernel OUT WORK NAME: whatever packages the metapackage leads to, their files in /boot and modules.
make_kernel() {
    local out=$1 work=$2 suite package needed file
    case $3 in
    5.10) suite=bullseye ;;
    6.1) suite=bookworm ;;
    6.12) suite=bookworm-backports ;;
    sid) suite=sid ;;
    esac
    need_packages kmod
    local wanted=(linux-image-amd64) seen=' '
    while ((${#wanted[@]})); do
        package=${wanted[0]} wanted=("${wanted[@]:1}")
        [[ $seen != *" $package "* ]] || continue
        seen+="$package "
        needed=$(lab__depends "$suite" "$package")
        mapfile -t -O "${#wanted[@]}" wanted < <(grep -E '^linux-(image|binary|modules)-[0-9]' <<<"$needed" || true)
    done
    # shellcheck disable=SC2086 # names
    lab__unpack "$suite" "$work" ${seen/ linux-image-amd64 / }
    file=$(find "$work" -name 'vmlinuz*' -type f -print -quit)
    [[ -n $file ]] || die "$suite: no vmlinuz in$seen"
    cp -- "$file" "$out/vmlinuz"
    # One package may have /lib/modules, and another /usr/lib/modules.
    mkdir -p -- "$out/lib/modules"
    find "$work" -type d -path '*/lib/modules' -exec cp -r -- {}/. "$out/lib/modules" ';'
    file=$(find "$out/lib/modules" -name kernel -type d -print -quit)
    [[ -n $file ]] || die "$suite: no modules in$seen"
    depmod -b "$out" "$(basename -- "${file%/*}")" 2>/dev/null # sid ships no modules.order, of which it warns
}

# initrd KERNEL OUT: just enough to mount the machine's files.
initrd() {
    local root=$work/initrd name file
    mkdir -p -- "$root"/{bin,proc,sys,dev,host,memory,new,modules}
    cp -- /bin/busybox "$root/bin"
    # In this order: what later ones need comes first.
    for name in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci netfs fscache 9pnet 9pnet_virtio 9p overlay; do
        file=$(find "$1/lib/modules" -name "$name.ko*" -print -quit)
        case $file in
        *.xz) xz -dc -- "$file" ;;
        *.zst) zstd -dqc -- "$file" ;;
        *.ko) cat -- "$file" ;;
        esac >"$root/modules/$name.ko"
        [[ -s $root/modules/$name.ko ]] || rm -- "$root/modules/$name.ko" # built in, or of another version
    done
    cat >"$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for again in 1 2 3; do # whatever the order of this version's dependencies is
    for module in /modules/*.ko; do insmod "$module" 2>/dev/null; done
done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host || echo VM-NO-FILES
mount -t tmpfs -o size=75% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /new
for folder in proc sys dev; do
    mkdir -p /new/$folder
    mount --move /$folder /new/$folder
done
exec switch_root /new /bin/bash VM_JOB
END
    sed -i "s|VM_JOB|$work/job|" "$root/init"
    chmod +x "$root/init"
    (cd -- "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$2"
}

# job KERNEL COMMAND...: what runs in there as the first process.
job() {
    local folder=$1
    shift
    cat <<END
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock /var/lib/cni /dev/shm /dev/pts
mount -t tmpfs tmpfs /var/lib/cni
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /usr/lib/modules
mount -t tmpfs tmpfs /usr/lib/modules
ln -s "$folder"/lib/modules/* /usr/lib/modules/
ip link set lo up
hostname vm
cd -- $(printf '%q' "$PWD")
$(export -p)
stty -onlcr </dev/ttyS0 2>/dev/null
printf 'VM-BEGIN\n'
$(printf '%q ' "$@")
printf 'VM-END %d\n' \$?
/bin/busybox poweroff -f
END
}

run() {
    local folder status=0 line begun=false ended=''
    ((EUID == 0)) || die "this needs root: the machine's files are shown to root of another kernel"
    need_packages qemu-system-x86 busybox-static cpio xz-utils zstd kmod
    folder=$(kernel "$1")
    shift
    lab_work vm
    trap 'rm -rf -- "$work"' EXIT
    trap 'exit 143' TERM HUP
    trap 'exit 130' INT
    initrd "$folder" "$work/initrd.gz"
    job "$folder" "$@" >"$work/job"
    while IFS= read -r line; do
        line=${line%$'\r'}
        case $line in
        *VM-BEGIN) begun=true ;; # the firmware may have left something on the line
        *VM-END\ [0-9]*)
            ended=${line##*VM-END } line=${line%VM-END *} # the command may have left something too
            [[ -z $line ]] || printf '%s\n' "$line"
            ;;
        *) if $begun && [[ -z $ended ]]; then printf '%s\n' "$line"; else printf '%s\n' "$line" >>"$work/boot"; fi ;;
        esac
    done < <(
        # Both end with this script, whatever ends it.
        exec setpriv --pdeathsig TERM timeout --foreground --kill-after=5 "${VM_LIMIT:-600}" \
            setpriv --pdeathsig KILL qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "${VM_MEMORY:-2048}" \
            -kernel "$folder/vmlinuz" -initrd "$work/initrd.gz" \
            -append "console=ttyS0 panic=-1 quiet loglevel=1 rdinit=/init ${VM_OPTIONS-}" -nographic -no-reboot -nic none \
            -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap </dev/null 2>&1
    )
    if [[ -n $ended ]]; then
        status=$ended
    elif $begun; then
        say "stopped after ${VM_LIMIT:-600} s (VM_LIMIT)"
        status=124
    else
        tail -n 20 -- "$work/boot" >&2
        say "the machine did not come up within ${VM_LIMIT:-600} s (VM_LIMIT)"
        status=125
    fi
    exit "$status"
}

help_if_asked "$@"
case ${1-}/$# in
kernel/2) case $2 in 5.10 | 6.1 | 6.12 | sid) kernel "$2" ;; *) usage ;; esac ;;
*/0 | */1) usage ;;
5.10/* | 6.1/* | 6.12/* | sid/*) run "$@" ;;
*) usage ;;
esac
