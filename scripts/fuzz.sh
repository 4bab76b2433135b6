#!/usr/bin/env bash
# Fuzzes the code that handles untrusted input from a guest or a peer: the targets in
# virtio-blk-sim/fuzz, run in parallel.
#
#   scripts/fuzz.sh [--seconds N] [TARGET...]   TARGET: chain, request, messages, rng, console
#                                               (default: all)
#                                               N: seconds per target (default: 60)
#   scripts/fuzz.sh --minimize [TARGET...]      minimizes the corpus and stores it in the repository
#
# With a nightly toolchain, AddressSanitizer is used; otherwise only the checks of the targets.
# If cargo-fuzz is missing, it is installed into target/. New inputs go to target/fuzz/corpus, and
# crashing inputs to target/fuzz/artifacts. Every `cargo test` replays the corpus and the inputs in
# virtio-blk-sim/fuzz/regressions/TARGET: copy a crashing input there.
#
# Exit codes: 0 nothing found, 1 a crash was found, 77 no cargo-fuzz or no C++ compiler here.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz=virtio-blk-sim/fuzz
out=target/fuzz
seconds=60
minimize=0
targets=()
while (($#)); do
  case $1 in
    --seconds)
      # libFuzzer takes 0 and words as no limit.
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "--seconds takes a number above 0" >&2; exit 2; }
      seconds=$2; shift 2 ;;
    --minimize) minimize=1; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
    *)
      [ -f "$fuzz/fuzz_targets/$1.rs" ] || { echo "unknown target $1; the targets are chain, request, messages, rng, console" >&2; exit 2; }
      targets+=("$1"); shift ;;
  esac
done
((${#targets[@]})) || targets=(chain request messages rng console)

if ! command -v c++ >/dev/null; then
  echo "no C++ compiler found; libFuzzer needs one"
  exit 77
fi
export PATH="$PWD/target/tools/bin:$PATH"
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is not installed: installing it into target/tools"
  cargo install cargo-fuzz --locked --quiet --root target/tools || { echo "cargo-fuzz could not be installed"; exit 77; }
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
# cargo-fuzz builds one target or all of them.
only=()
((${#targets[@]} != 1)) || only=("${targets[0]}")
"${cargo[@]}" fuzz build "${options[@]}" "${only[@]}"
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
# Stop all targets when the script is interrupted.
trap 'kill "${running[@]}" 2>/dev/null || true' EXIT
for target in "${targets[@]}"; do
  mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
  inputs=("$out/corpus/$target" "$fuzz/corpus/$target")
  [ ! -d "$fuzz/regressions/$target" ] || inputs+=("$fuzz/regressions/$target")
  # The server reports each refusal on stderr; the mask hides that.
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
  # Run it again to show the panic message.
  timeout 60 "$binaries/$target" "$input" 2>&1 | grep -aE -m 1 -A 3 'panicked at|ERROR: |runtime error' || true
  echo "$target: FAILED on $input"
  echo "$target: reproduce it with: ${cargo[*]} fuzz run ${options[*]} $target $input"
done
exit "$failed"
