# The command `qemu` of scripts/kernel-lab.sh, which sources this file: QEMU's own event loop with
# and without EFD_AUTORESET. See README.md.

readonly qemu_requests=2000 qemu_runs=3

# fetch_qemu SUITE: qemu-storage-daemon of a release of Debian, and the libraries that it needs, in
# a folder of their own.
fetch_qemu() {
  mkdir -p "$lab/debian-$1"
  "$repository/scripts/newest-qemu.sh" --suite "$1" "$lab/debian-$1" >"$lab/debian-$1/version"
}

# The paths of a prefix's loader, and of its libraries.
loader_of() { find "$lab/debian-$1/root" -name 'ld-linux-x86-64.so.2' -print -quit; }
libraries_of() { echo "$lab/debian-$1/root/lib/x86_64-linux-gnu:$lab/debian-$1/root/usr/lib/x86_64-linux-gnu"; }
version_of() { sed -n '1s/.*version \([0-9]*\.[0-9]*\(\.[0-9]*\)\?\).*/\1/p' "$lab/debian-$1/version"; }

# Builds the client as one static file that is loaded below 4 GB, so that the plugin can tell it
# from QEMU.
qemu_client() {
  cargo rustc --release --locked --manifest-path "$patches/client/Cargo.toml" --target-dir "$lab/client" -- \
    -C target-feature=+crt-static -C relocation-model=static
}

qemu_library() { gcc -O2 -Wall -Wextra -shared -fPIC "$@"; }
qemu_preload() { qemu_library -o "$lab/qemu-autoreset.so" "$patches/qemu-autoreset.c"; }

# qemu_plugin KERNEL: builds the plugin for the version of the interface that this QEMU has.
qemu_plugin() {
  local version
  for version in 1 2 3 4 5 6 7 8; do
    qemu_library -fvisibility=hidden -DPLUGIN_VERSION=$version -o "$lab/qemu-count.so" "$patches/qemu-count.c"
    if timeout 20 qemu-system-x86_64 -nodefaults -display none -machine none -S -monitor stdio \
      -plugin "$lab/qemu-count.so,symbols=$lab/qemu-$1/System.map,out=/dev/null" <<<quit; then
      echo "version $version of the plugin interface"
      return
    fi
  done
  return 1
}

# qemu_initramfs SUITE KERNEL RUN: the root of the guest. Each run warms up for longer than the one
# before, so that what the kernel does every 10 ms or so does not fall into the same request of all.
qemu_initramfs() {
  local suite=$1 kernel=$2 run=$3 arms=classic monitors library tool
  [ "$kernel" = stock ] || arms='classic autoreset'
  case $(version_of "$suite") in
    [1-9].* | 10.[01] | 10.[01].*) monitors='ppoll epoll-no-uring' ;;
    # From 10.2 on an IOThread waits by io_uring.
    *) monitors='io_uring ppoll-no-uring epoll-no-uring' ;;
  esac
  make_root "export MONITORS=\"$monitors\" DISKS=\"${disks//,/ }\"; sh /qemu/cells.sh $((256 + 150 * run)) $qemu_requests $arms"
  for tool in sleep timeout truncate dd rm; do
    pack "$(command -v $tool)"
    [ -e "$root/bin/$tool" ] || cp -L "$(command -v $tool)" "$root/bin/$tool"
  done
  cp "$lab/client/release/vhost-user-count" "$root/bin/"
  mkdir -p "$root/qemu/lib"
  cp -L "$(loader_of "$suite")" "$root/qemu/ld.so"
  "$(loader_of "$suite")" --library-path "$(libraries_of "$suite")" --list "$lab/debian-$suite/root/usr/bin/qemu-storage-daemon" |
    grep -o "$lab/[^ ]*" | while read -r library; do cp -L "$library" "$root/qemu/lib/"; done
  cp "$lab/debian-$suite/root/usr/bin/qemu-storage-daemon" "$root/qemu/"
  cp "$lab/qemu-autoreset.so" "$root/qemu/autoreset.so"
  cp "$patches/qemu-cells.sh" "$root/qemu/cells.sh"
  close_root "$lab/initramfs"
}

# qemu_count KERNEL SUITE RUN: all cells of a kernel and a QEMU, in the machine of `bench`.
qemu_count() {
  local result=$lab/qemu-result-$1-$2-$3
  append='tsc_early_khz=1000000 clocksource=tsc' console=file:$lab/console-$1 longest=1800 \
    boot_qemu "$1" "$lab/initramfs" -accel tcg -icount shift=0,sleep=off -cpu max -rtc base=2026-01-01,clock=vm \
    -plugin "$lab/qemu-count.so,symbols=$lab/qemu-$1/System.map,out=$result.marks" </dev/null
  tr -d '\r' <"$lab/console-$1" | tee "$result.console"
  grep -q 'lab: exit code 0' "$result.console"
}
export -f fetch_qemu loader_of libraries_of qemu_client qemu_library qemu_preload qemu_plugin qemu_count

run_qemu() {
  local suite kernel run found=() results=()
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    skip "QEMU comes from Debian's packages, and there is no apt-get and dpkg-deb here"
  for suite in ${suites//,/ }; do
    if [ ! -e "$lab/debian-$suite/version" ]; then
      if ! (step "fetch qemu-storage-daemon of Debian $suite" "$lab/apt-$suite.log" fetch_qemu "$suite") 2>&1; then
        echo "SKIPPED: QEMU of Debian $suite cannot be fetched or started here"
        rm -f "$lab/debian-$suite/version"
        continue
      fi
    fi
    echo "    QEMU $(version_of "$suite") of Debian $suite in $lab/debian-$suite"
    found+=("$suite")
  done
  ((${#found[@]})) || skip "no QEMU to look at"
  step "build the client" "$lab/client.log" qemu_client
  step "build the preloaded library" "$lab/preload.log" qemu_preload
  (step "build the plugin" "$lab/plugin.log" qemu_plugin "${kernels[0]}") 2>&1 ||
    skip "$(qemu-system-x86_64 --version | head -n 1) does not take our TCG plugin; see $lab/plugin.log"
  for suite in "${found[@]}"; do
    for kernel in "${kernels[@]}"; do
      for ((run = 1; run <= qemu_runs; run++)); do
        qemu_initramfs "$suite" "$kernel" "$run"
        step "QEMU $(version_of "$suite") on $kernel, run $run of $qemu_runs" "$lab/qemu-$kernel-$suite.log" \
          qemu_count "$kernel" "$suite" "$run"
        results+=("$kernel:$(version_of "$suite"):$lab/qemu-result-$kernel-$suite-$run")
      done
    done
  done
  say "counted by QEMU's TCG (-icount shift=0), $(qemu-system-x86_64 --version | head -n 1)"
  python3 "$patches/qemu-requests.py" ${json:+--json "$json"} --requests "$qemu_requests" "${results[@]}"
}
