#!/usr/bin/env bash
# launch/supervise.sh COMMAND...: runs a training command and starts it again when it dies, from its latest checkpoint if
# the command says checkpoint.resume=auto. At most HEADROOM_RESTARTS times (10), HEADROOM_RESTART_SECONDS (5) apart.
#
# What starting again does not help ends it with the command's own code: done (0), a wrong configuration (2), memory (3),
# divergence (4), told to stop (75). USR1 is passed on to the command; TERM and INT end it for good.
set -uo pipefail

restarts=${HEADROOM_RESTARTS:-10}
pause=${HEADROOM_RESTART_SECONDS:-5}
ends=false
trap 'kill -USR1 "$child" 2>/dev/null' USR1
trap 'ends=true; kill -TERM "$child" 2>/dev/null' TERM INT

for ((attempt = 0; ; attempt++)); do
    "$@" &
    child=$!
    while :; do # a signal ends a wait, not the child
        wait "$child"
        code=$?
        kill -0 "$child" 2>/dev/null || break
    done
    case $code in 0 | 2 | 3 | 4 | 75) exit "$code" ;; esac
    if $ends || ((attempt == restarts)); then
        echo "supervise: ended with code $code after $attempt restarts" >&2
        exit "$code"
    fi
    echo "supervise: ended with code $code; start $((attempt + 2)) of at most $((restarts + 1)) in $pause s" >&2
    sleep "$pause" &
    wait $!
done
