#!/usr/bin/env bash
# launch/mpirun.sh RANKS CONFIG.yaml [section.key=value ...]: trains with so many ranks on this machine, or, with
# --hostfile in HEADROOM_MPIRUN_OPTIONS, on several (launch/hosts has an example). Sets what Open MPI wants to be told,
# and nothing of what the program does. HEADROOM names another program than build/release/headroom.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
ranks=$1
shift
program=${HEADROOM:-$(dirname "$0")/../build/release/headroom}
read -ra options <<<"${HEADROOM_MPIRUN_OPTIONS-}"

if [[ $(id -u) -eq 0 ]]; then # as in containers
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Ranks may be more than cores, and bind themselves.
exec mpirun -np "$ranks" --oversubscribe --bind-to none "${options[@]}" "$program" train "$@"
