#!/usr/bin/env bash
# Runs the tests of aio and virtio-blk-sim under AddressSanitizer and ThreadSanitizer.
#
#   scripts/sanitizers.sh [OPTIONS] [address|thread...]     default: both
#
#     --package NAME   aio or virtio-blk-sim (default: both)
#     --seconds N      limit for the tests of one package with one sanitizer (default: 1800)
#     -h, --help
#
# The sanitizers are unstable options of rustc, which RUSTC_BOOTSTRAP=1 allows with a stable
# toolchain. If the toolchain has its source (rustup component add rust-src), the standard library
# is built with the sanitizer, too (-Zbuild-std). Otherwise it is not instrumented:
# AddressSanitizer then misses bad accesses inside it, and ThreadSanitizer knows neither what it
# synchronises with futexes and atomics that were compiled into it (Mutex, channels, join) nor what
# it accesses, so the reports that this causes are suppressed (see `suppressions` below).
#
# The builds go to target/asan and target/tsan. Exit codes: 0 nothing found, 1 something was found
# or a test failed, 2 wrong use, 3 skipped: rustc has no sanitizers for this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

# Left out of both: their tests count allocations, which the sanitizers replace, or measure
# costs.
skip_targets=(cost device_no_alloc virtqueue_no_alloc)
# Left out of AddressSanitizer.
skip_address=(
  # The runtime's own system calls are not among those of the sandbox, which ends the process.
  sandbox
  every_pair_of_options_works_or_is_refused
  # The runtime keeps freed memory for a while, and these tests compare the memory of a process.
  hundreds_of_frontends_leave_nothing_behind
  a_server_keeps_nothing_of_its_frontends
  # The runtime has a handler for SIGBUS, where the test expects none.
  other_signals_keep_their_effect
  # The leak check at the end of a process does not work under strace(1).
  the_program_does_not_report_success_after_fdatasync_has_failed_once
  interrupts_arrive_if_io_uring_enter_is_refused
)
# Left out of ThreadSanitizer.
skip_thread=(
  # Fences: ThreadSanitizer does not model std::sync::atomic::fence, so the memory that a virtqueue
  # hands over by a fence and a relaxed store is reported as a race. The two-thread stress tests do
  # nothing else. Loom checks the fences of aio, and .ci/run runs the stress tests optimised.
  stress
  # Memory is handed over through an eventfd. ThreadSanitizer knows that this orders
  # their accesses if read(2) and write(2) are called by name; aio calls them by number.
  credit::what_was_published_is_visible
  # The peer is another process or the kernel, which ThreadSanitizer does not see.
  kvm::
  # It forks with several threads, which ThreadSanitizer does not support.
  fork
  # The runtime's own system calls are not among those of the sandbox.
  sandbox
)
# Targets left out of ThreadSanitizer. It holds back the SIGBUS that an access in a test waits for.
# The servers and clients of vhost_user hand everything over through threads and locks of the
# standard library, so without its source each test is reported.
skip_thread_targets=(sigbus)
without_library=(vhost_user)

packages=(aio virtio-blk-sim)
seconds=1800
sanitizers=()
while (($#)); do
  case $1 in
    --package)
      [[ ${2:-} =~ ^(aio|virtio-blk-sim)$ ]] || { echo "--package takes aio or virtio-blk-sim" >&2; exit 2; }
      packages=("$2"); shift 2 ;;
    --seconds)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "--seconds takes a number above 0" >&2; exit 2; }
      seconds=$2; shift 2 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    address | thread) sanitizers+=("$1"); shift ;;
    *) echo "unknown argument $1; see --help" >&2; exit 2 ;;
  esac
