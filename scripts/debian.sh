#!/usr/bin/env bash
# Unpacks packages of a release of Debian, and all that they depend on, into a directory. Nothing is
# installed: apt-get gets its own configuration, lists and package state there, and believes that no
# package is installed.
#
#   scripts/debian.sh SUITE DIR PACKAGE...
#
#   SUITE    such as sid
#   DIR      a directory for it, which is made. The packages are unpacked in DIR/root, in place of
#            what an earlier run has left
#
# Exit codes: 0 done, 2 wrong arguments, 3 skipped (with the reason): no apt, or no network.
set -euo pipefail

die() { echo "debian.sh: $1" >&2; exit 2; }
(($# >= 3)) || die "write scripts/debian.sh SUITE DIR PACKAGE..."
suite=$1 dir=$2
shift 2
[[ $suite =~ ^[a-z][a-z-]*$ ]] || die "$suite is not a suite of Debian: write a name such as sid"
for tool in apt-get dpkg dpkg-deb; do
  command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 3; }
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keyring ] || { echo "skipped: $keyring is missing (package debian-archive-keyring)"; exit 3; }

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
case $dir in *[[:space:]\"\;]*) die "$dir: apt's configuration cannot name such a path" ;; esac
apt=$dir/apt
rm -rf "$apt" "$dir/root"
mkdir -p "$apt"/{etc/{apt.conf.d,preferences.d,trusted.gpg.d,sources.list.d},lists/partial,archives/partial} "$dir/root"
: >"$apt/status"
echo "deb [signed-by=$keyring] http://deb.debian.org/debian $suite main" >"$apt/etc/sources.list"
# The proxy and the like are this system's own; everything else is replaced.
cat >"$apt/config" <<CONFIG
Dir::Etc "$apt/etc";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Log "$apt";
Acquire::Languages "none";
Acquire::Retries "2";
APT::Architecture "$(dpkg --print-architecture)";
APT::Architectures { "$(dpkg --print-architecture)"; };
APT::Sandbox::User "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
CONFIG
quietly() {
  apt-get -c "$apt/config" -qq "$@" >"$apt/log" 2>&1 && return
  echo "skipped: apt-get $1: $(grep -m1 '^[EW]:' "$apt/log" || tail -n1 "$apt/log")"
  exit 3
}
quietly update -o APT::Update::Error-Mode=any
quietly install --download-only --yes "$@"
for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$dir/root"; done
# Only what is unpacked is needed from here on.
rm -rf "$apt"
