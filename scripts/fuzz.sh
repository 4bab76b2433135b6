#!/usr/bin/env bash
# Fuzzes what believes nothing that a guest or a peer says: the targets of virtio-blk-sim/fuzz, all at once.
#
#   scripts/fuzz.sh [--seconds N] [TARGET...]    TARGET: chain, request, messages (default: all); N: 60
#   scripts/fuzz.sh --minimize [TARGET...]       puts what was found so far, made small, into the corpus that is in git
#
# With a nightly toolchain AddressSanitizer watches; without one the targets' own checks do. cargo-fuzz is installed into
# target/ if there is none. What is found goes to target/fuzz/corpus, what crashes to target/fuzz/artifacts. An input that
# is copied to virtio-blk-sim/fuzz/regressions/TARGET is replayed by every `cargo test`, as the corpus is.
#
# Exits with 0 if nothing was found, 1 if something was, 77 if this machine has no cargo-fuzz or no
# C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz=virtio-blk-sim/fuzz
out=target/fuzz
seconds=60
minimize=0
targets=()
while (($#)); do
  case $1 in
    --seconds) seconds=${2:?--seconds takes a number}; shift 2 ;;
    --minimize) minimize=1; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
    *)
      [ -f "$fuzz/fuzz_targets/$1.rs" ] || { echo "no target $1: there are chain, request, messages" >&2; exit 2; }
      targets+=("$1"); shift ;;
  esac
done
((${#targets[@]})) || targets=(chain request messages)

if ! command -v c++ >/dev/null; then
  echo "there is no C++ compiler, which libFuzzer is built with"
  exit 77
fi
export PATH="$PWD/target/tools/bin:$PATH"
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is not installed: installing it into target/tools"
  cargo install cargo-fuzz --locked --quiet --root target/tools || { echo "cargo-fuzz cannot be had"; exit 77; }
fi

cargo=(cargo)
sanitizer=none
if rustc +nightly --version >/dev/null 2>&1; then
  cargo=(cargo +nightly)
  sanitizer=address
elif rustc --version | grep -q nightly; then
  sanitizer=address
fi
options=(--fuzz-dir "$fuzz" --target-dir "$out" --sanitizer "$sanitizer")
echo "$(${cargo[0]} ${cargo[1]:-} --version), sanitizer: $sanitizer"
build=$SECONDS
"${cargo[@]}" fuzz build "${options[@]}"
echo "built in $((SECONDS - build)) s"
binaries=$out/$(rustc -vV | sed -n 's/^host: //p')/release

if ((minimize)); then
  for target in "${targets[@]}"; do
    small=$(mktemp -d)
    mkdir -p "$out/corpus/$target"
    "$binaries/$target" -set_cover_merge=1 -close_fd_mask=2 "$small" "$fuzz/corpus/$target" "$out/corpus/$target" \
      >"$out/$target.log" 2>&1 || { tail -n 20 "$out/$target.log"; exit 1; }
    rm -rf "$fuzz/corpus/$target" && mkdir -p "$fuzz/corpus/$target" && mv "$small"/* "$fuzz/corpus/$target" && rmdir "$small"
    echo "$target: $(find "$fuzz/corpus/$target" -type f | wc -l) files, $(du -sb "$fuzz/corpus/$target" | cut -f1) bytes"
  done
  exit 0
fi

declare -A running
# Nothing goes on behind the back of whoever interrupts.
trap 'kill "${running[@]}" 2>/dev/null || true' EXIT
for target in "${targets[@]}"; do
  mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
  inputs=("$out/corpus/$target" "$fuzz/corpus/$target")
  [ ! -d "$fuzz/regressions/$target" ] || inputs+=("$fuzz/regressions/$target")
  # The server tells its operator of each refusal on stderr, which is what the mask is for.
  "$binaries/$target" "${inputs[@]}" -max_total_time="$seconds" -len_control=20 -max_len=1024 -timeout=60 \
    -artifact_prefix="$out/artifacts/$target/" -print_final_stats=1 -close_fd_mask=2 >"$out/$target.log" 2>&1 &
  running[$target]=$!
done

failed=0
for target in "${targets[@]}"; do
  code=0
  wait "${running[$target]}" || code=$?
  unset "running[$target]"
  log=$out/$target.log
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)
  echo "$target: ${executions:-?} executions, ${coverage:-no coverage}"
  ((code == 0)) && continue
  failed=1
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  if [ -z "$input" ]; then
    echo "$target: ended with $code, the end of $log:" && tail -n 20 "$log"
    continue
  fi
  # Once more, with the panic's message to be seen.
  timeout 60 "$binaries/$target" "$input" 2>&1 | grep -aE -m 1 -A 3 'panicked at|ERROR: |runtime error' || true
  echo "$target: FAILED on $input"
  echo "$target: reproduce it with: ${cargo[*]} fuzz run ${options[*]} $target $input"
done
exit "$failed"
