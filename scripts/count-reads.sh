#!/usr/bin/env bash
# Uses strace to count the read(2) calls of the device's thread in classic and autoreset arms of
# `bench virtio-blk`, and compares them with what the program reports. First with a thread as the
# guest, then with a KVM vCPU where that is available: there KVM signals the ioeventfd and resets
# the irqfd, and the guest's thread reads neither.
#
#   scripts/count-reads.sh [BENCH]        BENCH: the binary (default: target/release/bench)
set -euo pipefail
bench=${1:-target/release/bench}
trace=$(mktemp)
report=$(mktemp)
trap 'rm -f "$trace" "$report"' EXIT

# count GUEST ARM: prints "device guest claimed": the read(2) calls of eight bytes by the threads
# bench-device and bench-guest, and the device's reads per request that the program reports.
count() {
  strace -f -qq -Y -e trace=read -o "$trace" \
    "$bench" virtio-blk --quick --rounds 1 --runtime 20ms --pin 0,0 --guest "$1" --arms "$2" --json "$report" >/dev/null 2>&1
  # strace -Y prints the thread's name behind its id. ELF and /proc files are read in other sizes.
  # strace splits a call over two lines if another thread's call is printed in between; the result
  # is in the second line.
  local device guest claimed
  device=$(grep -c '<bench-device>.*read\((\| resumed>\).*, 8) *= 8' "$trace" || true)
  guest=$(grep -c '<bench-guest>.*read\((\| resumed>\).*, 8) *= 8' "$trace" || true)
  claimed=$(python3 -c 'import json, sys
rows = [r for r in json.load(open(sys.argv[1]))["results"] if r["case"] == sys.argv[2]]
print(rows[0]["metrics"]["reads"]["median"])' "$report" "$2")
  echo "$device $guest $claimed"
}

fail=0
guests=(thread)
if why=$("$bench" virtio-blk --quick --rounds 1 --runtime 1ms --pin 0,0 --guest kvm --arms epoll/classic 2>&1 >/dev/null); then
  guests+=(kvm)
else
  echo "guest kvm: skipped, $(tail -n 1 <<<"$why")"
fi
for guest in "${guests[@]}"; do
  for arm in epoll/classic epoll/edge io_uring/classic io_uring/edge io_uring/ring-read io_uring/ring-read-multishot; do
    if ! result=$(count "$guest" "$arm"); then
      echo "guest $guest, $arm: skipped, this kernel does not support it"
      continue
    fi
    read -r reads irqfd claimed <<<"$result"
    echo "guest $guest, $arm: $reads read(2) of an eventfd by the device under strace, $irqfd by the guest;" \
      "the program reports $claimed per request by the device"
    case $arm in
      */classic) ((reads > 0)) || fail=1 ;;
      *) ((reads == 0)) && [ "$claimed" = 0.0 ] || fail=1 ;;
    esac
    case $guest in
      thread) ((irqfd > 0)) || fail=1 ;;
      kvm) ((irqfd == 0)) || fail=1 ;;
    esac
  done
done
((fail == 0)) || { echo "FAILED: the counts do not agree" >&2; exit 1; }
