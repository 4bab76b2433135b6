#!/usr/bin/env bash
# Builds the Debian package of vhost-user-blk and tries it: installs it in a fresh Debian, serves a
# disk from there to our own client, removes and purges it, and checks that nothing is left.
#
#   scripts/deb.sh [--output DIRECTORY] [--boot]
#
# --boot also boots that Debian with systemd-nspawn, and has systemd start the disks of both units.
# Exit codes: 0 works, 1 does not, 2 wrong use, 3 skipped: this machine lacks something.
set -euo pipefail
cd "$(dirname "$0")/.."

output=target/debian boot=no
while (($#)); do
  case $1 in
    --output) output=${2:?a directory}; shift 2 ;;
    --boot) boot=yes; shift ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done

skip() { echo "skipped: $1"; exit 3; }
die() { echo "deb.sh: $1" >&2; exit 1; }
step() { printf '\n--- %s (after %d s)\n' "$1" "$SECONDS"; }

[ "$(id -u)" = 0 ] || skip "a chroot needs root"
for tool in cargo-deb:'cargo install cargo-deb' dpkg-deb:'apt-get install dpkg' mmdebstrap:'apt-get install mmdebstrap'; do
  command -v "${tool%%:*}" >/dev/null || skip "${tool%%:*} is not installed (${tool#*:})"
done
suite=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || true
[ -n "$suite" ] || skip "the package runs on the Debian that it was built on, and this is no Debian"

step "build"
cargo build --release --locked -p virtio-blk-sim --bin vhost-user-blk
cargo build --locked -p virtio-blk-sim --example vhost-user-verify
mkdir -p "$output"
cargo deb --no-build --strip --locked -p virtio-blk-sim --output "$output" >/dev/null
deb=$(find "$output" -name 'vhost-user-blk-aio_*.deb' -printf '%T@ %p\n' | sort -n | tail -n1 | cut -d' ' -f2)
dpkg-deb --info "$deb"
dpkg-deb --contents "$deb" | awk '{print $1, $6}'

step "lintian"
if command -v lintian >/dev/null; then
  # Fails for errors, and shows the rest.
  lintian --allow-root --fail-on error "$deb" || die "lintian found errors"
else
  echo "not installed"
fi

step "a fresh Debian ($suite)"
# Short, because the path of a socket has at most 107 bytes.
work=$(mktemp -d /tmp/deb.XXXXXX) root=$work/root
pid=
finish() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || true

  rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
