#!/usr/bin/env bash
# launch/supervise.sh COMMAND...: runs a training command and starts it again when it dies, from its latest checkpoint if
# the command says checkpoint.resume=auto. At most HEADROOM_RESTARTS times (10), HEADROOM_RESTART_SECONDS (5) apart.
#
# What starting again does not help ends it with the command's own code: done (0), a wrong configuration (2), memory (3),
# divergence (4), told to stop (75). USR1 is passed on to the command; TERM and INT end it for good.
set -uo pipefail

restarts=${HEADROOM_RESTARTS:-10}
pause=${HEADROOM_RESTART_SECONDS:-5}
child=
stop= # the signal that ends this for good
signalled=
trap 'signalled=1; stop=${stop:-USR1}; [[ -z $child ]] || kill -USR1 "$child" 2>/dev/null' USR1
trap 'signalled=1; stop=TERM; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM INT

# Waits until the process has ended; a signal ends a wait, not the process. Its code is in $code.
wait_for() {
    while :; do
        signalled=
        wait "$1"
        code=$?
        [[ -n $signalled ]] || break
    done
}

for ((attempt = 0; ; attempt++)); do
    "$@" &
    child=$!
    wait_for "$child"
    child=
    case $code in 0 | 2 | 3 | 4 | 75) exit "$code" ;; esac
    if [[ -n $stop ]] || ((attempt == restarts)); then
        echo "supervise: ended with code $code after $attempt restarts" >&2
        exit "$code"
    fi
    echo "supervise: ended with code $code; start $((attempt + 2)) of at most $((restarts + 1)) in $pause s" >&2
    sleep "$pause" &
    ended=$code
    wait $! # a signal ends the pause
    if [[ -n $stop ]]; then
        echo "supervise: told to stop between two starts" >&2
        [[ $stop == USR1 ]] && exit 75
        exit "$ended"
    fi
done