done
((${#sanitizers[@]})) || sanitizers=(address thread)

export RUSTC_BOOTSTRAP=1
host=$(rustc -vV | sed -n 's/^host: //p')
library=$(rustc --print sysroot)/lib/rustlib/src/rust/library
if ! compgen -G "$(rustc --print sysroot)/lib/rustlib/$host/lib/librustc-*_rt.asan.*" >/dev/null; then
  echo "skipped: $(rustc --version) has no sanitizer runtime for $host"
  exit 3
fi
if [ -d "$library" ]; then
  std=(-Zbuild-std) flags=""
  echo "$(rustc --version), $host; the standard library is instrumented"
else
  # rustc refuses the mixture that this is, for the sanitizers that change the ABI.
  std=() flags="-Cunsafe-allow-abi-mismatch=sanitizer"
  skip_thread_targets+=("${without_library[@]}")
  echo "$(rustc --version), $host; the standard library is NOT instrumented: no rust-src"
fi

suppressions=$(mktemp) leaks=$(mktemp)
trap 'rm -f "$suppressions" "$leaks"' EXIT
# Tests that forget a bottom half on purpose, which keeps its loop's list alive.
cat >"$leaks" <<'END'
leak:unwind::io_thread::State
leak:its_state_is_dropped_in_its_thread_before_the_context
END
if ((${#std[@]} == 0)); then
  # Functions whose synchronisation is in the standard library and not seen. A race that is
  # reported below them (an Arc that is dropped, a message in a channel, a request that the file
  # backend's pool hands over under a Mutex and a Condvar, the buffers of a character device under a
  # Mutex that another thread waits for) was ordered by it.
  cat >"$suppressions" <<'END'
race:std::sync::mpmc
race:std::sync::mpsc
race:alloc::sync::Arc<*>::drop_slow
race:virtio_blk_sim::blk::backend
race:virtio_blk_sim::chardev
race:std::sync::once_lock
race:std::thread::Packet
race:test::
race:core::ptr::drop_in_place<std::thread
END
fi
export LSAN_OPTIONS="suppressions=$leaks print_suppressions=0"
export ASAN_OPTIONS=detect_stack_use_after_return=1:detect_leaks=1:abort_on_error=0:allocator_may_return_null=1
export TSAN_OPTIONS="suppressions=$suppressions history_size=7 second_deadlock_stack=1 allocator_may_return_null=1"

failed=0
for sanitizer in "${sanitizers[@]}"; do
  case $sanitizer in
    address) directory=target/asan names=("${skip_address[@]}") left_out=("${skip_targets[@]}") ;;
    thread)
      directory=target/tsan names=("${skip_thread[@]}")
      left_out=("${skip_targets[@]}" "${skip_thread_targets[@]}") ;;
  esac
  # Without --target the build scripts and the procedural macros would be instrumented, too.
  cargo=(env "RUSTFLAGS=-Zsanitizer=$sanitizer $flags" "CARGO_TARGET_DIR=$directory"
    cargo test --locked --no-fail-fast --target "$host" "${std[@]}")
  skips=()
  for name in "${names[@]}"; do skips+=(--skip "$name"); done
  echo "=== $sanitizer; left out: ${left_out[*]} ${names[*]}"
  for package in "${packages[@]}"; do
    log=$directory/$package.log
    mkdir -p "$directory"
    # The test targets that can take the filters of the harness.
    targets=(--lib)
    for test in "$package"/tests/*.rs "$package"/tests/*/main.rs; do
      [ -e "$test" ] || continue
      name=$(basename "${test%/main.rs}" .rs)
      # aio's kernel table has a harness of its own, and reports what the kernel does.
      [[ " ${left_out[*]} kernel " == *" $name "* ]] || targets+=(--test "$name")
    done
    name=$(sed -n 's/^name = "\(.*\)"/\1/p' "$package/Cargo.toml" | head -n 1)
    "${cargo[@]}" -p "$name" "${targets[@]}" --no-run
    code=0
    timeout "$seconds" "${cargo[@]}" -p "$name" "${targets[@]}" -- "${skips[@]}" --test-threads 2 \
      >"$log" 2>&1 || code=$?
    grep -aE '^test result|Running ' "$log" || true
    found=$(grep -acE '^(WARNING: ThreadSanitizer|==[0-9]+==ERROR: )' "$log" || true)
    echo "$package under $sanitizer: exit $code, $found reports; the whole output is in $log"
    ((found == 0)) || grep -aE '^SUMMARY: ' "$log" | sort | uniq -c | sort -rn | head -n 20
    ((code == 0 && found == 0)) || failed=1
  done
done
exit "$failed"
