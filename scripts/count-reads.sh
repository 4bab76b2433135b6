#!/usr/bin/env bash
# Uses strace to count the read(2) calls of the device's thread in classic and autoreset arms of
# `bench virtio-blk`, and compares them with what the program reports. First with a thread as the
# guest, then with a KVM vCPU where that is available: there KVM signals the ioeventfd and resets
# the irqfd, and the guest's thread reads neither.
#
#   scripts/count-reads.sh [BENCH]        BENCH: the binary (default: target/release/bench)
set -euo pipefail
bench=${1:-target/release/bench}
[ -x "$bench" ] || { echo "count-reads: $bench is not a program; cargo build --release -p bench makes it" >&2; exit 2; }
trace=$(mktemp)
report=$(mktemp)
trap 'rm -f "$trace" "$report"' EXIT

# count GUEST ARM: prints "device guest claimed": the read(2) calls of eight bytes by the threads
# bench-device and bench-guest, and the device's reads per request that the program reports. If the
# program fails, prints nothing and returns its exit code.
count() {
  strace -f -qq -Y -e trace=read -o "$trace" \
    "$bench" virtio-blk --quick --rounds 1 --runtime 20ms --pin 0,0 --guest "$1" --arms "$2" --json "$report" >/dev/null 2>&1 ||
    return
  # strace -Y prints the thread's name behind its id. ELF and /proc files are read in other sizes.
  # strace splits a call over two lines if another thread's call is printed in between; the result
  # is in the second line.
  local device guest claimed
  device=$(grep -c '<bench-device>.*read\((\| resumed>\).*, 8) *= 8' "$trace" || true)
  guest=$(grep -c '<bench-guest>.*read\((\| resumed>\).*, 8) *= 8' "$trace" || true)
  claimed=$(python3 -c 'import json, sys
rows = [r for r in json.load(open(sys.argv[1]))["results"] if r["case"] == sys.argv[2]]
print(rows[0]["metrics"]["reads"]["median"])' "$report" "$2") || return
  echo "$device $guest $claimed"
}

fail=0
guests=(thread)
status=0
why=$("$bench" virtio-blk --quick --rounds 1 --runtime 1ms --pin 0,0 --guest kvm --arms epoll/classic 2>&1 >/dev/null) ||
  status=$?
case $status in
  0) guests+=(kvm) ;;
  3) echo "guest kvm: skipped, $(tail -n 1 <<<"$why")" ;;
  *) echo "FAILED: guest kvm: bench ended with $status: $(tail -n 1 <<<"$why")" >&2; exit 1 ;;
esac
for guest in "${guests[@]}"; do
  for arm in epoll/classic epoll/edge io_uring/classic io_uring/edge io_uring/ring-read io_uring/ring-read-multishot; do
    status=0
    result=$(count "$guest" "$arm") || status=$?
    case $status in
      0) ;;
      3) echo "guest $guest, $arm: skipped, this kernel does not support it"; continue ;;
      *) echo "FAILED: guest $guest, $arm: bench ended with $status" >&2; exit 1 ;;
    esac
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
