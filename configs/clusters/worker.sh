#!/usr/bin/env bash
# Puts this machine into a Ray cluster and keeps it there:   worker.sh HEAD:PORT [options of `ray start`]
#
# Returns when Ray has started here, and leaves a loop running that
#   starts Ray again if it has died (a node that was cut off for a few seconds is declared dead, and its Ray ends);
#   stops Ray and ends when the head's machine says for half a minute that no Ray runs there, which is what `ray down` leads to,
#   or when it has not answered at all for ten minutes.
# Run again, it ends the loop before it, stops Ray and starts anew: once more does no harm. Its log: see below.
set -u
export LC_ALL=C # bash's own words for a refused connection are looked at
LOOK_SECONDS=3 REFUSED_SECONDS=30 SILENT_SECONDS=600 START_SECONDS=60 MOST_FAILURES=20
# On this machine's own disk: a home folder may be shared by all of them, and its locks with it.
folder=/tmp/alexnet-worker-$(id -u)

running() { pgrep -u "$(id -u)" -x raylet >/dev/null; }

only_one() { # end the loop before this one, and wait until its last `ray start` has returned
    exec 9>>"$folder/lock"
    if ! flock --nonblock 9; then
        before=$(cat "$folder/pid")
        if grep -q worker.sh "/proc/$before/cmdline" 2>/dev/null; then kill "$before"; fi
        flock --wait $START_SECONDS 9 || exit 1
    fi
    echo $$ >"$folder/pid"
    trap 'exit 0' TERM # bash takes it between two commands
}

head_says() { # yes, refused or nothing
    if said=$(timeout $LOOK_SECONDS bash -c ": </dev/tcp/${1%:*}/${1##*:}" 2>&1); then
        echo yes
    elif [[ $said == *"Connection refused"* ]]; then
        echo refused
    else
        echo nothing
    fi
}

leave() {
    echo "$(date '+%F %T') $1; stopping Ray here"
    ray stop 9>&-
    exit 0
}

keep() {
    local head=$1 last=$SECONDS failures=0 wait
    shift
    only_one
    ray stop 9>&- # children must not inherit the lock: they live longer than this loop
    while true; do
        case $(head_says "$head") in
        yes)
            last=$SECONDS
            if running; then
                failures=0
            else
                echo "$(date '+%F %T') starting Ray, head $head"
                ray start --address="$head" "$@" 9>&- || failures=$((failures + 1))
            fi ;;
        refused) if ((SECONDS - last > REFUSED_SECONDS)); then leave "no Ray runs on the head any more"; fi ;;
        nothing) if ((SECONDS - last > SILENT_SECONDS)); then leave "the head has been silent for too long"; fi ;;
        esac
        if ((failures >= MOST_FAILURES)); then leave "Ray did not start in $failures attempts"; fi
        sleep $LOOK_SECONDS 9>&-
    done
}

if [ "${1:-}" = --loop ]; then
    shift
    keep "$@"
fi
if [ $# -eq 0 ]; then
    sed -n '2,9s/^# \?//p' "$0"
    exit 2
fi
head=$1
shift
mkdir -p -m 700 "$folder"
# The address at which the head has reached this machine is the one that it should have in the cluster, whatever networks there are.
if [ -n "${SSH_CONNECTION:-}" ]; then set -- --node-ip-address="$(cut -d ' ' -f 3 <<<"$SSH_CONNECTION")" "$@"; fi
: >"$folder/log"
setsid nohup bash "$0" --loop "$head" "$@" >>"$folder/log" 2>&1 </dev/null &
loop=$!
for _ in $(seq $START_SECONDS); do
    sleep 1
    if grep -q "Ray runtime started" "$folder/log"; then
        echo "joined $head; log: $folder/log"
        exit 0
    fi
    if ! kill -0 $loop 2>/dev/null; then break; fi
done
echo "this machine did not join $head:" >&2
tail -n 30 "$folder/log" >&2
exit 1
