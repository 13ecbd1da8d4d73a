#!/usr/bin/env bash
# robust_jem, jempp and at on real CIFAR-10, from data to report, in pieces: run it again until it says that all is done.
#
#     bash docs/results/cifar10-fast.sh [SECONDS of a piece] [STUDY] [METHOD ...]
#
# A piece that comes to its end in the middle of a stage leaves what was done, and the next goes on from there. Exit code: 0
# when all is done, 75 when it is to be run again. What was found is in comparison.md and comparison.html then.
set -u
cd "$(dirname "$0")/../.."
piece=${1:-480} study=${2:-cifar10-fast}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- robust_jem jempp at
end=$((SECONDS + piece))
trap 'end=0' INT TERM

for method; do
    left=$((end - SECONDS))
    if [ $left -le 0 ]; then
        echo "a piece of $piece s is over before $method; run it again"
        exit 75
    fi
    echo "== $study $method, $left s left"
    setsid dvc exp run -S "study=$study" -S "method=$method" &
    running=$!
    while kill -0 $running 2>/dev/null; do
        sleep 1
        # to the stage alone: DVC, interrupted while it writes a lock file, leaves half of it
        [ $SECONDS -lt $end ] || { pkill --session $running --signal INT -f 'python stages/' && sleep 30; }
    done
    wait $running
    code=$?
    if [ $SECONDS -ge $end ] && [ $code -ne 0 ]; then
        echo "a piece of $piece s is over in $method; run it again"
        exit 75
    fi
    [ $code -eq 0 ] || exit $code
done
dvc repro --single-item stages/dvc.yaml:compare || exit $?
echo "all is done: comparison.md, comparison.html"
