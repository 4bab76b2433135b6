#!/usr/bin/env bash
# The kernel lab: takes Debian's linux-source-6.12 or a newer one, applies the patches of
# scripts/kernel, and builds, boots and tests the kernels. One command, on a fresh Debian-like
# x86-64 machine; as root it installs what it needs with apt-get. See scripts/kernel/README.md.
#
#   scripts/kernel-lab.sh build|test|series|bench|qemu|shell [--uml|--qemu] [--version VERSION]
#                         [--kernel LIST] [--dir DIR] [--limit SECONDS] [--jobs N] [--json FILE]
#                         [--only NAME] [--suites LIST] [--disks LIST]
#
#   build    builds the kernels
#   test     boots each kernel and runs in it: every way to wait for an eventfd, the bounded
#            counter, the selftests of the patches, and aio's conformance suite; then prints what
#            each kernel delivered or lost
#   series   examines the patches as a maintainer would: checkpatch.pl --strict, git am, and a build
#            after each patch; the selftests run after the last one
#   bench    boots each kernel under QEMU with a clock that counts instructions (TCG, -icount
#            shift=0), and prints the cost of a virtio-blk request in the classic arms, without the
#            read, and with the patches; then the same as times, if /dev/kvm can boot a kernel
#   qemu     boots each kernel in the same way and runs QEMU's storage daemon in it: the cost of a
#            vhost-user-blk request in QEMU's own event loop, with its reads and without
#   shell    boots the first kernel with a shell on this terminal
#
#   --uml           User-Mode Linux: the kernel is a process, and the host's files are its root,
#                   read-only (default, except for bench and qemu)
#   --qemu          a small x86-64 guest in an emulated processor, with two CPUs for test and shell
#   --version V     version of the kernel: 6.12 (default), or `newest`, the newest source in Debian
#                   unstable. It is downloaded into the lab's directory, not installed
#   --kernel LIST   kernels to use: patches joined by +, kernels by commas; `stock` has no patch
#                   (default: 0001+0003,0002+0003; for bench and qemu stock,0001,0002)
#   --dir DIR       where source and kernels are kept, about 2 GB
#                   (default: $KERNEL_LAB_DIR, or eventfd-kernel-lab in the user's cache)
#   --jobs N        number of parallel compilers (default: one per CPU)
#   --limit SECONDS stops after that time, and keeps what was built for the next run
#   --json FILE     bench, qemu: writes the counts as JSON
#   --suites LIST   qemu: the releases of Debian whose QEMU is run (default: bookworm,trixie,sid).
#                   It is unpacked in DIR, not installed, and kept; remove DIR/debian-* for newer
#                   ones
#   --disks LIST    qemu: of null, threads, native, io_uring; the last three are a file with that
#                   value of QEMU's aio= (default: all)
#   --only NAME     test: runs only the tests whose name contains NAME
#
# Exit codes: 0 done, 1 failed, 2 wrong use, 3 skipped (with the reason): this machine cannot run
# the lab, or the limit was reached.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(dirname "$here")
readonly here repository
readonly patches=$here/kernel

usage() { echo "kernel-lab: $*; see --help" >&2; exit 2; }
skip() { echo "SKIPPED: $*"; exit 3; }
say() { printf '\n--- %s\n' "$*"; }

command='' machine='' version=6.12 kernels='' limit='' json='' jobs='' only='' suites='' disks=''
lab=${KERNEL_LAB_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/eventfd-kernel-lab}
while (($#)); do
  case $1 in
    build | test | series | bench | qemu | shell) [ -z "$command" ] || usage "one command at a time"; command=$1 ;;
    --uml | --qemu) machine=${1#--} ;;
    --version | --kernel | --dir | --limit | --jobs | --json | --only | --suites | --disks)
      [ -n "${2:-}" ] || usage "$1 needs a value"
      case $1 in
        --version) version=$2 ;;
        --kernel) kernels=$2 ;;
        --dir) lab=$2 ;;
        --limit) limit=$2 ;;
        --jobs) jobs=$2 ;;
        --json) json=$2 ;;
        --only) only=$2 ;;
        --suites) suites=$2 ;;
        --disks) disks=$2 ;;
      esac
      shift ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p}' "$0"; exit 0 ;;
    *) usage "unknown argument $1" ;;
  esac
  shift
