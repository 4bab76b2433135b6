#!/usr/bin/env bash
# A Linux guest under QEMU uses a disk that our vhost-user-blk serves. One PASS, FAIL or SKIP line for each check; exits with
# 1 if anything failed. QEMU emulates the processor (TCG), so it needs no /dev/kvm; a guest boots in three to ten seconds.
#
#   scripts/qemu-guest.sh [--install] [--kernel FILE.deb] [--only CHECK,...] [--keep] [SERVER]
#
#   SERVER        the binary (default: target/release/vhost-user-blk)
#   --install     install what is missing with apt-get (as root), and download Debian's cloud kernel; without it, what a
#                 machine lacks is skipped, and nothing is installed or downloaded
#   --kernel DEB  a linux-image-*-cloud-amd64 package that is there already
#   --only LIST   some of: disk data readonly flush discard resize crash fio
#   --keep        leave the work directory, with the logs of servers and guests
#
# Needs qemu-system-x86_64, busybox (static), cpio, dpkg-deb. Packed into the guest where this machine has them: mke2fs and
# blkdiscard (mkfs.ext4, write zeroes), fio. Used outside: strace, e2fsck.
set -euo pipefail

readonly checks_in_order="disk data readonly flush discard resize crash fio"
server_binary=target/release/vhost-user-blk
install=no kernel_deb='' only=$checks_in_order keep=no
while (($#)); do
  case $1 in
    --install) install=yes ;;
    --keep) keep=yes ;;
    --kernel) kernel_deb=${2:?--kernel needs a package}; shift ;;
    --only) only=${2:?--only needs a list of checks}; only=${only//,/ }; shift ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p}' "$0"; exit 0 ;;
    -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
    *) server_binary=$1 ;;
  esac
  shift
done
for check in $only; do
  case " $checks_in_order " in
    *" $check "*) ;;
    *) echo "no check is called $check; there are: $checks_in_order" >&2; exit 2 ;;
  esac
done

readonly boot_limit=120     # seconds for a guest from power on to power off
readonly serial=qemu-guest-0123456789 # its 20 bytes are all that virtio-blk has
serial_seen=${serial:0:20}
readonly serial_seen

passed=0 failed=0 skipped=0
pass() { passed=$((passed + 1)); printf 'PASS  %-9s %s\n' "$current" "$*"; }
fail() { failed=$((failed + 1)); printf 'FAIL  %-9s %s\n' "$current" "$*"; }
skip() { skipped=$((skipped + 1)); printf 'SKIP  %-9s %s\n' "$current" "$*"; }
note() { printf '      %-9s %s\n' "$current" "$*"; }
# expect WHAT GOT WANTED
expect() { if [ "$2" = "$3" ]; then pass "$1: $2"; else fail "$1: ${2:-nothing}, expected $3"; fi; }
# expect_true WHAT CONDITION...: a [ ] condition
expect_true() { local what=$1; shift; if [ "$@" ]; then pass "$what"; else fail "$what: not so ($*)"; fi; }
have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
now() { date +%s.%N; }
elapsed() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'; }

# ---------------------------------------------------------------------------------------------------------------------
# The work directory, and the processes that live in it
# ---------------------------------------------------------------------------------------------------------------------

current=setup
work=$(mktemp -d "${TMPDIR:-/tmp}/qemu-guest.XXXXXX")
server_pid='' guest_pid='' tracer_pid=''
boots=0 answers='' console='' servers=0 server_log=''

