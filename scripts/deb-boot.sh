# shellcheck shell=bash disable=SC2154
# A part of deb.sh: boots the Debian in $root, where the package is installed, with systemd-nspawn.
# A unit in there has systemd start the disks of both kinds of units, and uses them.
command -v systemd-nspawn >/dev/null || die "--boot needs systemd-nspawn (apt-get install systemd-container)"
cp target/debug/examples/vhost-user-verify "$root/usr/local/bin/"
cat >"$root/root/check.sh" <<'EOF'
#!/bin/bash
# Runs in the container. Its last line is "all is well".
set -eu
fail() { echo "failed: $1"; systemctl --no-pager --full status 'vhost-user-blk*' || true; exit 1; }
trap 'fail "line $LINENO"' ERR
property() { systemctl show --value -p "$2" "$1"; }
verify() { vhost-user-verify "$1" 2000; }

echo "one disk: the socket is there first, and a frontend starts the service"
install -d /var/lib/vhost-user-blk/vm1
truncate -s 64M /var/lib/vhost-user-blk/vm1/disk.raw
echo 'IMAGE=/var/lib/vhost-user-blk/vm1/disk.raw' >/etc/vhost-user-blk/vm1.conf
# Shorter than in the unit, to see the watchdog.
mkdir -p /etc/systemd/system/vhost-user-blk@.service.d
printf '[Service]\nWatchdogSec=2\nRestartSec=0\n' >/etc/systemd/system/vhost-user-blk@.service.d/test.conf
systemctl enable --now vhost-user-blk@vm1.socket
[ "$(property vhost-user-blk@vm1.service ActiveState)" = inactive ]
verify /run/vhost-user-blk/vm1.sock
[ "$(property vhost-user-blk@vm1.service ActiveState)" = active ]
[ "$(property vhost-user-blk@vm1.service StatusText)" = "serving 1 disk" ]
pid=$(property vhost-user-blk@vm1.service MainPID)
grep -E '^(Uid|Groups|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status
grep -q '^CapBnd:.0000000000000000$' /proc/$pid/status
! grep -q '^Uid:.0' /proc/$pid/status

echo "SIGHUP: the size is read again"
truncate -s 128M /var/lib/vhost-user-blk/vm1/disk.raw
systemctl reload vhost-user-blk@vm1.service
for i in $(seq 100); do
  journalctl -q -u vhost-user-blk@vm1 | grep -q 'the disk now has 262144 sectors' && break
  sleep 0.1
done
[ "$(property vhost-user-blk@vm1.service ActiveState)" = active ]

echo "the watchdog: a process that hangs is replaced"
sleep 5
[ "$(property vhost-user-blk@vm1.service NRestarts)" = 0 ]
[ "$(property vhost-user-blk@vm1.service MainPID)" = "$pid" ]
kill -STOP "$pid"
for i in $(seq 100); do
  [ "$(property vhost-user-blk@vm1.service NRestarts)" = 1 ] && break
  sleep 0.1
done
[ "$(property vhost-user-blk@vm1.service NRestarts)" = 1 ]
verify /run/vhost-user-blk/vm1.sock
systemctl stop vhost-user-blk@vm1.service
[ -S /run/vhost-user-blk/vm1.sock ]

echo "many disks"
systemctl start vhost-user-blkd
[ "$(property vhost-user-blkd StatusText)" = "serving 0 disks" ]
truncate -s 64M /var/lib/vhost-user-blkd/{a,b}.raw
chown --reference=/var/lib/vhost-user-blkd/ /var/lib/vhost-user-blkd/{a,b}.raw
for disk in a b; do
  printf '[[disk]]\nid = "%s"\nsocket = "/run/vhost-user-blkd/%s.sock"\nimage = "/var/lib/vhost-user-blkd/%s.raw"\n' \
    $disk $disk $disk >>/etc/vhost-user-blk/vhost-user-blk.toml
done
systemctl reload vhost-user-blkd
for i in $(seq 100); do
  [ "$(property vhost-user-blkd StatusText)" = "serving 2 disks" ] && break
  sleep 0.1
done
verify /run/vhost-user-blkd/a.sock
verify /run/vhost-user-blkd/b.sock
ls -l /run/vhost-user-blkd

echo "the removal stops what runs, and the purge leaves nothing enabled"
systemctl --quiet enable vhost-user-blkd
systemctl start vhost-user-blk@vm1.service
dpkg -r vhost-user-blk-aio >/dev/null
! pgrep -x vhost-user-blk
[ ! -e /run/vhost-user-blk/vm1.sock ] && [ ! -e /run/vhost-user-blkd ]
dpkg -P vhost-user-blk-aio >/dev/null
! ls /etc/systemd/system/*.wants/vhost-user-blk* 2>/dev/null
trap - ERR
echo "all is well"
EOF
cat >"$root/etc/systemd/system/check.service" <<'EOF'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /root/check.sh
StandardOutput=file:/root/result
StandardError=inherit
ExecStopPost=/bin/systemctl --no-block poweroff
EOF
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -sf ../check.service "$root/etc/systemd/system/graphical.target.wants/"
# Its exit status says how the container ended; what counts is what was checked in it.
timeout 180 systemd-nspawn --quiet --directory "$root" --machine "deb-sh-$$" --register=no --keep-unit \
  --private-network --boot </dev/null >"$work/boot" 2>&1 || true
cat "$root/root/result" || { tail -n 20 "$work/boot"; die "the container did not run"; }
[ "$(tail -n1 "$root/root/result")" = "all is well" ] || die "a check in the container failed"
rm -rf "$root"/{root/check.sh,root/result,usr/local/bin/vhost-user-verify}
rm -rf "$root"/etc/systemd/system/{check.service,graphical.target.wants,vhost-user-blk@.service.d}
rm -rf "$root"/var/lib/{,private/}vhost-user-blk{,d} "$root"/etc/vhost-user-blk