done
[ -n "$command" ] || usage "name a command: build, test, series, bench, qemu or shell"
[ -z "$limit" ] || [[ $limit =~ ^[0-9]+$ ]] || usage "--limit takes seconds, not '$limit'"
jobs=${jobs:-$(nproc)}
[[ $jobs =~ ^[1-9][0-9]*$ ]] || usage "--jobs takes a number, not '$jobs'"
case $version in 6.12 | newest) ;; *) usage "--version is 6.12 or newest, not '$version'" ;; esac
[ -z "$json" ] || [[ $command =~ ^(bench|qemu)$ ]] || usage "--json belongs to bench and qemu"
[ -z "$suites" ] || [ "$command" = qemu ] || usage "--suites belongs to qemu"
[ -z "$disks" ] || [ "$command" = qemu ] || usage "--disks belongs to qemu"
suites=${suites:-bookworm,trixie,sid} disks=${disks:-null,threads,native,io_uring}
[[ $disks =~ ^(null|threads|native|io_uring)(,(null|threads|native|io_uring))*$ ]] || usage "--disks: no disk is called '$disks'"
[[ $suites =~ ^[a-z]+(,[a-z]+)*$ ]] || usage "--suites takes names of releases of Debian, not '$suites'"
[ -z "$only" ] || [ "$command" = test ] || usage "--only belongs to test"
# The name becomes part of a command line in the guest.
[[ $only =~ ^([A-Za-z0-9_:][A-Za-z0-9_:,.\ -]*)?$ ]] || usage "--only takes letters, digits and spaces, not '$only'"
if [[ $command =~ ^(bench|qemu)$ ]]; then
  [ "$machine" != uml ] || usage "$command counts instructions, which takes --qemu"
  machine=qemu kernels=${kernels:-stock,0001,0002}
fi
if [ "$command" = series ]; then
  [ "$machine" != qemu ] || usage "series builds User-Mode Linux"
  [ -z "$kernels" ] || usage "series takes all patches, so no --kernel"
  kernels=stock
fi
machine=${machine:-uml} kernels=${kernels:-0001+0003,0002+0003}
IFS=, read -r -a kernels <<<"$kernels"
for kernel in "${kernels[@]}"; do
  [[ $kernel =~ ^(stock|000[123](\+000[123])*)$ ]] || usage "no kernel is called '$kernel'"
  [[ $kernel != *0001*0002* && $kernel != *0002*0001* ]] || usage "0002 replaces 0001, so not both"
done
[ "$(uname -m)" = x86_64 ] || skip "the lab builds x86-64 kernels, and this is $(uname -m)"
# Each version has its own source and kernels.
if [ "$version" != 6.12 ]; then lab+=/$version; fi
mkdir -p "$lab" && lab=$(cd "$lab" && pwd)
exec 9>"$lab/lock"
if ! flock -n 9; then
  say "waiting for another run in $lab"
  flock ${limit:+-w "$limit"} 9 || skip "another run has used $lab for $limit s"
fi

# --------------------------------------------------------------------------------------------------
# Steps: each prints what it does and how long it took; a failing step ends the run with its log
# --------------------------------------------------------------------------------------------------

remaining() { if [ -n "$limit" ]; then echo $((limit - SECONDS)); else echo 86400; fi; }

# step WHAT LOG COMMAND...: runs the command with its output in LOG. The command may be an exported
# function.
step() {
  local what=$1 log=$2 began=$EPOCHREALTIME status=0 left
  shift 2
  left=$(remaining)
  ((left > 0)) || skip "the limit of $limit s was reached before this: $what. What is built is kept for the next run"
  printf '%-70s ' "$what"
  # timeout(1) makes a process group, so the whole group is killed.
  timeout --kill-after=10 "$left" bash -euc '"$@"' step "$@" >"$log" 2>&1 </dev/null &
  running=$!
  wait "$running" || status=$?
  running=''
  took=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }')
  if ((status == 0)); then echo "$took"; return; fi
  echo "failed after $took"
  if ((status == 124 || status == 137)) && (($(remaining) <= 1)); then
    skip "the limit of $limit s was reached in this: $what. What is built is kept for the next run"
  fi
  echo "    the last lines of $log:" >&2
  tail -n 25 "$log" | sed 's/^/    /' >&2
  exit 1
}
running=''
trap '[ -z "$running" ] || kill "$running" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

# --------------------------------------------------------------------------------------------------
# Requirements: tools, the source, the patches
# --------------------------------------------------------------------------------------------------

install_packages() {
  apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"
}
export -f install_packages