# end PID SIGNAL: ends one of our children and waits for it, at most ten seconds.
end() {
  local pid=$1 signal=$2 i
  [ -n "$pid" ] || return 0
  kill "-$signal" "$pid" 2>/dev/null || true
  for ((i = 0; i < 100; i++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null
}

clean_up() {
  end "$guest_pid" TERM || true
  end "$server_pid" TERM || true
  end "$tracer_pid" TERM || true
  if [ "$keep" = yes ]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# ---------------------------------------------------------------------------------------------------------------------
# What the guest is made of
# ---------------------------------------------------------------------------------------------------------------------

install_missing() {
  local packages=()
  have qemu-system-x86_64 || packages+=(qemu-system-x86)
  [ -x /bin/busybox ] || packages+=(busybox-static)
  have cpio || packages+=(cpio)
  have fio || packages+=(fio)
  have mke2fs || packages+=(e2fsprogs)
  have strace || packages+=(strace)
  if ((${#packages[@]})); then
    echo "installing: ${packages[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${packages[@]}" >/dev/null
  fi
}

# Leaves the kernel in $work/kernel, its modules under $work/modules. False if there is none.
find_kernel() {
  local installed version
  installed=$(find /boot -maxdepth 1 -name 'vmlinuz-*-cloud-amd64' 2>/dev/null | sort -V | tail -n 1)
  if [ -z "$kernel_deb" ] && [ -n "$installed" ] && [ -d "/lib/modules/${installed#*vmlinuz-}" ]; then
    cp "$installed" "$work/kernel"
    ln -s "/lib/modules/${installed#*vmlinuz-}" "$work/modules"
    return
  fi
  if [ -z "$kernel_deb" ] && [ "$install" = yes ]; then
    apt-get -qq update
    version=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
    (cd "$work" && apt-get -qq download "$version" 2>/dev/null) || return 1
    kernel_deb=$(find "$work" -maxdepth 1 -name 'linux-image-*.deb' | head -n 1)
  fi
  [ -n "$kernel_deb" ] || return 1
  dpkg-deb -x "$kernel_deb" "$work/package"
  cp "$work"/package/boot/vmlinuz-* "$work/kernel"
  # With a merged /usr the modules are under usr/lib.
  ln -s "$(find "$work/package" -maxdepth 4 -type d -path '*/lib/modules/*' | head -n 1)" "$work/modules"
}

# pack PROGRAM ROOT: the program and the libraries it needs.
pack() {
  local program file
  program=$(PATH=$PATH:/usr/sbin:/sbin command -v "$1")
  mkdir -p "$2/bin"
  cp -L "$program" "$2/bin/"
  ldd "$program" | grep -o '/[^ ]*' | while read -r file; do
    mkdir -p "$2$(dirname "$file")"
    cp -L -n "$file" "$2$file"
  done
}

archive() { (cd "$1" && find . | cpio -o -H newc --quiet) >"$2"; }

make_initramfs() {
  local root=$work/root module program
  mkdir -p "$root"/{bin,proc,sys,dev,mnt,tmp,modules}
  cp -L /bin/busybox "$root/bin/busybox"
  for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    # Built in, or part of another one, where it is not found.
    find "$work/modules/" -name "$module.ko*" -exec cp {} "$root/modules/" \;
  done
  for program in mke2fs blkdiscard; do
    if have $program; then pack $program "$root"; fi
  done
  guest_init >"$root/init"
  chmod +x "$root/init"
  archive "$root" "$work/initramfs"
  if have fio; then
    pack fio "$work/fio-root"
    # Engines that are plugins are opened by name.
    local plugins=/usr/lib/x86_64-linux-gnu/fio
    if [ -d $plugins ]; then
      mkdir -p "$work/fio-root$plugins"
      cp $plugins/fio-libaio.so "$work/fio-root$plugins/" 2>/dev/null || true
    fi
    archive "$work/fio-root" "$work/fio-archive"
    # The kernel unpacks archives that follow each other one over the other.
    cat "$work/initramfs" "$work/fio-archive" >"$work/initramfs-fio"
    rm -rf "$work/fio-archive" "$work/fio-root"
  fi
}

# The guest's init. Its console is ttyS0; what it has to tell the checks goes to ttyS1, a line "name=value" each. The kernel
# command line says which of its functions to run.
guest_init() {
  cat <<'INIT'
#!/bin/busybox sh
# This shell takes its own applets before any program of PATH, so programs that are packed go by their paths.
export PATH=/applets
/bin/busybox mkdir -p /applets
/bin/busybox --install -s /applets
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  [ -f /modules/$module.ko ] && insmod /modules/$module.ko
done
for i in $(seq 100); do [ -b /dev/vda ] && break; usleep 100000; done

# Open throughout: what the host says while nobody has it open would be lost.
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
say() { echo "$*" >&3; }
wait_for_host() { read -r line <&3; }
sum() { sha256sum | cut -d' ' -f1; }
# at OFFSET LENGTH: so much of the disk, in MiB, as the device has it now and not as the page cache remembers it
at() { blockdev --flushbufs /dev/vda; dd if=/dev/vda bs=1M skip=$1 count=$2 2>/dev/null; }
# try NAME COMMAND...: says whether the command succeeded
try() { name=$1; shift; if "$@" >/dev/ttyS0 2>&1; then say "$name=yes"; else say "$name=no"; fi; }
noise() { dd if=/dev/urandom bs=1M count=$1 2>/dev/null; }

identify() {
  say "sectors=$(cat /sys/block/vda/size)"
  say "serial=$(cat /sys/block/vda/serial)"
  say "queues=$(ls /sys/block/vda/mq | wc -l)"
  say "read_only=$(cat /sys/block/vda/ro)"
  say "block_size=$(cat /sys/block/vda/queue/logical_block_size)"
  say "write_cache=$(cat /sys/block/vda/queue/write_cache)"
  # A string of 0 and 1, from bit 0 on.
  features=$(cat /sys/block/vda/device/features)
  say "features=$(for bit in 5 6 9 12 13 14 28 29 32; do echo -n "$bit:$(echo $features | cut -c$((bit + 1))) "; done)"
}

# What changes the device without any data: its cache mode, and a reset.
tinker() {
  echo "write through" >/sys/block/vda/cache_type
  say "through=$(cat /sys/block/vda/cache_type)"
  echo "write back" >/sys/block/vda/cache_type
  say "back=$(cat /sys/block/vda/cache_type)"
  noise 8 >/tmp/noise
  dd if=/tmp/noise of=/dev/vda bs=1M conv=fsync 2>/dev/ttyS0
  device=$(basename $(readlink -f /sys/block/vda/device))
  for i in 1 2 3; do
    echo $device >/sys/bus/virtio/drivers/virtio_blk/unbind
    echo $device >/sys/bus/virtio/drivers/virtio_blk/bind
  done
  say "written=$(sum </tmp/noise)"
  say "read_back=$(at 0 8 | sum)"
}

# The first 128 MiB are a file system, the next 64 MiB bytes without one.
store() {
  noise 64 >/tmp/noise
  say "written=$(sum </tmp/noise)"
  dd if=/tmp/noise of=/dev/vda bs=256k seek=512 conv=fsync 2>/dev/ttyS0
  say "read_back=$(at 128 64 | sum)"
  rm /tmp/noise
  [ -x /bin/mke2fs ] || return
  try mkfs /bin/mke2fs -q -t ext4 -F /dev/vda 128M
  try mounted mount -t ext4 /dev/vda /mnt
  for directory in $(seq 8); do
    mkdir -p /mnt/tree/$directory
    for file in $(seq 8); do
      # From nothing to 504 KiB.
      dd if=/dev/urandom of=/mnt/tree/$directory/$file bs=1k count=$(((directory * 8 + file - 9) * 8)) 2>/dev/null
    done
  done
  (cd /mnt && find tree -type f | sort | xargs sha256sum >sums)
  say "tree=$(sum </mnt/sums)"
  try unmounted umount /mnt
}

recall() {
  say "read_back=$(at 128 64 | sum)"
  [ -x /bin/mke2fs ] || return
  try mounted mount -t ext4 -o ro /dev/vda /mnt
  say "tree=$(sum </mnt/sums)"
  say "files=$(cd /mnt && sha256sum -c sums 2>/dev/null | grep -c OK)"
  umount /mnt
}

refused() {
  identify
  say "before=$(at 0 16 | sum)"
  try written dd if=/dev/urandom of=/dev/vda bs=4k count=4 conv=fsync
  try discarded /applets/blkdiscard -o 0 -l 1048576 /dev/vda
  say "after=$(at 0 16 | sum)"
}

flush() {
  # None of these asks for a flush, each conv=fsync does.
  dd if=/dev/urandom of=/dev/vda bs=4k seek=1000 count=100 oflag=direct 2>/dev/ttyS0
  for i in 1 2 3; do dd if=/dev/urandom of=/dev/vda bs=64k seek=$i count=1 conv=fsync 2>/dev/ttyS0; done
  say "flushes=3"
}

discard() {
  say "granularity=$(cat /sys/block/vda/queue/discard_granularity)"
  say "zeroes_max=$(cat /sys/block/vda/queue/write_zeroes_max_bytes)"
  noise 32 | dd of=/dev/vda bs=256k conv=fsync 2>/dev/ttyS0
  say "full=1"; wait_for_host
  try discarded /applets/blkdiscard -o 0 -l 16777216 /dev/vda
  say "discarded_sum=$(at 0 16 | sum)"
  say "beside=$(at 16 16 | sum)"
  say "punched=1"; wait_for_host
  [ -x /bin/blkdiscard ] || return
  try zeroed /bin/blkdiscard -z -o 16777216 -l 8388608 /dev/vda
  say "zeroed_sum=$(at 16 8 | sum)"
  [ -x /bin/mke2fs ] || return
  try mkfs /bin/mke2fs -q -t ext4 -E nodiscard -F /dev/vda 64M
  mount -t ext4 /dev/vda /mnt
  noise 24 >/mnt/file; sync
  say "filled=1"; wait_for_host
  rm /mnt/file; sync
  try trimmed fstrim /mnt
  wait_for_host
  umount /mnt
}

resize() {
  say "sectors=$(cat /sys/block/vda/size)"
  before=$(cat /sys/block/vda/size)
  for i in $(seq 300); do
    [ "$(cat /sys/block/vda/size)" = $before ] || break
    usleep 100000
  done
  say "resized=$(cat /sys/block/vda/size)"
  # In the part that was not there before.
  noise 1 >/tmp/noise
  say "written=$(sum </tmp/noise)"
  dd if=/tmp/noise of=/dev/vda bs=1M seek=300 conv=fsync 2>/dev/ttyS0
  say "read_back=$(at 300 1 | sum)"
}

# Writes that go past the page cache, each checked after it and all of them at the end, while the host kills the server.
crash() {
  noise 2 >/tmp/noise
  i=0
  errors=0
  while [ $i -lt 48 ]; do
    { echo "round $i"; cat /tmp/noise; } | dd of=/tmp/block bs=2M count=1 iflag=fullblock 2>/dev/null
    sum </tmp/block >>/tmp/written
    dd if=/tmp/block of=/dev/vda bs=64k seek=$((i * 32)) oflag=direct 2>/dev/ttyS0 || errors=$((errors + 1))
    i=$((i + 1))
    say "round=$i"
  done
  try flushed dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=30000 conv=fsync
  say "errors=$errors"
  blockdev --flushbufs /dev/vda
  i=0
  while [ $i -lt 48 ]; do at $((i * 2)) 2 | sum >>/tmp/read; i=$((i + 1)); done
  if cmp -s /tmp/written /tmp/read; then say "same=yes"; else say "same=no"; fi
  say "sum=$(sum </tmp/written)"
}

verify() {
  say "fio_starts=1"
  /bin/fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --rw=randwrite --bsrange=4k-32k \
    --iodepth=32 --size=128M --verify=crc32c --verify_backlog=256 --verify_fatal=1 --randseed=1 \
    --output=/tmp/fio --output-format=json >/dev/ttyS0 2>&1
  say "fio=$?"
  say "written_ios=$(grep -m 2 total_ios /tmp/fio | tail -n 1 | tr -dc 0-9)"
  say "read_ios=$(grep -m 1 total_ios /tmp/fio | tr -dc 0-9)"
  [ -s /tmp/fio ] || echo "fio wrote no report" >/dev/ttyS0
}

run=$(sed 's/.*run=\([a-z,]*\).*/\1/' /proc/cmdline)
say "boot=$(cut -d' ' -f1 /proc/uptime)"
if [ -b /dev/vda ]; then
  for function in $(echo $run | tr , ' '); do $function; done
else
  say "missing=/dev/vda"
fi
sync
say "end=1"
poweroff -f
INIT
}

# ---------------------------------------------------------------------------------------------------------------------
# Server and guest
# ---------------------------------------------------------------------------------------------------------------------

# start_server ARGUMENTS...: of vhost-user-blk, besides its socket
start_server() {
  local i
  servers=$((servers + 1)) server_log=$work/$current-$servers.server
  "$server_binary" --socket "$work/disk.sock" "$@" >"$server_log" 2>&1 &
  server_pid=$!
  for ((i = 0; i < 100; i++)); do
    if grep -qs 'listening on' "$server_log"; then return; fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  fail "the server does not listen: $(tail -n 1 "$server_log")"
  return 1
}

# SIGTERM drains and exits with 0.
stop_server() {
  local status=0
  end "$server_pid" TERM || status=$?
  server_pid=''
  if ((status != 0)); then fail "the server ended with status $status: $(tail -n 1 "$server_log")"; fi
}

# kill -9, in the middle of whatever it does. Its socket file stays behind, for the next server to replace.
kill_server() {
  # Without the shell's report that a job was killed.
  { end "$server_pid" KILL || true; } 2>/dev/null
}

# start_guest FUNCTIONS [QUEUES]: boots it. What it says is in $answers.
start_guest() {
  local functions=$1 queues=${2:-1} initramfs=$work/initramfs
  if [ "$functions" = verify ]; then initramfs=$work/initramfs-fio; fi
  boots=$((boots + 1))
  local log=$work/$current-$boots
  answers=$log.answers console=$log.console
  rm -f "$work/guest."{in,out}
  : >"$answers"
  mkfifo "$work/guest.in" "$work/guest.out"
  # Both directions at once, so that no open waits for the other side. What the guest says fits the pipe; it is read from
  # the log.
  exec 3<>"$work/guest.in" 4<>"$work/guest.out"
  guest_started=$(now)
  timeout --kill-after=5 "$boot_limit" qemu-system-x86_64 \
    -nodefaults -no-user-config -display none -no-reboot -machine q35,accel=tcg -cpu max -smp 2 -m 768M \
    -object memory-backend-memfd,id=memory,size=768M,share=on -numa node,memdev=memory \
    -kernel "$work/kernel" -initrd "$initramfs" -append "console=ttyS0 loglevel=5 panic=-1 run=$functions" \
    -serial "file:$console" -chardev "pipe,id=answers,path=$work/guest,logfile=$answers" \
    -serial chardev:answers \
    -chardev "socket,id=disk,path=$work/disk.sock,reconnect=1" \
    -device "vhost-user-blk-pci,chardev=disk,num-queues=$queues" \
    >>"$work/$current.qemu" 2>&1 3>&- 4>&- &
  guest_pid=$!
}

# hear NAME SECONDS: waits until the guest has said NAME.
hear() {
  local i
  for ((i = 0; i < $2 * 10; i++)); do
    if grep -q "^$1=" "$answers"; then return 0; fi
    kill -0 "$guest_pid" 2>/dev/null || break
    sleep 0.1
  done
  grep -q "^$1=" "$answers"
}
# answer NAME: the last value that the guest gave it
answer() { sed -n "s/^$1=//p" "$answers" | tail -n 1; }
# tell: lets the guest go on after wait_for_host
tell() { echo go >&3; }

# finish_guest: waits for its power off. False, and a FAIL line, if it did not come so far.
finish_guest() {
  local status=0
  wait "$guest_pid" || status=$?
  guest_pid=''
  exec 3>&- 4>&-
  note "guest up after $(answer boot) s of its time, off after $(elapsed "$guest_started")"
  if [ "$(answer end)" = 1 ] && ((status == 0)); then return 0; fi
  fail "the guest did not come to its end (QEMU: status $status; it said: $(tail -n 3 "$answers" | tr '\n' ' '))"
  tail -n 3 "$console" "$work/$current.qemu" "$server_log" 2>/dev/null | sed 's/^/      /'
  return 1
}

# boot FUNCTIONS [QUEUES]: the whole life of a guest that needs nothing from outside
boot() { start_guest "$@"; finish_guest; }

new_image() { truncate -s "$1" "$work/disk.raw"; }
blocks() { stat -c %b "$work/disk.raw"; }
# image_sum OFFSET LENGTH: of the image as this machine sees it, in MiB
image_sum() { dd if="$work/disk.raw" bs=1M skip="$1" count="$2" 2>/dev/null | sha256sum | cut -d' ' -f1; }

# ---------------------------------------------------------------------------------------------------------------------
# The checks
# ---------------------------------------------------------------------------------------------------------------------

check_disk() {
  new_image 256M
  start_server --image "$work/disk.raw" --serial "$serial_seen" --queues 2 --block-size 4096 || return 0
  boot identify,tinker 2 || true
  expect "sectors" "$(answer sectors)" $((256 * 2048))
  expect "serial" "$(answer serial)" "$serial_seen"
  expect "queues" "$(answer queues)" 2
  expect "logical block size" "$(answer block_size)" 4096
  expect "read-only" "$(answer read_only)" 0
  expect "write cache" "$(answer write_cache)" "write back"
  # RO is off; BLK_SIZE, FLUSH, MQ, DISCARD, WRITE_ZEROES, INDIRECT_DESC, EVENT_IDX, VERSION_1 are on.
  expect "features that the driver took" "$(answer features)" "5:0 6:1 9:1 12:1 13:1 14:1 28:1 29:1 32:1 "
  expect "cache mode set by the guest" "$(answer through), $(answer back)" "write through, write back"
  expect "8 MiB after the driver was unbound and bound three times" "$(answer read_back)" "$(answer written)"
  stop_server
}

# Two boots, and a new server for the second: with a thread for each queue.
check_data() {
  local written tree
  new_image 256M
  start_server --image "$work/disk.raw" --queues 2 || return 0
  boot store 2 || true
  written=$(answer written) tree=$(answer tree)
  expect "64 MiB read back at once, SHA-256" "$(answer read_back)" "${written:-a sum}"
  expect "64 MiB in the image" "$(image_sum 128 64)" "${written:-a sum}"
  stop_server
  if have mke2fs; then
    expect "mkfs.ext4 in the guest" "$(answer mkfs)" yes
    expect "mounted, filled and unmounted" "$(answer mounted) $(answer unmounted)" "yes yes"
    if have e2fsck; then expect_true "e2fsck finds nothing wrong in the image" "$(outside_fsck)" = clean; fi
  else
    skip "ext4: no mke2fs here to give to the guest"
  fi
  start_server --image "$work/disk.raw" --queues 2 --threads 2 || return 0
  boot recall 2 || true
  expect "64 MiB after a reboot" "$(answer read_back)" "${written:-a sum}"
  if have mke2fs; then
    expect "ext4 tree after a reboot, list of sums" "$(answer tree)" "${tree:-a sum}"
    expect "ext4 tree after a reboot, files with the right sum" "$(answer files)" 64
  fi
  stop_server
}

outside_fsck() {
  if PATH=$PATH:/usr/sbin:/sbin e2fsck -fn "$work/disk.raw" >>"$work/$current.fsck" 2>&1; then echo clean; else echo dirty; fi
}

check_readonly() {
  local before
  new_image 64M
  dd if=/dev/urandom of="$work/disk.raw" bs=1M count=16 conv=notrunc 2>/dev/null
  before=$(image_sum 0 64)
  start_server --image "$work/disk.raw" --read-only || return 0
  boot refused || true
  expect "read-only" "$(answer read_only)" 1
  expect "a write succeeds" "$(answer written)" no
  expect "a discard succeeds" "$(answer discarded)" no
  expect "the guest reads what is there, before" "$(answer before)" "$(image_sum 0 16)"
  expect "the guest reads what is there, after" "$(answer after)" "$(image_sum 0 16)"
  expect "the image is what it was" "$(image_sum 0 64)" "$before"
  stop_server
}

# With epoll the server calls fdatasync(2); io_uring would do it without a system call of its own.
check_flush() {
  if ! have strace; then skip "no strace here to look with"; return; fi
  new_image 64M
  start_server --image "$work/disk.raw" --monitor epoll || return 0
  strace -f -qq -e trace=fdatasync,fsync -o "$work/flush.trace" -p "$server_pid" 2>"$work/flush.strace" &
  tracer_pid=$!
  sleep 1
  if ! kill -0 "$tracer_pid" 2>/dev/null; then
    skip "strace may not attach: $(tail -n 1 "$work/flush.strace")"
    tracer_pid=''
    stop_server
    return
  fi
  boot flush || true
  stop_server
  end "$tracer_pid" TERM || true
  tracer_pid=''
  local wanted seen
  wanted=$(answer flushes) seen=$(grep -cE 'f(data)?sync\([0-9]+' "$work/flush.trace" || true)
  expect_true "the guest's ${wanted:-?} fsync(2) are $seen of the server's fdatasync(2)" "$seen" -ge "${wanted:-1000}"
  expect_true "and its 100 writes without fsync(2) are none" "$seen" -lt 50
}

check_discard() {
  local full punched filled beside
  new_image 64M
  start_server --image "$work/disk.raw" || return 0
  start_guest discard
  if hear full 120; then full=$(blocks); tell; else full=0; fi
  if hear punched 60; then punched=$(blocks) beside=$(image_sum 16 16); tell; else punched=$full beside='as before'; fi
  expect "blkdiscard of 16 MiB" "$(answer discarded)" yes
  expect_true "it punched a hole: $full blocks of 512 bytes before, $punched after" $((full - punched)) -ge $((16 * 2048))
  expect "what was discarded reads as zeroes" "$(answer discarded_sum)" "$(head -c 16M /dev/zero | sha256sum | cut -d' ' -f1)"
  expect "what lies beside it has not changed" "$(answer beside)" "$beside"
  if ! have blkdiscard; then
    skip "write zeroes: no blkdiscard of util-linux here to give to the guest"
  else
    if ! hear filled 120 && ! hear zeroed_sum 1; then fail "the guest stopped at write zeroes"; fi
    expect "write zeroes of 8 MiB" "$(answer zeroed)" yes
    expect "they read as zeroes" "$(answer zeroed_sum)" "$(head -c 8M /dev/zero | sha256sum | cut -d' ' -f1)"
  fi
  if ! have mke2fs; then
    skip "fstrim: no mke2fs here to give to the guest"
  else
    if hear filled 120; then filled=$(blocks); tell; else filled=0; fi
    if hear trimmed 60; then
      expect_true "fstrim after rm punched: $filled blocks before, $(blocks) after" $((filled - $(blocks))) -ge $((20 * 2048))
      tell
    fi
    expect "fstrim" "$(answer trimmed)" yes
  fi
  finish_guest || true
  stop_server
}

check_resize() {
  new_image 256M
  start_server --image "$work/disk.raw" || return 0
  start_guest resize
  if hear sectors 120; then
    new_image 384M
    kill -HUP "$server_pid"
  fi
  finish_guest || true
  expect "sectors before" "$(answer sectors)" $((256 * 2048))
  expect "sectors after truncate -s 384M and SIGHUP" "$(answer resized)" $((384 * 2048))
  expect "what is written past the old end reads back" "$(answer read_back)" "$(answer written)"
  expect "and is in the image" "$(image_sum 300 1)" "$(answer written)"
  stop_server
}

# The guest writes 48 blocks of 2 MiB past its page cache. Among them the server is killed twice, and once asked to end.
check_crash() {
  local ends=0 round
  new_image 256M
  start_server --image "$work/disk.raw" || return 0
  start_guest crash
  for round in 5 20 35; do
    if hear_round "$round" 60 && [ -z "$(answer errors)" ]; then
      if ((round == 20)); then stop_server; else kill_server; fi
      ends=$((ends + 1))
      start_server --image "$work/disk.raw" || break
    fi
  done
  finish_guest || true
  expect "times the server ended among the guest's writes (kill -9, SIGTERM, kill -9)" "$ends" 3
  expect "writes that failed in the guest" "$(answer errors)" 0
  expect "a flush afterwards succeeds" "$(answer flushed)" yes
  expect "all 48 blocks read back as they were written" "$(answer same)" yes
  expect "and are in the image" "$(for round in $(seq 0 2 94); do image_sum "$round" 2; done | sha256sum | cut -d' ' -f1)" \
    "$(answer sum)"
  stop_server
}

# hear_round NUMBER SECONDS: waits until the guest has written so many blocks.
hear_round() {
  local i
  for ((i = 0; i < $2 * 20; i++)); do
    if (($(answer round | grep . || echo 0) >= $1)); then return 0; fi
    kill -0 "$guest_pid" 2>/dev/null || return 1
    sleep 0.05
  done
  return 1
}

# Each write of the server takes half a second from now on.
hold_writes_back() {
  strace -f -qq -e trace=pwrite64,pwritev,pwritev2 -e inject=pwrite64,pwritev,pwritev2:delay_enter=500000 \
    -o "$work/$current.trace" -p "$server_pid" 2>>"$work/$current.strace" &
  tracer_pid=$!
}

# Once undisturbed, once with the server killed in the middle of the writes. strace holds each write of the server back, so
# that the kill finds requests in flight: the guest waits for ever for one that is not replayed by the next server.
check_fio() {
  if ! have fio; then skip "no fio here to give to the guest"; return; fi
  local kill_it kills=0
  have strace || note "no strace to hold writes back: few will be in flight when the server is killed"
  for kill_it in no yes; do
    new_image 256M
    start_server --image "$work/disk.raw" --queues 2 --monitor epoll || return 0
    start_guest verify 2
    if [ $kill_it = yes ] && hear fio_starts 60; then
      for _ in 1 2; do
        sleep 1
        if have strace; then hold_writes_back; fi
        sleep 2
        kill_server
        end "$tracer_pid" TERM || true
        tracer_pid=''
        if [ -z "$(answer fio)" ]; then kills=$((kills + 1)); fi
        start_server --image "$work/disk.raw" --queues 2 --monitor epoll || break
      done
    fi
    finish_guest || true
    if [ $kill_it = no ]; then
      expect "fio random write and read, iodepth 32, verify=crc32c, its status" "$(answer fio)" 0
      note "$(answer written_ios) writes, $(answer read_ios) reads"
    else
      expect "times the server was killed -9 while fio ran" "$kills" 2
      expect "the same, its status" "$(answer fio)" 0
    fi
    stop_server
  done
}

# ---------------------------------------------------------------------------------------------------------------------

if [ "$install" = yes ]; then install_missing; fi
lacking=''
for program in qemu-system-x86_64 cpio dpkg-deb; do
  if ! have $program; then lacking="$lacking $program"; fi
done
if ! [ -x /bin/busybox ] || ldd /bin/busybox >/dev/null 2>&1; then lacking="$lacking busybox-static"; fi
if [ -n "$lacking" ]; then
  skip "everything: this machine lacks$lacking (--install gets them)"
  exit 0
fi
if ! [ -x "$server_binary" ]; then
  echo "no server at $server_binary: cargo build --release -p virtio-blk-sim" >&2
  exit 2
fi
if ! find_kernel; then
  skip "everything: no Debian cloud kernel here (--install downloads one, --kernel takes a package)"
  exit 0
fi
make_initramfs
note "$(qemu-system-x86_64 --version | head -n 1)"
note "kernel $(basename "$(readlink -f "$work/modules")"), initramfs $(du -h "$work/initramfs" | cut -f1)"

all_started=$(now)
for check in $only; do
  current=$check
  "check_$check"
done
current=total
note "$passed passed, $failed failed, $skipped skipped in $(elapsed "$all_started")"
((failed == 0))
