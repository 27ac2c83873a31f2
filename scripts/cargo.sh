# shellcheck shell=bash
# Finds Rust for a script that may be run as root, whose PATH and HOME need not be those of the user
# with Rust: sudo and su put others in their place.
#
# Use: `source` this file, then
#
#   find_cargo CHECKOUT   set `cargo` to the command and its first words; fails if there is none

find_cargo() {
    local owner
    owner=$(stat -c %U -- "$1")
    if [[ ${SUDO_USER-} == "$owner" ]] && cargo_of "$owner"; then
        return # and what is built is theirs
    fi
    cargo=(cargo)
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
    cargo --version >/dev/null 2>&1 || cargo_of "$owner"
}

# cargo_of USER: sets `cargo` to one that root runs as that user.
cargo_of() {
    local home
    home=$(getent passwd "$1" | cut -d: -f6) || return
    ((EUID == 0)) && [[ $1 != root && -n $home ]] || return
    cargo=(runuser -u "$1" -- env "HOME=$home" "PATH=$home/.cargo/bin:$PATH" cargo)
    "${cargo[@]}" --version >/dev/null 2>&1
}
