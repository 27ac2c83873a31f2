#!/usr/bin/env bash
# Runs runc on machines without CAP_SYS_RESOURCE, as many virtual machines and most containers are. Sandboxes
# of Kubernetes ask for an oom_score_adj below the runtime's own, and privileged containers for every capability
# that the kernel knows. Without CAP_SYS_RESOURCE runc fails at both ("can't get final child's PID from pipe:
# EOF"; "unable to apply caps"). This script removes both from what it is asked for, and runs runc.
#
# Use: as Docker's --add-runtime or containerd's BinaryName, with the real runc in PATH. For the lab only: the
# setting protects pods.

set -euo pipefail

# A container is in a bundle; a process of `exec` in a file of its own.
bundle='' process=''
for ((i = 1; i <= $#; i++)); do
    next=$((i + 1))
    case ${!i} in
    --bundle | -b) bundle=${!next-} ;;
    --bundle=*) bundle=${!i#*=} ;;
    --process) process=${!next-} ;;
    --process=*) process=${!i#*=} ;;
    esac
done
for file in ${bundle:+"$bundle/config.json"} ${process:+"$process"}; do
    # The quotes of a key cannot be part of a value: those have a backslash before them.
    sed -E -i 's/"oomScoreAdj":-?[0-9]+,//; s/,?"oomScoreAdj":-?[0-9]+//
        s/"CAP_SYS_RESOURCE",//g; s/,?"CAP_SYS_RESOURCE"//g' -- "$file"
done
exec runc "$@"
