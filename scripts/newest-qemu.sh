#!/usr/bin/env bash
# Gets the newest qemu-storage-daemon that Debian has, for scripts/peers.sh.
#
#   scripts/newest-qemu.sh [--suite SUITE] PREFIX
#   scripts/peers.sh --peer "newest=qemu:PREFIX/qemu-storage-daemon"
#
#   PREFIX       a directory for it, which is made; an earlier run's is replaced
#   --suite      Debian's suite (default: sid)
#
# apt-get runs with a configuration, lists and a package state below PREFIX. So no package of this
# system is installed, changed or even looked at. The packages, with the C library of their
# suite, are unpacked there, and PREFIX/qemu-storage-daemon runs the program with that library's
# loader. Prints the version.
#
# Exit codes: 0 it is there, 1 it does not run, 2 wrong arguments, 3 skipped: no apt, or no network.
set -euo pipefail

suite=sid prefix=
die() { echo "newest-qemu.sh: $1" >&2; exit "${2:-2}"; }
while (($#)); do
  case $1 in
    --help | -h) sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --suite) (($# > 1)) || die "--suite needs a value"; suite=$2; shift ;;
    -*) die "$1: unknown option; try --help" ;;
    *) [ -z "$prefix" ] || die "one PREFIX, please"; prefix=$1 ;;
  esac
  shift
done
[ -n "$prefix" ] || die "where to? Write scripts/newest-qemu.sh PREFIX"
[[ $suite =~ ^[a-z][a-z-]*$ ]] || die "--suite $suite: write a name such as sid"
for tool in apt-get dpkg dpkg-deb; do
  command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 3; }
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keyring ] || { echo "skipped: $keyring is missing (package debian-archive-keyring)"; exit 3; }

mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
case $prefix in *[[:space:]\"\;]*) die "$prefix: apt's configuration cannot name such a path" ;; esac
apt=$prefix/apt root=$prefix/root
rm -rf "$apt" "$root" "$prefix/qemu-storage-daemon"
mkdir -p "$apt"/{etc/{apt.conf.d,preferences.d,trusted.gpg.d,sources.list.d},lists/partial,archives/partial} "$root"
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
# The package has changed in the past. What each contains is known only when it is unpacked.
quietly install --download-only --yes qemu-utils qemu-system-common
for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done

daemon=$(find "$root/usr/bin" "$root/usr/libexec" -name qemu-storage-daemon -print -quit 2>/dev/null || true)
[ -n "$daemon" ] || die "$suite has no qemu-storage-daemon in qemu-utils or qemu-system-common" 1
loader=$(find "$root" -name 'ld-linux*.so.*' -print -quit)
[ -n "$loader" ] || die "$suite's C library has no loader" 1
libraries=$(find "$root/usr/lib" "$root/usr/lib64" -name '*.so.*' -printf '%h\n' 2>/dev/null | sort -u | paste -sd:)
# The modules of this system's QEMU, if it has any, are of another version.
cat >"$prefix/qemu-storage-daemon" <<WRAPPER
#!/bin/sh
QEMU_MODULE_DIR='$root/usr/lib' exec '$loader' --library-path '$libraries' '$daemon' "\$@"
WRAPPER
chmod +x "$prefix/qemu-storage-daemon"
# Only what is unpacked is needed from here on.
rm -rf "$apt"
"$prefix/qemu-storage-daemon" --version | head -n1 || die "it does not run" 1
