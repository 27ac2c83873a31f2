#!/usr/bin/env bash
# libcni 1.3.1 reads a list's own keys by their exact letters, and those of its plugins in any.
#
# A plugin reads its config with encoding/json, which matches keys in any case. So does libcni for the entries of
# `plugins`: "Type" and "CAPABILITIES" count. But the list around them is a map to libcni, with exact keys:
# "CNIVersion" and "DisableCheck" are passed over without a word, and a list that says "Plugins" is a good list
# without any plugin.
#
# Use: findings/libcni-list-keys-are-exact.sh      (needs Go 1.26)
# Seen: as below. Fails when that has changed.

set -euo pipefail
LIBCNI=v1.3.1

work=$(mktemp -d)
trap 'chmod -R u+w -- "$work" && rm -rf -- "$work"' EXIT
export GOMODCACHE=$work/mod GOCACHE=$work/cache GOFLAGS=-mod=mod CGO_ENABLED=0
cd -- "$work"
cat >main.go <<'END'
package main

import (
	"fmt"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	for _, text := range []string{
		`{"cniVersion": "1.0.0", "name": "n", "plugins": [{"Type": "bridge", "CAPABILITIES": {"mac": true}}]}`,
		`{"CNIVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}`,
		`{"cniVersion": "1.0.0", "name": "n", "DisableCheck": true, "plugins": [{"type": "bridge"}]}`,
		`{"cniVersion": "1.0.0", "name": "n", "Plugins": [{"type": "bridge"}]}`,
	} {
		list, err := libcni.ConfListFromBytes([]byte(text))
		if err != nil {
			fmt.Println("error")
			continue
		}
		fmt.Printf("version=%q check-off=%v", list.CNIVersion, list.DisableCheck)
		for _, plugin := range list.Plugins {
			fmt.Printf(" %s%v", plugin.Network.Type, plugin.Network.Capabilities)
		}
		fmt.Println()
	}
}
END
go mod init finding >&2
go get "github.com/containernetworking/cni@$LIBCNI" >&2
seen=$(go run .)
printf 'libcni %s:\n%s\n' "$LIBCNI" "$seen"
[[ $seen == 'version="1.0.0" check-off=false bridgemap[mac:true]
version="" check-off=false bridgemap[]
version="1.0.0" check-off=false bridgemap[]
version="1.0.0" check-off=false' ]] || { echo "this has changed" >&2 && exit 1; }
