#!/usr/bin/env bash
# Downloads the newest kernel source of Debian unstable into a directory, and prints the path of its
# archive. It is not installed: apt-get gets a configuration of its own in that directory. An archive
# that is there already is used again; remove the directory for a newer one.
#
#   scripts/kernel/newest-source.sh DIR
#
# Exit codes: 0 done, 2 wrong use, 3 it cannot be had here (with the reason).
set -euo pipefail

[ $# = 1 ] || { echo "newest-source: name one directory" >&2; exit 2; }
mkdir -p "$1" && dir=$(cd "$1" && pwd)
skip() { echo "newest-source: $*" >&2; exit 3; }

found() { find "$dir/root/usr/src" -name 'linux-source-*.tar.xz' 2>/dev/null | sort -V | tail -n 1; }

if [ -z "$(found)" ]; then
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || skip "no apt-get here"
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -e "$keys" ] || skip "no $keys (package debian-archive-keyring)"
  mkdir -p "$dir"/apt/{lists,cache}/partial "$dir/apt/cache/archives/partial"
  echo "deb [signed-by=$keys] http://deb.debian.org/debian sid main" >"$dir/apt/sources.list"
  cat >"$dir/apt/apt.conf" <<END
Dir::Etc::sourcelist "$dir/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$dir/apt/lists";
Dir::State::status "/dev/null";
Dir::Cache "$dir/apt/cache";
APT::Sandbox::User "root";
END
  export APT_CONFIG=$dir/apt/apt.conf
  apt-get -q update >"$dir/apt/log" 2>&1 || skip "apt-get update: $(tail -n 1 "$dir/apt/log")"
  # The package without a version depends on the newest.
  package=$(apt-cache depends linux-source | sed -n 's/^ *Depends: \(linux-source-.*\)/\1/p')
  [ -n "$package" ] || skip "Debian unstable has no package linux-source"
  (cd "$dir/apt" && apt-get -q download "$package" >log 2>&1) || skip "apt-get download: $(tail -n 1 "$dir/apt/log")"
  dpkg-deb -x "$dir"/apt/"$package"_*.deb "$dir/root"
  rm -f "$dir"/apt/"$package"_*.deb
fi
archive=$(found)
[ -n "$archive" ] || skip "the package has no archive in usr/src"
echo "$archive"
