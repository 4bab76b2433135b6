#!/usr/bin/env bash
# Lists the public API of the published crates, with all their features, in public-api.txt of each.
#
#   scripts/public-api.sh            compares the listings with the code, and prints the difference
#   scripts/public-api.sh --update   writes the listings; commit them with the change
#
# Uses cargo-public-api, which is installed into target/tools if it is missing. It reads the JSON of
# rustdoc, an unstable format that RUSTC_BOOTSTRAP=1 allows with a stable toolchain.
#
# Exit codes: 0 no difference, 1 a difference, 2 wrong use, 3 skipped: cargo-public-api cannot be
# installed, or does not read the format of this rustdoc.
set -euo pipefail
cd "$(dirname "$0")/.."

update=0
case ${1:-} in
  "") ;;
  --update) update=1 ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
  *) echo "unknown argument $1; see --help" >&2; exit 2 ;;
esac

export PATH="$PWD/target/tools/bin:$PATH"
if ! cargo public-api --version >/dev/null 2>&1; then
  echo "cargo-public-api is not installed: installing it into target/tools"
  # Not optimised: it runs for seconds and builds for minutes.
  cargo install cargo-public-api --version 0.52.0 --locked --debug --quiet --root target/tools \
    --target-dir target/tools/build ||
    { echo "skipped: cargo-public-api could not be installed"; exit 3; }
fi

listing=$(mktemp)
trap 'rm -f "$listing"' EXIT
differs=0
for package in aio:aio-context virtio-blk-sim:virtio-blk-sim; do
  directory=${package%%:*} name=${package##*:}
  if ! RUSTC_BOOTSTRAP=1 cargo public-api -p "$name" --all-features -sss >"$listing" 2>"$listing.err"; then
    cat "$listing.err"; rm -f "$listing.err"
    echo "skipped: the API of $name cannot be listed with $(rustc --version)"
    exit 3
  fi
  rm -f "$listing.err"
  if ((update)); then
    cat "$listing" >"$directory/public-api.txt"
    echo "$directory/public-api.txt: $(wc -l <"$listing") lines"
  elif diff -u "$directory/public-api.txt" "$listing"; then
    echo "$name: the $(wc -l <"$listing") lines of $directory/public-api.txt are its public API"
  else
    echo "The public API of $name is not that of $directory/public-api.txt. If that is intended, run" \
      "scripts/public-api.sh --update, and say so in CHANGELOG.md." >&2
    differs=1
  fi
done
exit "$differs"
