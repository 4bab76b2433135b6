#!/usr/bin/env bash
# Checks pages of bench --html in a headless browser. Draws them at 400 and 1200 pixels, in light
# and dark mode, with all folded parts open, and on paper, and fails if a page uses the network,
# prints to the browser's console, is wider than the screen, has a table that does not fit on paper,
# or has text that is cut off, covered by other text, or low in contrast.
#
#   scripts/screenshots.sh [--out DIR] [PAGE.html...]
#
# Without a page, it draws a saved report of bench one-percent. Needs chromium (apt-get install
# chromium, or CHROMIUM=/path/to/it). Exit codes: 0 done, 1 failed, 3 skipped: no browser.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out='' pages=()
while (($#)); do
  case $1 in
    --out)
      [ -n "${2:-}" ] || { echo "screenshots.sh: --out needs a directory" >&2; exit 2; }
      out=$2; shift ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p}' "$0"; exit 0 ;;
    -*) echo "screenshots.sh: no option $1; see --help" >&2; exit 2 ;;
    *) pages+=("$1") ;;
  esac
  shift
done
browser=${CHROMIUM:-}
for name in chromium chromium-browser google-chrome; do
  [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
if [ -z "$browser" ] || ! "$browser" --version >/dev/null 2>&1; then
  echo "SKIPPED: the pages were not checked: ${browser:-chromium} is not installed or does not start" \
    "(apt-get install chromium, or CHROMIUM=/path/to/it)"
  exit 3
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${out:-$work}
mkdir -p "$out"
if ((${#pages[@]} == 0)); then
  saved=$here/../bench/src/one_percent/golden/first.json
  cargo run -q --release --locked --manifest-path "$here/../Cargo.toml" -p bench -- \
    compare "$saved" "$saved" --metrics iops --html "$work/page.html" >/dev/null
  pages=("$work/page.html")
fi

# browse OPTION... URL: runs the browser for at most 60 seconds, with its log in $work/log
browse() {
  timeout -k 5 60 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --user-data-dir="$work/profile" \
    --enable-logging=stderr --v=0 "$@" 2>"$work/log"
}

failed=0
fail() { echo "FAILED: $*"; failed=1; }

# Checks the page from a frame around it, so that the page itself needs no script. A browser window
# is at least 500 pixels wide, but a frame may be narrower, and a frame can use the style sheet for
# paper (210 mm minus the margins).
cat >"$work/frame.js" <<'JS'
const bad = [], say = (what, where) => bad.length < 6 && bad.push(what + ': ' + where.trim().slice(0, 60));
const look = (name, frame, width) => {
  const page = frame.contentDocument, root = page.documentElement, style = (element) => frame.contentWindow.getComputedStyle(element);
  if (root.scrollWidth > width) say(name + ' is ' + root.scrollWidth + ' wide', '');
  if (name === 'paper') for (const box of page.querySelectorAll('.scroll, pre'))
    if (box.scrollWidth > box.clientWidth + 1) say('paper cuts ' + (box.scrollWidth - box.clientWidth) + ' pixels', box.textContent);
  for (const svg of page.querySelectorAll('svg[role=img]')) {
    const whole = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')].map((text) => [text, text.getBoundingClientRect()]);
    for (const [text, box] of texts) {
      if (box.left < whole.left - 1.5 || box.right > whole.right + 1.5 || box.top < whole.top - 1.5 || box.bottom > whole.bottom + 1.5)
        say(name + ' cuts', text.textContent);
      // A line's box has some space above and below the letters.
      const air = box.height * 0.2;
      for (const [other, at] of texts)
        if (other !== text && Math.min(box.right, at.right) - Math.max(box.left, at.left) > 1 &&
            Math.min(box.bottom, at.bottom) - Math.max(box.top, at.top) > air)
          say(name + ' has overlapping texts', text.textContent + ' / ' + other.textContent);
    }
  }
  // Contrast as in WCAG 2, against the nearest background that is not transparent.
  const rgb = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => rgb(colour).slice(0, 3).map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = style(element).backgroundColor;
      if ((rgb(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  for (const element of page.querySelectorAll('h1,h2,h3,p,li,th,td,span,dt,dd,pre,caption,text')) {
    const [a, b] = [light(element.localName === 'text' ? style(element).fill : style(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) say(name + ' has a contrast of ' + contrast.toFixed(1), element.textContent);
  }
  const dark = light(behind(page.body)) < 0.2;
  if (name !== 'paper' && dark !== matchMedia('(prefers-color-scheme: dark)').matches) say(name + ' is drawn in the wrong colour scheme', '');
  if (!page.title || !root.lang) say('no title or language', '');
  for (const svg of page.querySelectorAll('svg[role=img]')) if (!svg.getAttribute('aria-label')) say('a drawing without a name', '');
};
addEventListener('load', () => {
  for (const width of [400, 1200]) look('a screen of ' + width, document.getElementById('f' + width), width);
  const paper = document.getElementById('f703');
  for (const sheet of paper.contentDocument.styleSheets)
    for (const rule of sheet.cssRules) if (rule.media && rule.media.mediaText === 'print') rule.media.mediaText = 'all';
  look('paper', paper, 703);
  document.title = bad.length ? 'BAD ' + bad.join('; ') : 'GOOD';
});
JS

# look PAGE
look() {
  local page name size width scheme number title opened
  page=$(realpath "$1")
  name=$(basename "$page" .html)
  size=$(stat -c %s "$page")
  # The checks look at everything, so they need the folded parts open.
  opened=$work/$name-open.html
  sed 's/<details /<details open /g' "$page" >"$opened"
  ((size < 1 << 20)) || fail "$name has $size bytes, more than 1 MiB"
  for scheme in light dark; do
    number=$([ $scheme = dark ] && echo 0 || echo 1)
    for width in 400 1200; do
      browse --blink-settings=preferredColorScheme="$number" --window-size="$width,1600" \
        --screenshot="$out/$name-$scheme-$width.png" "file://$page" >/dev/null || fail "$name, $scheme: the browser ended with an error"
      [ -s "$out/$name-$scheme-$width.png" ] || fail "$name, $scheme: no picture"
      if grep -E 'CONSOLE|Refused to' "$work/log"; then
        fail "$name, $scheme: the page loaded something or reported an error"
      fi
    done
    browse --blink-settings=preferredColorScheme="$number" --window-size=1200,8000 \
      --screenshot="$out/$name-$scheme-open.png" "file://$opened" >/dev/null || fail "$name, $scheme: the browser ended with an error"
    {
      for width in 400 703 1200; do
        echo "<iframe id=f$width style='width:${width}px;height:900px;border:0' src='file://$opened'></iframe>"
      done
      echo "<script>"
      cat "$work/frame.js"
      echo "</script>"
    } >"$work/frame.html"
    title=$(browse --blink-settings=preferredColorScheme="$number" --window-size=1300,1000 --allow-file-access-from-files \
      --virtual-time-budget=20000 --dump-dom "file://$work/frame.html" | grep -oE '<title>(GOOD|BAD)[^<]*' || true)
    [ "$title" = "<title>GOOD" ] || fail "$name, $scheme: ${title:-the browser gave no answer}"
  done
  cmp -s "$out/$name-light-400.png" "$out/$name-dark-400.png" && fail "$name: light and dark are the same"
  browse --print-to-pdf="$out/$name.pdf" "file://$page" >/dev/null || fail "$name cannot be printed"
  echo "$name ($size bytes): drawn at 400 and 1200 pixels, in light, in dark and on paper"
}

for page in "${pages[@]}"; do
  [ -f "$page" ] || { echo "screenshots.sh: $page: no such file" >&2; exit 2; }
  look "$page"
done
((failed == 0)) || exit 1
echo "No page loaded anything, and no text was cut off or covered."
[ "$out" = "$work" ] || ls "$out"
