#!/usr/bin/env bash
# Looks at a page of bench --html in a headless browser: draws it at 400 and 1200 pixels, in light and in dark and on paper, and
# fails if it asks for anything from the network, says something on the browser's console, or is wider than the screen.
#
#   scripts/screenshots.sh [--out DIR] [PAGE.html]     (default: the page of a saved report of bench one-percent)
#
# Needs chromium (apt-get install chromium; CHROMIUM=/path/to/it). Exit codes: 0 done, 1 failed, 3 skipped: no browser.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out='' page=''
while (($#)); do
  case $1 in
    --out) out=${2:?--out needs a directory}; shift ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p}' "$0"; exit 0 ;;
    *) page=$1 ;;
  esac
  shift
done
browser=${CHROMIUM:-}
for name in chromium chromium-browser google-chrome; do
  [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
[ -n "$browser" ] || { echo "SKIPPED: no chromium on this machine, so the page was not looked at"; exit 3; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${out:-$work}
mkdir -p "$out"
if [ -z "$page" ]; then
  page=$work/page.html
  saved=$here/../bench/src/one_percent/golden/first.json
  cargo run -q --release --locked --manifest-path "$here/../Cargo.toml" -p bench -- \
    compare "$saved" "$saved" --metrics iops --html "$page" >/dev/null
fi
page=$(realpath "$page")
size=$(stat -c %s "$page")
((size < 1 << 20)) || { echo "FAILED: the page has $size bytes, more than 1 MiB"; exit 1; }

failed=0
# look NAME WIDTH OPTION...: one picture, and what the browser says on the way
look() {
  local name=$1 width=$2
  shift 2
  "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --user-data-dir="$work/profile" \
    --enable-logging=stderr --v=0 --window-size="$width,1600" --screenshot="$out/$name.png" "$@" "file://$page" 2>"$work/log" >/dev/null ||
    { echo "FAILED: $name: the browser ended with an error"; failed=1; }
  [ -s "$out/$name.png" ] || { echo "FAILED: $name: no picture"; failed=1; }
  if grep -E 'CONSOLE|Refused to' "$work/log"; then
    echo "FAILED: $name: the page asked for something or failed at something"
    failed=1
  fi
}

for width in 400 1200; do
  look "light-$width" "$width" --blink-settings=preferredColorScheme=1
  look "dark-$width" "$width" --blink-settings=preferredColorScheme=0
done
cmp -s "$out/light-400.png" "$out/dark-400.png" && { echo "FAILED: light and dark are the same"; failed=1; }
"$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$work/profile" --print-to-pdf="$out/paper.pdf" "file://$page" \
  >/dev/null 2>&1 || { echo "FAILED: it cannot be printed"; failed=1; }

# Is anything wider than a screen of 400? A browser's window is at least 500 wide, a frame may be narrower.
cat >"$work/frame.html" <<HTML
<iframe id=f style="width:400px;height:900px;border:0" src="file://$page"></iframe><script>
f.onload=()=>{const d=f.contentDocument.documentElement;document.title=d.scrollWidth>400?'WIDE '+d.scrollWidth:'FITS'}</script>
HTML
title=$("$browser" --headless --no-sandbox --disable-gpu --allow-file-access-from-files --user-data-dir="$work/profile" \
  --virtual-time-budget=5000 --dump-dom "file://$work/frame.html" 2>/dev/null | grep -oE '<title>[^<]*' || true)
[ "$title" = "<title>FITS" ] || { echo "FAILED: the page is wider than 400 pixels: ${title:-no answer}"; failed=1; }

((failed == 0)) || exit 1
echo "The page ($size bytes) was drawn at 400 and 1200 pixels, in light, in dark and on paper; it asked for nothing."
[ "$out" = "$work" ] || ls "$out"
