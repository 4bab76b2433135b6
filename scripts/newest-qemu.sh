#!/usr/bin/env bash
# Gets the newest qemu-storage-daemon that Debian has, for scripts/peers.sh.
#
#   scripts/newest-qemu.sh [--suite SUITE] PREFIX
#   scripts/peers.sh --peer "newest=qemu:PREFIX/qemu-storage-daemon"
#
#   PREFIX       a directory for it, which is made; an earlier run's is replaced
#   --suite      Debian's suite (default: sid)
#
# Nothing is installed (debian.sh): the packages, with the C library of their suite, are unpacked
# there, and PREFIX/qemu-storage-daemon runs the program with that library's loader. Prints the
# version.
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
# The package has changed in the past. What each contains is known only when it is unpacked.
"$(dirname "$0")/debian.sh" "$suite" "$prefix" qemu-utils qemu-system-common
prefix=$(cd "$prefix" && pwd)
root=$prefix/root

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
"$prefix/qemu-storage-daemon" --version | head -n1 || die "it does not run" 1
