#!/usr/bin/env bash
# Prints the path of Debian sid's nft, to test that it reads back the ruleset that pausenet makes. (The machine's
# own is bookworm's 1.0.6.)
#
# Use: scripts/lab/nft.sh
#
# It runs with the libraries that it was built with, which are unpacked beside it, and not with the machine's.

# shellcheck source=lib.sh disable=SC1091
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# make_nft OUT WORK: unpack it, and write a program that starts it from wherever OUT is then.
make_nft() {
    local out=$1 package needed
    local -a packages=(nftables libc6)
    # The names of the libraries' packages change with sid.
    for package in nftables libnftables1; do
        needed=$(sid_depends "$package")
        mapfile -t -O "${#packages[@]}" packages < <(grep '^lib' <<<"$needed" || true)
    done
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    sid_unpack "$out/root" "${packages[@]}"
    cat >"$out/nft" <<'END'
#!/bin/sh
root=$(dirname -- "$0")/root
libraries=$(printf "%s:" "$root"/usr/lib/*-linux-gnu* "$root"/lib/*-linux-gnu*)
for loader in "$root"/usr/lib64/ld-linux-*.so.* "$root"/lib64/ld-linux-*.so.* "$root"/usr/lib/*/ld-linux-*.so.*; do
    [ -x "$loader" ] || continue
    exec "$loader" --library-path "$libraries" "$root/usr/sbin/nft" "$@"
done
echo "no loader in $root" >&2
exit 1
END
    chmod +x -- "$out/nft"
    [[ $("$out/nft" --version) == nftables* ]] || die "sid's nft does not run"
}

main() {
    help_if_asked "$@"
    (($# == 0)) || usage
    local target
    target=$(lab_dir)/sid/nft
    lab_once "$target" make_nft
    printf '%s/nft\n' "$target"
}

main "$@"
