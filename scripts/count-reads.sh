#!/usr/bin/env bash
# Counts, with strace and from outside, the read(2)s that the device's thread makes in a classic and in an autoreset arm
# of `bench virtio-blk`, and compares them with what the program says of itself.
#
#   scripts/count-reads.sh [BENCH]        BENCH: the binary (default: target/release/bench)
set -euo pipefail
bench=${1:-target/release/bench}
trace=$(mktemp)
report=$(mktemp)
trap 'rm -f "$trace" "$report"' EXIT

count() { # ARM: read(2)s of eight bytes by the thread called bench-device, and requests, as "reads requests"
  strace -f -qq -Y -e trace=read -o "$trace" \
    "$bench" virtio-blk --quick --rounds 1 --runtime 20ms --pin 0,0 --arms "$1" --json "$report" >/dev/null 2>&1
  # strace -Y prints the thread's name behind its id. A thread reads its ELF and /proc files in other sizes.
  local reads
  reads=$(grep -c '<bench-device>.*read([0-9]*, .*, 8) *= 8' "$trace" || true)
  local wakeups
  wakeups=$(python3 -c 'import json, sys
rows = [r for r in json.load(open(sys.argv[1]))["results"] if r["case"] == sys.argv[2]]
print(rows[0]["metrics"]["reads"]["median"])' "$report" "$1")
  echo "$reads $wakeups"
}

fail=0
for arm in epoll/classic epoll/edge io_uring/classic io_uring/edge io_uring/ring-read io_uring/ring-read-multishot; do
  if ! result=$(count "$arm"); then
    echo "$arm: skipped, this kernel cannot do it"
    continue
  fi
  read -r reads claimed <<<"$result"
  echo "$arm: $reads read(2) of an eventfd by the device under strace; the program says $claimed per request"
  case $arm in
    */classic) ((reads > 0)) || fail=1 ;;
    *) ((reads == 0)) && [ "$claimed" = 0.0 ] || fail=1 ;;
  esac
done
((fail == 0)) || { echo "FAILED: the counts do not agree" >&2; exit 1; }
