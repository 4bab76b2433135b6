#!/usr/bin/env bash
# Gets the newest kernel source of Debian unstable into a directory, and prints the path of its
# archive. Nothing is installed (debian.sh). An archive that is there already is used again; remove
# the directory for a newer one.
#
#   scripts/kernel/newest-source.sh DIR
#
# Exit codes: 0 done, 1 the package has no archive, 2 wrong use, 3 skipped (with the reason).
set -euo pipefail

[ $# = 1 ] || { echo "newest-source: name one directory" >&2; exit 2; }
found() { find "$1/root/usr/src" -name 'linux-source-*.tar.xz' 2>/dev/null | sort -V | tail -n 1; }
if [ -z "$(found "$1")" ]; then
  # The package without a version depends on the newest.
  "$(dirname "$0")/../debian.sh" sid "$1" linux-source >&2
fi
archive=$(found "$1")
[ -n "$archive" ] || { echo "newest-source: the package has no archive in usr/src" >&2; exit 1; }
echo "$archive"