find_tools() {
  local tool missing=()
  for tool in gcc:gcc make:make flex:flex bison:bison bc:bc xz:xz-utils git:git perl:perl python3:python3; do
    command -v "${tool%:*}" >/dev/null || missing+=("${tool#*:}")
  done
  [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
  if [ "$machine" = qemu ]; then
    command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
    command -v cpio >/dev/null || missing+=(cpio)
    [ -e /usr/include/libelf.h ] || missing+=(libelf-dev)
  fi
  [ "$version" = newest ] || [ -e /usr/src/linux-source-6.12.tar.xz ] || missing+=(linux-source-6.12)
  command -v cargo >/dev/null || skip "no cargo: install a Rust toolchain"
  ((${#missing[@]})) || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    skip "not installed, and this is not root on a machine with apt-get: ${missing[*]}"
  fi
  step "install ${missing[*]}" "$lab/apt.log" install_packages "${missing[@]}"
}

# Sets the package and the archive of the version.
find_source() {
  if [ "$version" = newest ]; then
    step "the newest kernel source of Debian unstable" "$lab/newest.log" newest_source
    tarball=$(cat "$lab/tarball")
  else
    tarball=/usr/src/linux-source-6.12.tar.xz
  fi
  package=$(basename "$tarball" .tar.xz)
  export package tarball
}

newest_source() {
  "$patches/newest-source.sh" "$lab/newest" >"$lab/tarball"
}

# Leaves out the files that none of our configurations needs, which is more than half of the source.
# Makefiles and Kconfig files stay, because all of them are read.
unpack_source() {
  rm -rf "${lab:?}/$package" "$lab/pristine"
  tar -C "$lab" -xf "$tarball" --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/net/*/*.[ch]' \
    --exclude='*/drivers/media/*.[ch]' --exclude='*/sound/*.[ch]' --exclude='*/Documentation/*.rst' \
    --exclude='*/tools/testing/[!s]*' --exclude='*/tools/testing/selftests/[!fklMr]*' --exclude='*/tools/perf/*' \
    --exclude='*.dts' --exclude='*.dtsi'
  source_version >"$lab/unpacked"
}

# What was unpacked, and how.
source_version() { stat -c '%n %s %Y' "$tarball" && declare -f unpack_source | cksum; }

# patches_of NUMBER: prints the files of a patch or a series, without its cover letter. A series may
# have some of its patches for an older version.
patches_of() {
  local file
  for file in "$patches/$1"-*.patch "$patches/$1"-*/000[1-9]-*.patch; do
    [ -e "$file" ] || continue
    [ ! -e "$(dirname "$file")/$version/$(basename "$file")" ] || file=$(dirname "$file")/$version/$(basename "$file")
    echo "$file"
  done
}

# Prints the files of the kernel that a patch changes now or changed in an earlier run. The
# selftests are built elsewhere, and nobody reads the documentation here.
touched() {
  {
    local number
    for number in 0001 0002 0003; do patches_of "$number"; done | xargs sed -n 's,^+++ b/,,p' | grep -Ev '^(tools|Documentation)/'
    [ ! -d "$lab/pristine" ] || find "$lab/pristine" -type f -printf '%P\n'
  } | sort -u
}

# apply FILE OPTION...: in the current directory, with exact context, outside of any repository.
apply() {
  local file=$1
  shift
  echo "$(basename "$file")"
  GIT_CEILING_DIRECTORIES=$lab git apply "$@" "$file"
}

# files_of KERNEL: prints the patch files of a kernel, which is called after their numbers.
files_of() {
  local number
  for number in ${1//+/ }; do [ "$number" = stock ] || patches_of "$number"; done
}

# patch_source KERNEL FILE...: one source tree serves all kernels. Patched files keep one time stamp
# per content, so make(1) recompiles only what changed since its last build of this kernel.
patch_source() {
  local file new=$lab/new old=$lab/patched/$machine-$1
  shift
  for file in $(touched); do
    [ -e "$lab/pristine/$file" ] && continue
    mkdir -p "$lab/pristine/$(dirname "$file")"
    cp -p "$lab/$package/$file" "$lab/pristine/$file"
  done
  rm -rf "$new" && cp -rp "$lab/pristine" "$new"
  for file; do
    # A patch of the selftests changes nothing here, which git would call an error.
    ! grep -q '^+++ b/tools/' "$file" || continue
    (cd "$new" && apply "$file" --exclude='Documentation/*')
  done
  for file in $(touched); do
    mkdir -p "$old/$(dirname "$file")"
    if [ ! -e "$old/$file" ]; then
      cp -p "$new/$file" "$old/$file"
    elif ! cmp -s "$new/$file" "$old/$file"; then
      # Also if that is the unpatched file again, which is older than what was built.
      cp "$new/$file" "$old/$file" && touch "$old/$file"
    fi
    cp -p "$old/$file" "$lab/$package/$file"
  done
  rm -rf "$new"
}

# make_kernel KERNEL TARGET...: in its build directory.
make_kernel() {
  local kernel=$1
  shift
  make -s -C "$lab/$package" ARCH="$arch" O="$lab/$machine-$kernel" LOCALVERSION="-$kernel" \
    KBUILD_BUILD_USER=lab KBUILD_BUILD_HOST=lab KBUILD_BUILD_TIMESTAMP="$(date -u -r "$tarball")" "$@"
}

configure() {
  local wanted=$lab/$machine.config line
  cat "$patches/common.config" "$patches/$machine.config" >"$wanted"
  cmp -s "$wanted" "$lab/$machine-$1/wanted" && return
  make_kernel "$1" KCONFIG_ALLCONFIG="$wanted" allnoconfig
  grep -v '^#' "$wanted" | while read -r line; do
    grep -qxF "$line" "$lab/$machine-$1/.config" || { echo "this source does not support $line"; exit 1; }
  done
  cp "$wanted" "$lab/$machine-$1/wanted"
}

# In a copy of another kernel's build, objtool is built again because its folder has another name,
# and all objects depend on it. It is the same program, so it gets a time before theirs.
keep_objects() {
  local built=$lab/$machine-$1
  [ -e "$built/copied" ] || return 0
  make_kernel "$1" -j"$jobs" prepare
  [ ! -d "$built/tools/objtool" ] || find "$built/tools/objtool" -type f -exec touch -r "$built/.config" {} +
  rm "$built/copied"
}

# compile KERNEL FILE...: with these patches.
compile() {
  patch_source "$@"
  configure "$1"
  keep_objects "$1"
  make_kernel "$1" -j"$jobs" "$image"
}

export version lab patches machine arch image jobs
export -f newest_source unpack_source source_version patches_of touched apply patch_source make_kernel configure keep_objects compile

if [ "$machine" = uml ]; then arch=um image=linux; else arch=x86_64 image=bzImage; fi
# The kernel itself, in its build directory.
kernel_file() { if [ "$machine" = uml ]; then echo "$lab/uml-$1/linux"; else echo "$lab/qemu-$1/arch/x86/boot/bzImage"; fi; }

# prepare KERNEL: starts from another kernel's build if there is one, because few files differ.
prepare() {
  local other from='' patched=$lab/patched
  [ ! -d "$lab/$machine-$1" ] || return 0
  for other in "$lab/$machine"-*/wanted; do [ -e "$other" ] && from=$(basename "$(dirname "$other")"); done
  rm -rf "$patched/$machine-$1"
  if [ -n "$from" ] && [ -d "$patched/$from" ]; then
    rm -rf "${lab:?}/copy" && cp -a "$lab/$from" "$lab/copy"
    touch "$lab/copy/copied"
    mv "$lab/copy" "$lab/$machine-$1"
    # With the time stamps that it was built with.
    cp -a "$patched/$from" "$patched/$machine-$1"
  else
    mkdir "$lab/$machine-$1"
  fi
}

build() {
  local kernel files
  find_tools
  find_source
  if [ "$(source_version)" != "$(cat "$lab/unpacked" 2>/dev/null)" ]; then
    step "unpack $(basename "$tarball"), $(du -h "$tarball" | cut -f1)" "$lab/unpack.log" unpack_source
    echo "    $(du -sh "$lab/$package" | cut -f1) in $lab/$package"
  fi
  for kernel in "${kernels[@]}"; do
    prepare "$kernel"
    mapfile -t files < <(files_of "$kernel")
    step "build $machine kernel $kernel" "$lab/build-$machine-$kernel.log" compile "$kernel" "${files[@]}"
    echo "    $(du -h "$(kernel_file "$kernel")" | cut -f1) in $(kernel_file "$kernel")"
  done
}

# --------------------------------------------------------------------------------------------------
# Booting
# --------------------------------------------------------------------------------------------------

# Writes an init that runs SCRIPT, prints its exit code on the console, and then runs POWER_OFF.
write_init() { # FILE SCRIPT POWER_OFF
  cat >"$1" <<END
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# The kernel does this itself when it mounts a root, but not for an initramfs.
[ -c /dev/null ] || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/mqueue
mount -t tmpfs tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
export TMPDIR=/dev/shm HOME=/dev/shm PATH=/usr/sbin:/usr/bin:/sbin:/bin
sh -c '$2'
echo "lab: exit code \$?"
$3
END
  chmod +x "$1"
}
# reboot(2) with LINUX_REBOOT_CMD_POWER_OFF.
readonly perl_power_off="exec perl -e 'syscall 169, 0xfee1dead, 672274793, 0x4321fedc, 0'"

# run_in_uml KERNEL SCRIPT: boots the kernel, runs the script in it and prints the script's output.
# Fails if the script failed.
run_in_uml() {
  local init=$lab/init-$BASHPID
  write_init "$init" "$2" "$perl_power_off"
  # UML keeps its memory in a file in TMPDIR; /dev/shm of a container may be too small.
  TMPDIR=$lab "$lab/uml-$1/linux" rootfstype=hostfs rootflags=/ ro mem=1G quiet loglevel=3 con=null con0=null,fd:1 init="$init" \
    </dev/null 2>&1 | tr -d '\r' | tee "$lab/console" || true
  rm -f "$init"
  grep -q '^lab: exit code 0$' "$lab/console"
}

# pack FILE...: copies files into the root of an initramfs, with the libraries they need.
pack() {
  local file library
  for file; do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
    { ldd "$file" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
      [ -e "$root$library" ] && continue
      mkdir -p "$root$(dirname "$library")"
      cp -L "$library" "$root$library"
    done
  done
}

# make_root SCRIPT PROGRAM...: the root of a guest, as a folder.
make_root() {
  local script=$1 tool
  root=$lab/root
  shift
  rm -rf "$root" && mkdir -p "$root"/{proc,sys,dev,tmp,bin}
  for tool in sh mount mkdir cat; do
    pack "$(command -v "$tool")"
    [ -e "$root/bin/$tool" ] || cp -L "$(command -v "$tool")" "$root/bin/$tool"
  done
  pack "$@"
  # Without ACPI the guest cannot power off. It resets instead, which ends QEMU (-no-reboot).
  write_init "$root/init" "$script" 'echo b >/proc/sysrq-trigger'
}

# close_root FILE: makes an initramfs of the folder. It is not compressed, because an emulated
# processor takes longer to unpack it than the host to read it.
close_root() { (cd "$root" && find . | cpio --quiet -o -H newc) >"$1"; }

# make_initramfs FILE SCRIPT PROGRAM...
make_initramfs() {
  local file=$1
  shift
  make_root "$@"
  close_root "$file"
}

# boot_qemu KERNEL INITRAMFS QEMU-OPTION...: for at most $longest seconds, if that is set.
boot_qemu() {
  local kernel=$1 initramfs=$2
  shift 2
  # No configuration file and no default devices: all options are here.
  ${longest:+timeout --foreground "$longest"} qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -m 512 -kernel "$lab/qemu-$kernel/arch/x86/boot/bzImage" \
    -initrd "$initramfs" -serial "${console:-stdio}" "$@" \
    -append "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t nokaslr norandmaps tsc=reliable random.trust_cpu=on ${append:-}"
}

# run_in_qemu KERNEL QEMU-OPTION...
run_in_qemu() {
  local kernel=$1
  shift
  boot_qemu "$kernel" "$lab/initramfs" "$@" </dev/null 2>&1 | tr -d '\r' | tee "$lab/console"
  grep -q '^lab: exit code 0$' "$lab/console"
}

# kvm_obstacle KERNEL: boots with /dev/kvm, and prints the reason if that does not work.
kvm_obstacle() {
  [ -e /dev/kvm ] || { echo "there is none"; return; }
  if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then echo "no permission to use it"; return; fi
  make_initramfs "$lab/initramfs-kvm" 'echo up'
  timeout 30 bash -c 'boot_qemu "$0" "$lab/initramfs-kvm" -accel kvm -cpu host' "$1" \
    </dev/null >"$lab/kvm.log" 2>&1 || true
  grep -q '^up' "$lab/kvm.log" || echo "QEMU with it does not boot this kernel in 30 s ($(tail -n 1 "$lab/kvm.log" | tr -d '\r' | cut -c 1-120))"
}
export -f write_init run_in_uml pack make_root close_root make_initramfs boot_qemu run_in_qemu
export perl_power_off

# --------------------------------------------------------------------------------------------------
# The commands
# --------------------------------------------------------------------------------------------------

# test_binary NAME: builds that test of aio and stores its path in $lab/test-NAME.
test_binary() {
  cd "$repository" && cargo test -q --locked -p aio-context --test "$1" --no-run --message-format=json >"$lab/cargo.json" &&
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$lab/cargo.json" | tail -n 1 >"$lab/test-$1"
}
export repository
export -f test_binary

# Prints the arguments of the conformance suite. All of it must pass, except epoll with the flag of
# the proposal (0001).
conformance_of() {
  case $1 in
    *0002*) echo "--include-ignored" ;;
    *0001*) echo "--include-ignored --skip epoll_kernel_flag::" ;;
    *) echo "" ;;
  esac
}

# The selftests of the patches beside those that the kernel has, with kselftest's runner.
build_selftests() {
  local tree=$lab/selftests out=$lab/kselftest file programs
  rm -rf "$tree" "$out" && mkdir -p "$tree/tools/testing" "$out/filesystems/eventfd"
  cp -a "$lab/$package/tools/testing/selftests" "$tree/tools/testing/"
  cp -a "$lab/$package/tools/scripts" "$tree/tools/"
  for file in $(patches_of 0002) $(patches_of 0003); do
    ! grep -q '^+++ b/tools/' "$file" || (cd "$tree" && apply "$file" --include='tools/*.c')
  done
  # The programs are named here, because two patches change the same line of the Makefile.
  programs="$out/filesystems/eventfd/eventfd_test $out/filesystems/eventfd/autoreset_test $out/filesystems/eventfd/maximum_test"
  make -C "$tree/tools/testing/selftests/filesystems/eventfd" OUTPUT="$out/filesystems/eventfd" KHDR_INCLUDES= TEST_GEN_PROGS="$programs"
  cp -a "$tree"/tools/testing/selftests/{run_kselftest.sh,kselftest} "$out/"
  touch "$out/kselftest-list.txt"
}

export -f build_selftests

# selftests_of KERNEL: prints a script that runs those that must pass in this kernel. The first one
# tests what every kernel has.
selftests_of() {
  local list='filesystems/eventfd:eventfd_test\n'
  [[ $1 != *0002* ]] || list+='filesystems/eventfd:autoreset_test\n'
  [[ $1 != *0003* ]] || list+='filesystems/eventfd:maximum_test\n'
  echo "cp -r $lab/kselftest /dev/shm/ && cd /dev/shm/kselftest && printf \"$list\" >kselftest-list.txt && \
    ./run_kselftest.sh >/dev/shm/said 2>&1; cat /dev/shm/said; ! grep -q \"^not ok\" /dev/shm/said && grep -q \"^ok\" /dev/shm/said"
}

summary() { grep -E "$1" "$2" | sed 's/^/    /' || true; }

# Skips if ptrace(2) is not allowed: User-Mode Linux traces its processes.
check_uml() {
  run_in_uml "$1" true >"$lab/boot.log" 2>&1 || ! grep -qi ptrace "$lab/boot.log" ||
    skip "User-Mode Linux cannot run here: $(grep -i -m 1 ptrace "$lab/boot.log")"
}

run_tests() {
  local kernel log suite filter=${only:+\"$only\"}
  [ "$machine" = qemu ] || check_uml "${kernels[0]}"
  step "build the test program" "$lab/cargo.log" test_binary kernel
  step "build the conformance suite" "$lab/cargo.log" test_binary conformance
  [ "$machine" = qemu ] || [ -n "$only" ] || step "build the selftests" "$lab/selftests.log" build_selftests
  suite=$(cat "$lab/test-conformance")
  for kernel in "${kernels[@]}"; do
    log=$lab/test-$machine-$kernel.log
    in_kernel "every way to wait for an eventfd, and the maximum" "$kernel" "$log" "$(cat "$lab/test-kernel") $filter 2>&1"
    summary '^(FAIL|EFD_|[0-9]+ failed)' "$log"
    # They need a shell and perl, which the small root of a QEMU guest does not have.
    if [ "$machine" = uml ] && [ -z "$only" ]; then
      log=$lab/selftests-$machine-$kernel.log
      in_kernel "selftests, by kselftest's runner" "$kernel" "$log" "$(selftests_of "$kernel")"
      summary '^(# # Totals|not ok)' "$log"
    fi
    log=$lab/conformance-$machine-$kernel.log
    in_kernel "conformance $(conformance_of "$kernel")" "$kernel" "$log" \
      "$suite --test-threads=1 --color=never $(conformance_of "$kernel") $filter 2>&1"
    summary '^test result|skipped:' "$log"
  done
  say "what was delivered"
  table
}

# examine SERIES...: the mails in a repository of their own, which has the files that they change.
examine() {
  local dir=$lab/mails file script
  rm -rf "$dir" && mkdir "$dir"
  tar -C "$dir" --strip-components=1 -xf "$tarball" --no-wildcards "$package"/scripts/{checkpatch.pl,spelling.txt,const_structs.checkpatch} \
    $(for number; do patches_of "$number"; done | xargs cat | sed -n 's,^--- a/,'"$package/,p" | sort -u)
  cd "$dir"
  git init -q . && git config user.name lab && git config user.email lab@localhost
  git add . && git commit -qm "what the series change" && git branch -m pristine
  for number; do
    git checkout -q -b "$number" pristine
    # shellcheck disable=SC2046
    git am $(patches_of "$number")
    # New files belong to the entry of the selftest framework in MAINTAINERS.
    for file in $(patches_of "$number"); do
      perl scripts/checkpatch.pl --strict --no-tree --ignore FILE_PATH_CHANGES "$file"
    done
  done
  # The manual page, where its tools are.
  for file in "$patches"/*.2; do
    if command -v mandoc >/dev/null; then mandoc -Tlint -W warning "$file"; fi
    if command -v man >/dev/null; then
      script=$(LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l "$file" 2>&1 >/dev/null)
      [ -z "$script" ] || { echo "$script"; exit 1; }
    fi
  done
}
export -f examine

run_series() {
  local number file files log kernel=series
  step "git am, and checkpatch.pl --strict" "$lab/mails.log" examine 0002 0003
  summary '^total:' "$lab/mails.log"
  check_uml stock
  step "build the selftests" "$lab/selftests.log" build_selftests
  prepare $kernel
  for number in 0002 0003; do
    files=()
    for file in $(patches_of "$number"); do
      files+=("$file")
      step "build: $(basename "$file" .patch | cut -c 1-60)" "$lab/build-$machine-$kernel.log" compile $kernel "${files[@]}"
      log=$lab/selftests-$machine-$kernel.log
      in_kernel "selftests that the kernel has" $kernel "$log" "$(selftests_of stock)"
      summary '^(# # Totals|not ok)' "$log"
    done
    in_kernel "selftests with those of the series" $kernel "$log" "$(selftests_of "$number")"
    summary '^(# # Totals|not ok)' "$log"
  done
}

# Two CPUs, each emulated by its own thread.
readonly emulated=(-accel "tcg,thread=multi" -cpu max -smp 2)

# in_kernel WHAT KERNEL LOG SCRIPT
in_kernel() {
  if [ "$machine" = uml ]; then
    step "$2: $1" "$3" run_in_uml "$2" "$4"
  else
    make_initramfs "$lab/initramfs" "$4" "$(cat "$lab/test-kernel")" "$(cat "$lab/test-conformance")"
    step "$2: $1" "$3" run_in_qemu "$2" "${emulated[@]}"
  fi
}

# One line for each scenario, one column for each way of resetting.
table() {
  local logs=() kernel
  for kernel in "${kernels[@]}"; do logs+=("$lab/test-$machine-$kernel.log"); done
  awk '
    / read=/ {
      line = $0; sub(/^(ok  |FAIL) /, "", line)
      name = line; sub(/ +read=.*/, "", name)
      if (!(name in seen)) { seen[name] = ++n; names[n] = name }
      while (match(line, /[a-z0-9]+=[A-Za-z]+/)) {
        split(substr(line, RSTART, RLENGTH), cell, "=")
        result[name, cell[1]] = cell[2]
        line = substr(line, RSTART + RLENGTH)
      }
    }
    END {
      printf "%-54s %-12s %-12s %s\n", "", "read(2),", "0001,", "0002,"
      printf "%-54s %-12s %-12s %s\n", "scenario", "any kernel", "in poll", "at delivery"
      for (i = 1; i <= n; i++)
        printf "%-54s %-12s %-12s %s\n", names[i], result[names[i], "read"], result[names[i], "0001"], result[names[i], "0002"]
    }' "${logs[@]}"
}

bench_binary() {
  cd "$repository" && cargo build --release --locked -p bench --message-format=json >"$lab/cargo.json" &&
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$lab/cargo.json" | tail -n 1 >"$lab/bench"
}

# count_in KERNEL RUN: runs bench in a machine whose clock counts instructions. Nothing depends on
# the host: one CPU, no sleep (the clock does not wait), a fixed date, no address randomization, and
# a time stamp counter of 1 GHz.
count_in() {
  append='tsc_early_khz=1000000 clocksource=tsc' console=file:$lab/console-$1 \
    boot_qemu "$1" "$lab/initramfs" -accel tcg -icount shift=0,sleep=off -cpu max -rtc base=2026-01-01,clock=vm </dev/null
  tr -d '\r' <"$lab/console-$1"
  cp "$lab/console-$1" "$lab/result-$1-$2"
  grep -q 'lab: exit code 0' "$lab/console-$1"
}

# time_in KERNEL RUN: the same, measured in time.
time_in() {
  console=file:$lab/console-$1 boot_qemu "$1" "$lab/initramfs" -accel kvm -cpu host -smp 2 </dev/null
  tr -d '\r' <"$lab/console-$1"
  grep -q 'lab: exit code 0' "$lab/console-$1"
}
export -f bench_binary count_in time_in

readonly requests=2000 runs=3

run_bench() {
  local kernel run script arguments=() results obstacle
  step "build bench" "$lab/cargo.log" bench_binary
  # The reports leave the guest through the console.
  script='for n in '"$requests $((2 * requests))"'; do
    bench virtio-blk --requests $n --rounds 1 --pin 0,0 --json /dev/shm/report >/dev/null 2>/dev/shm/said ||
      { cat /dev/shm/said; exit 1; }
    cat /dev/shm/report
  done'
  bench_initramfs "$script"
  for kernel in "${kernels[@]}"; do
    results=''
    for ((run = 1; run <= runs; run++)); do
      step "$kernel: $requests requests and $((2 * requests)), run $run of $runs" "$lab/bench-$kernel.log" count_in "$kernel" "$run"
      results+=${results:+,}$lab/result-$kernel-$run
    done
    arguments+=("$kernel=$results")
  done
  say "counted by QEMU's TCG (-icount shift=0), $(qemu-system-x86_64 --version | head -n 1)"
  python3 "$patches/instructions.py" ${json:+--json "$json"} "${arguments[@]}"

  say "in time, by /dev/kvm"
  obstacle=$(kvm_obstacle "${kernels[0]}")
  if [ -n "$obstacle" ]; then
    echo "not measured here: $obstacle. The counts above are still valid."
    return
  fi
  bench_initramfs 'bench virtio-blk'
  for kernel in "${kernels[@]}"; do
    step "$kernel: bench virtio-blk" "$lab/time-$kernel.log" time_in "$kernel" 1
    sed -n '/^Per request/,/^lab:/{/^lab:/d; p}' "$lab/time-$kernel.log"
  done
}

bench_initramfs() {
  make_root "$1" "$(cat "$lab/bench")"
  # Under a short name, because the script in the guest does not know the path.
  ln -sf "$(cat "$lab/bench")" "$root/bin/bench"
  close_root "$lab/initramfs"
}

run_shell() {
  echo "the first kernel, ${kernels[0]}; leave with exit"
  if [ "$machine" = uml ]; then
    write_init "$lab/init-shell" 'exec sh -i' "$perl_power_off"
    TMPDIR=$lab "$lab/uml-${kernels[0]}/linux" rootfstype=hostfs rootflags=/ ro mem=1G quiet loglevel=3 con=null \
      con0=fd:0,fd:1 init="$lab/init-shell"
  else
    make_initramfs "$lab/initramfs" 'exec sh -i'
    boot_qemu "${kernels[0]}" "$lab/initramfs" "${emulated[@]}"
  fi
}

# shellcheck source=scripts/kernel/qemu-lab.sh
. "$patches/qemu-lab.sh"

say "$command, $machine, version $version, kernels ${kernels[*]}, in $lab"
build
case $command in
  build) ;;
  test) run_tests ;;
  series) run_series ;;
  bench) run_bench ;;
  qemu) run_qemu ;;
  shell) run_shell ;;
esac
say "done after $SECONDS s"