packages=systemd,man-db,procps
[ "$boot" = no ] || packages=$packages,dbus,systemd-sysv
tarball=target/debian/$suite-${packages//,/-}.tar
if [ ! -f "$tarball" ]; then
  mkdir -p target/debian
  mmdebstrap --quiet --variant=apt --include="$packages" "$suite" "${tarball%.tar}.new.tar" ||
    skip "no Debian could be made; is its archive out of reach?"
  mv "${tarball%.tar}.new.tar" "$tarball"
fi
mkdir "$root"
tar -C "$root" --numeric-owner -xf "$tarball"

# The chroot has a /proc of its own, which goes with the mount namespace.
in_root() {
  unshare --mount --propagation private sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" "$@"
}
# Everything that a package could leave behind, except the records of dpkg, apt and man-db.
files() {
  (cd "$root" && find . -xdev \( -path ./proc -o -path ./var/lib/dpkg -o -path ./var/cache -o -path ./var/log -o \
    -path ./tmp -o -path ./run -o -path ./var/lib/apt \) -prune -o -print | sort)
}

step "install"
files >"$work/before"
cp "$deb" "$root/tmp/package.deb"
in_root dpkg -i /tmp/package.deb
in_root sh -c 'dpkg --verify vhost-user-blk-aio' | tee "$work/verify"
[ ! -s "$work/verify" ] || die "the installed files are not those of the package"
capabilities=$(in_root vhost-user-blk --print-capabilities)
echo "$capabilities"
python3 - "$root" "$capabilities" <<'EOF'
import json, os, sys

root, capabilities = sys.argv[1], json.loads(sys.argv[2])
description = json.load(open(f"{root}/usr/share/qemu/vhost-user/50-vhost-user-blk-aio.json"))
assert capabilities["type"] == description["type"] == "block"
assert os.access(root + description["binary"], os.X_OK), "the description names no program"
EOF
for page in 1:vhost-user-blk 5:vhost-user-blk.toml 7:vhost-user-blk-control; do
  warnings=$(in_root man --warnings -E UTF-8 "${page%%:*}" "${page#*:}" 2>&1 >/dev/null)
  [ -z "$warnings" ] || die "$page: $warnings"
done
in_root systemd-analyze verify --man=yes vhost-user-blkd.service || die "a unit is wrong"
in_root sh -c 'systemd-analyze verify /usr/lib/systemd/system/vhost-user-blk@.service 2>&1' || die "a unit is wrong"
for unit in vhost-user-blk@.service vhost-user-blkd.service; do
  in_root systemd-analyze security --offline=true --no-pager --threshold=15 "$unit" >"$work/security" ||
    die "$unit: $(tail -n1 "$work/security")"
  tail -n1 "$work/security"
done

step "serve a disk"
truncate -s 64M "$root/tmp/disk.raw"
in_root vhost-user-blk --socket-path=/tmp/s --blk-file=/tmp/disk.raw --pid-file /tmp/pid --user nobody 2>"$work/log" &
server=$!
for ((tries = 0; tries < 200; tries++)); do
  pid=$(cat "$root/tmp/pid" 2>/dev/null) && [ -n "$pid" ] && break
  kill -0 $server 2>/dev/null || break
  sleep 0.05
done
cat "$work/log"
[ -n "$pid" ] || die "it did not start"
target/debug/examples/vhost-user-verify "$root/tmp/s"
kill "$pid"
pid=
wait $server || die "it did not end with status 0: $(cat "$work/log")"
in_root vhost-user-blk --config /etc/vhost-user-blk/vhost-user-blk.toml </dev/null 2>"$work/log" &
server=$!
for ((tries = 0; tries < 200; tries++)); do grep -qs 'ready\|control' "$work/log" && break; sleep 0.05; done
cat "$work/log"
# Without systemd nobody has made its directory in /run.
grep -q '/run/vhost-user-blkd/control' "$work/log" || die "the example is not what the program takes"
wait $server || true

if [ "$boot" = yes ]; then
  step "boot"
  . scripts/deb-boot.sh
  # The package was purged there. A system that was booted has more files.
  files >"$work/before"
  in_root dpkg -i /tmp/package.deb >/dev/null
fi

step "remove, and install again"
echo '# a change of the administrator' >>"$root/etc/vhost-user-blk/vhost-user-blk.toml"
in_root dpkg -r vhost-user-blk-aio
[ -f "$root/etc/vhost-user-blk/vhost-user-blk.toml" ] || die "dpkg -r has removed the configuration"
[ ! -e "$root/usr/bin/vhost-user-blk" ] || die "dpkg -r has left the program"
in_root dpkg -i /tmp/package.deb
tail -n1 "$root/etc/vhost-user-blk/vhost-user-blk.toml" | grep 'a change of the administrator'

step "purge"
# What systemctl enable does.
mkdir -p "$root/etc/systemd/system/sockets.target.wants"
in_root systemctl --quiet enable vhost-user-blkd.service vhost-user-blk@vm1.socket
in_root dpkg -r vhost-user-blk-aio
in_root dpkg -P vhost-user-blk-aio
rm -rf "$root"/tmp/*
files >"$work/after"
left=$(diff "$work/before" "$work/after" | grep '^[<>]' | grep -v 'etc/systemd/system/sockets.target.wants$' || true)
[ -z "$left" ] || die "left over, or gone: $left"
echo "nothing is left"
step "done: $deb"
