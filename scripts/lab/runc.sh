#!/usr/bin/env bash
# Runs runc on machines without CAP_SYS_RESOURCE, as many virtual machines and most containers are. Sandboxes
# of Kubernetes ask for an oom_score_adj below the runtime's own, and without the capability runc fails with
# "can't get final child's PID from pipe: EOF". This script removes the setting, and runs runc.
#
# Use: as Docker's --add-runtime or containerd's BinaryName, with the real runc in PATH. For the lab only: the
# setting protects pods.

set -euo pipefail

bundle=
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
    --bundle | -b) next=$((i + 1)) && bundle=${!next-} ;;
    --bundle=*) bundle=${!i#*=} ;;
    esac
done
if [[ -n $bundle ]]; then
    # The quotes of a key cannot be part of a value: those have a backslash before them.
    sed -E -i 's/"oomScoreAdj":-?[0-9]+,//; s/,?"oomScoreAdj":-?[0-9]+//' -- "$bundle/config.json"
fi
exec runc "$@"
