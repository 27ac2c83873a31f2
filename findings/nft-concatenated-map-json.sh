#!/usr/bin/env bash
# nft 1.0.6 does not read back what it writes as JSON: a map with a concatenated key.
#
# As text the same ruleset goes through `nft list ruleset | nft -f -`; as JSON, `nft -j list ruleset | nft -j -f -`
# fails with "Invalid map type". nft 1.0.6 is that of Debian 12. nftables 1.1.7 reads its own.
#
# Use: findings/nft-concatenated-map-json.sh      (as root, on Debian 12, whose package nftables 1.0.6 it unpacks)
# Seen: text is read, JSON is not. Fails when that has changed.

set -euo pipefail
NFTABLES=1.0.6-2+deb12u2

if [[ ${1-} != inside ]]; then
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    (cd -- "$work" && apt-get -q -o APT::Sandbox::User=root download nftables="$NFTABLES" libnftables1="$NFTABLES") >&2
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$work/root"
    done
    unshare --net "$0" inside "$work/root"
    exit
fi

nft() { LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu) "$root/usr/sbin/nft" "$@"; }
root=$2
nft -f - <<'END'
table ip t {
    map m {
        type ipv4_addr . inet_service : ipv4_addr . inet_service
        elements = { 10.0.0.1 . 80 : 10.0.0.2 . 8080 }
    }
}
END
text=$(nft list ruleset)
json=$(nft -j list ruleset)
nft flush ruleset
nft -f - <<<"$text" && echo "nft $NFTABLES: its text is read back"
nft flush ruleset
if refused=$(nft -j -f - <<<"$json" 2>&1); then
    echo "nft $NFTABLES: its JSON is read back: this has changed" >&2
    exit 1
fi
echo "nft $NFTABLES: its JSON is not: $(head -n 1 <<<"$refused")"
grep -q "Invalid map type" <<<"$refused"
