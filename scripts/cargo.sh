# shellcheck shell=bash
# Finds cargo for a script that may run as root. sudo and su replace PATH and HOME, so root may not see the
# Rust of the user who owns the checkout.
#
# Use: `source` this file, then
#
#   find_cargo CHECKOUT   set the array `cargo` to the command; fail if there is no cargo

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
