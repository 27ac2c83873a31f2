# shellcheck shell=bash
# Finds cargo for a script that may run as root. sudo and su replace PATH and HOME, so root may not see the
# Rust of the user who owns the checkout.
#
# Use: `source` this file, then
#
#   find_cargo CHECKOUT   set the array `cargo` to the command; fail if there is no cargo
#   host_target           then: print this machine's target, for which cargo builds by itself
#   plugin_target         then: print for which target the plugin of a release is built

find_cargo() {
    local owner
    owner=$(stat -c %U -- "$1")
    if [[ ${SUDO_USER-} == "$owner" ]] && cargo_of "$owner"; then
        return # so the build's files belong to that user
    fi
    cargo=(cargo)
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
    cargo --version >/dev/null 2>&1 || cargo_of "$owner"
}

# cargo_of USER: set `cargo` to a command that runs that user's cargo as that user.
cargo_of() {
    local home
    home=$(getent passwd "$1" | cut -d: -f6) || return
    ((EUID == 0)) && [[ $1 != root && -n $home ]] || return
    cargo=(runuser -u "$1" -- env "HOME=$home" "PATH=$home/.cargo/bin:$PATH" cargo)
    "${cargo[@]}" --version >/dev/null 2>&1
}

host_target() { rustc_of_cargo --version --verbose | sed -n 's/^host: //p'; }

# rustc_of_cargo ARG...: the one beside that cargo, as the same user.
rustc_of_cargo() { "${cargo[@]:0:${#cargo[@]}-1}" rustc "$@"; }

# plugin_target: musl's, if this Rust has it, else the host's. With musl it starts sooner: glibc finds out first what
# the processor can do, and in a virtual machine each of these questions is a trip to the hypervisor. The other programs
# start once: pause has no libc, and the daemon's cryptography would need a C compiler for musl.
plugin_target() {
    local host musl
    host=$(host_target) || return
    musl=${host/%-gnu/-musl}
    [[ -d $(rustc_of_cargo --print target-libdir --target "$musl" 2>/dev/null) ]] || musl=$host
    printf '%s\n' "$musl"
}
