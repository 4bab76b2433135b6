#!/usr/bin/env bash
# Compares our vhost-user-blk with other servers, over every combination of disk, depth, direction,
# client and polling.
#
#   scripts/peers.sh [--quick] [--json FILE] [--peer NAME=KIND:BINARY]... [--ours BINARY]
#                    [--bench BINARY] [--cpus CLIENT,SERVER]
#                    [--disks LIST] [--rw LIST] [--depths LIST] [--clients LIST] [--polling LIST]
#                    [--linger LIST] [--rounds N] [--runtime TIME] [--size BYTES] [--dir DIR]
#                    [--qemu-aio io_uring|native|threads] [--no-fio] [--no-syscalls] [--keep]
#
#   --quick       shorter samples and fewer rounds, for a rough answer
#   --json FILE   where to write the results as JSON (default: peers.json)
#   --peer        a server to compare with; several are compared with ours in the same run. KIND is
#                 qemu (qemu-storage-daemon; scripts/newest-qemu.sh gets one), chv
#                 (cloud-hypervisor's vhost_user_block) or crosvm (default: the
#                 qemu-storage-daemon in PATH)
#   --cpus        the client's CPU, and the CPU of all servers (default: 0,1)
#   --disks       of null, file (through the page cache), direct (O_DIRECT) (default: all three)
#   --rw          of randread, randwrite, and others that 'bench vhost-user' has
#                 (default: these two)
#   --depths      requests in flight (default: 1,4,32)
#   --clients     of sleeping, spinning (default: both)
#   --polling     the longest adaptive busy poll in ns: 0 is off, 32768 is QEMU's usual value
#                 (default: 0,32768)
#   --linger      the longest time in ns that our server lingers after work, see below; 0 is off,
#                 "default" is the server's own. Each has a table of its own (default: default,0)
#   --dir         where to make the image; O_DIRECT needs a disk (default: TMPDIR or /var/tmp)
#   --no-fio      leave out fio's floor
#   --no-syscalls leave out the second pass that counts the servers' system calls
#
# Each cell is one interleaved run (A B C C B A in each round) of 'bench vhost-user' with all
# servers connected. The servers share one CPU, and the client has the other. After an interrupt, a
# sleeping client submits all new requests with one kick; a spinning client submits each request at
# once. A disk that a peer does not have is left out for that peer, and the table says so.
#
# Fairness, which the output repeats:
#   lingering  after work our server looks at its queues for twice as long as the work took, at most
#              --linger ns, before it sleeps. No peer does that. Its CPU time counts as ours. The
#              table for --linger 0 is without it.
#   polling    0 is off for all. Otherwise ours and QEMU poll adaptively for at most that long,
#              cloud-hypervisor polls with its poll_queue=true, for a time of its own, and crosvm
#              cannot poll.
#   executor   ours and crosvm (--async-executor uring) use io_uring for everything; QEMU does I/O
#              by --qemu-aio and waits as its version does; cloud-hypervisor waits with epoll and
#              does I/O by preadv and pwritev.
#
# The floor: fio without a virtual machine, on the servers' CPU, with the same file and depth, by
# psync, pvsync2, libaio, io_uring, and io_uring with registered buffers and files. The best counts.
#
# Idle: for each disk and polling, all servers are watched for one second with their guests attached
# and nothing in flight. A wake-up is a context switch of any thread of the server, from /proc.
#
# System calls are counted afterwards, in separate runs per server that are not timed: by perf stat
# on the kernel's tracepoints, or by strace -c if that is not possible. Needs taskset, python3, and
# fio for the floor.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
ours=target/release/vhost-user-blk bench=target/release/bench
declare -a peers=() schedule=()
cpus=0,1 disks=null,file,direct rw=randread,randwrite depths=1,4,32 clients=sleeping,spinning polling=0,32768
lingers=default,0 size=536870912 directory=${TMPDIR:-/var/tmp} aio=io_uring json=peers.json
quick=no syscalls=yes fio=yes keep=no
command_line="$0 $*"

die() { echo "peers.sh: $1" >&2; exit "${2:-2}"; }
usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; }

while (($#)); do
  case $1 in
    --quick) quick=yes ;;
    --no-syscalls) syscalls=no ;;
    --no-fio) fio=no ;;
    --keep) keep=yes ;;
    --help | -h) usage; exit 0 ;;
    --json | --peer | --ours | --bench | --cpus | --disks | --rw | --depths | --clients | --polling | --rounds | --runtime | --size | --dir | --qemu-aio | --linger)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --json) json=$2 ;;
        --peer)
          [[ $2 =~ ^[A-Za-z0-9._-]+=(qemu|chv|crosvm):. ]] || die "--peer $2: write NAME=qemu:BINARY, NAME=chv:BINARY or NAME=crosvm:BINARY"
          peers+=("$2") ;;
        --ours) ours=$2 ;;
        --bench) bench=$2 ;;
        --cpus) [[ $2 =~ ^[0-9]+,[0-9]+$ ]] || die "--cpus $2: write CLIENT,SERVER"; cpus=$2 ;;
        --disks) disks=$2 ;;
        --rw) rw=$2 ;;
        --depths) depths=$2 ;;
        --clients) clients=$2 ;;
        --polling) polling=$2 ;;
        --rounds | --runtime) schedule+=("$1" "$2") ;;
        --size) [[ $2 =~ ^[0-9]+$ ]] || die "--size $2: write a number of bytes"; size=$2 ;;
        --dir) directory=$2 ;;
        --qemu-aio) aio=$2 ;;
        --linger) lingers=$2 ;;
      esac
      shift ;;
    *) die "$1: unknown option; try --help" ;;
  esac
  shift
done
[ "$quick" = yes ] && schedule=(--quick "${schedule[@]}")
if ((${#peers[@]} == 0)); then
  found=$(command -v qemu-storage-daemon || command -v /usr/libexec/qemu-storage-daemon || true)
  [ -n "$found" ] || die "there is no qemu-storage-daemon; apt-get install qemu-utils, or name a server with --peer NAME=KIND:BINARY" 3
  peers=("qemu=qemu:$found")
fi
{ : >>"$json"; } 2>/dev/null || die "--json $json: cannot be written"
for tool in taskset python3; do command -v $tool >/dev/null || die "$tool is not installed" 3; done
for binary in "$ours" "$bench" "${peers[@]#*=*:}"; do
  [ -x "$binary" ] || die "$binary is not a program; build ours with 'cargo build --release --workspace'"
done
for disk in ${disks//,/ }; do
  [[ $disk =~ ^(null|file|direct)$ ]] || die "--disks $disk: there are null, file and direct"
done
for poll in ${polling//,/ }; do
  [[ $poll =~ ^[0-9]+$ ]] || die "--polling $poll: write nanoseconds"
done
for linger in ${lingers//,/ }; do
  [[ $linger =~ ^([0-9]+|default)$ ]] || die "--linger $linger: write nanoseconds, or default"
done
if [ "$fio" = yes ] && ! command -v fio >/dev/null; then
  echo "peers.sh: fio is not installed: no floor" >&2
  fio=no
fi
client_cpu=${cpus%,*} server_cpu=${cpus#*,}

work=$(mktemp -d "$directory/peers.XXXXXX")
mkdir "$work/cells" "$work/syscalls" "$work/fio"
: >"$work/lacks"
declare -A pid=() socket=() version=() kind=() binary_of=()
stop_servers() {
  local name
  for name in "${!pid[@]}"; do
    kill "${pid[$name]}" 2>/dev/null || true
    wait "${pid[$name]}" 2>/dev/null || true
  done
  pid=()
}
cleanup() {
  stop_servers
  if [ "$keep" = yes ]; then echo "peers.sh: kept $work" >&2; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

version[ours]=$("$ours" --version)
# The default linger time, as our server's help prints it.
lingers_ns() { # LINGER
  if [ "$1" != default ]; then echo "$1"; return; fi
  "$ours" -h | sed -n 's/^ *--linger .*\[default: \([0-9]*\)\].*/\1/p'
}
all_names=()
for peer in "${peers[@]}"; do
  name=${peer%%=*}
  [ "$name" != ours ] && [ -z "${kind[$name]:-}" ] || die "--peer $peer: choose another name"
  all_names+=("$name")
  kind[$name]=${peer#*=}
  kind[$name]=${kind[$name]%%:*} binary_of[$name]=${peer#*=*:}
  # crosvm has a subcommand for it. Some versions have none at all.
  version[$name]=$({ "${binary_of[$name]}" --version 2>/dev/null || "${binary_of[$name]}" version 2>/dev/null || echo unknown; } | sed -n 1p)
done

image=$work/disk.img
case ,$disks, in
  *,file,* | *,direct,*)
    # Write the image instead of allocating it: reading a hole causes no I/O.
    head -c "$size" /dev/zero | tr '\0' '\245' >"$image" || die "there is no room for $size bytes in $directory" 1
    sync "$image" ;;
esac

# Print the command line of a server for a disk and a maximum busy poll time.
ours_command() { # DISK POLL SOCKET LINGER
  local disk
  case $1 in
    null) disk="--null $size" ;;
    file) disk="--image $image" ;;
    direct) disk="--image $image --direct" ;;
  esac
  echo "$ours --socket $3 $disk --queue-size 256 --busy-poll $2$([ "$4" = default ] || echo " --linger $4")"
}
# Returns false for a disk that a kind of peer does not have.
has_disk() { # KIND DISK
  case $1.$2 in
    # Both serve files only, and crosvm's device in a process of its own has no option for O_DIRECT.
    chv.null | crosvm.null | crosvm.direct) false ;;
    *) true ;;
  esac
}
peer_command() { # NAME DISK POLL SOCKET
  local binary=${binary_of[$1]} disk
  case ${kind[$1]} in
    qemu)
      case $2 in
        # Do not zero the buffers: our null backend does not do that either.
        null) disk="driver=null-co,node-name=d0,size=$size,read-zeroes=off" ;;
        file) disk="driver=file,node-name=d0,filename=$image,locking=off,aio=$([ "$aio" = native ] && echo threads || echo "$aio")" ;;
        direct) disk="driver=file,node-name=d0,filename=$image,locking=off,cache.direct=on,aio=$aio" ;;
      esac
      echo "$binary --object iothread,id=io0,poll-max-ns=$3 --blockdev $disk" \
        "--export type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=$4,iothread=io0,writable=on,num-queues=1" ;;
    chv)
      local direct=false polls=true
      [ "$2" != direct ] || direct=true
      [ "$3" != 0 ] || polls=false
      disk="path=$image,socket=$4,num_queues=1,queue_size=256,readonly=false"
      echo "$binary --block-backend $disk,direct=$direct,poll_queue=$polls" ;;
    crosvm) echo "$binary device --async-executor uring block --socket-path $4 --file $image" ;;
  esac
}

start_server() { # NAME COMMAND
  socket[$1]=$work/$1.sock
  rm -f "${socket[$1]}"
  # shellcheck disable=SC2086 # the command is a list of words
  taskset -c "$server_cpu" $2 >>"$work/$1.log" 2>&1 &
  pid[$1]=$!
  local tries
  for ((tries = 0; tries < 200; tries++)); do
    [ -S "${socket[$1]}" ] && return 0
    kill -0 "${pid[$1]}" 2>/dev/null || break
    sleep 0.05
  done
  echo "peers.sh: $1 did not start: $(tail -n1 "$work/$1.log")" >&2
  return 1
}
start_servers() { # DISK POLL LINGER
  local name
  start_server ours "$(ours_command "$1" "$2" "$work/ours.sock" "$3")" || return 1
  for name in "${names[@]:1}"; do
    start_server "$name" "$(peer_command "$name" "$1" "$2" "$work/$name.sock")" || return 1
  done
}

# fio's best IOPS, by engine, for the cells of a disk, a direction and a depth.
run_fio() { # DISK RW DEPTH
  local out=$work/fio/$1.$2.$3 engine runtime
  runtime=$([ "$quick" = yes ] && echo 500ms || echo 3s)
  for engine in psync pvsync2 libaio io_uring "io_uring --fixedbufs=1 --registerfiles=1"; do
    # shellcheck disable=SC2086 # the engine may have options
    taskset -c "$server_cpu" fio --name=floor --filename="$image" --size="$size" --bs=4k --rw="$2" --iodepth="$3" \
      --ioengine=$engine --direct=$([ "$1" = direct ] && echo 1 || echo 0) --thread --norandommap --gtod_reduce=1 \
      --time_based --runtime="$runtime" --output-format=json --output="$out.json" >/dev/null 2>>"$work/fio.log" || continue
    python3 - "$engine" "$out.json" >>"$out" <<'EOF_FIO'
import json, sys

text = open(sys.argv[2]).read()
job = json.loads(text[text.index("{"):])["jobs"][0]
print(f"{job['read']['iops'] + job['write']['iops']:.0f} {sys.argv[1]}")
EOF_FIO
  done
  rm -f "$out.json"
}

# Choose the tool that counts system calls.
counter=strace
traced='raw_syscalls:sys_enter,syscalls:sys_enter_read,syscalls:sys_enter_write,syscalls:sys_enter_io_uring_enter,syscalls:sys_enter_ppoll'
if [ "$syscalls" = yes ]; then
  if perf stat -x, -e "$traced" -o /dev/null -- true 2>/dev/null; then
    counter=perf
  elif ! command -v strace >/dev/null; then
    echo "peers.sh: neither perf with tracepoints nor strace: system calls are not counted" >&2
    syscalls=no
  fi
fi
count_syscalls() { # CELL NAME BENCH-ARGUMENTS...
  local cell=$1 name=$2 out=$work/syscalls/$1.$2 tracer
  shift 2
  if [ $counter = perf ]; then
    perf stat -x, -e "$traced" -p "${pid[$name]}" -o "$out.counts" &
  else
    strace -f -qq -c -p "${pid[$name]}" -o "$out.counts" 2>/dev/null &
  fi
  tracer=$!
  sleep 0.3
  "$bench" vhost-user --socket "$name=${socket[$name]}" --pid "${pid[$name]}" "$@" --rounds 1 --runtime 200ms \
    --idle 0 --json "$out.json" >/dev/null 2>>"$work/bench.log" || echo "peers.sh: $cell: no count for $name" >&2
  # Both write their counts when they are interrupted.
  kill -INT "$tracer" 2>/dev/null || true
  wait "$tracer" 2>/dev/null || true
}

failures=0 total=0
for disk in ${disks//,/ }; do
  names=(ours)
  for name in "${all_names[@]}"; do
    if has_disk "${kind[$name]}" "$disk"; then names+=("$name"); else echo "$disk $name" >>"$work/lacks"; fi
  done
  if [ "$fio" = yes ] && [ "$disk" != null ]; then
    for pattern in ${rw//,/ }; do for depth in ${depths//,/ }; do run_fio "$disk" "$pattern" "$depth"; done; done
    # What fio has written is written back before a server is measured.
    sync "$image"
  fi
  for linger in ${lingers//,/ }; do for poll in ${polling//,/ }; do
  if ! start_servers "$disk" "$poll" "$linger"; then
    failures=$((failures + 1))
    stop_servers
    continue
  fi
  # Watch in the first cell that succeeds.
  idle=1s
  for pattern in ${rw//,/ }; do for depth in ${depths//,/ }; do for client in ${clients//,/ }; do
    cell=$disk.$poll.$pattern.$depth.$client.$linger
    workload=(--pin "$client_cpu" --bs 4k --rw "$pattern" --iodepth "$depth" --client "$client" --queue-size 256)
    arms=()
    for name in "${names[@]}"; do arms+=(--socket "$name=${socket[$name]}"); done
    total=$((total + 1))
    status=0
    "$bench" vhost-user "${arms[@]}" "${workload[@]}" "${schedule[@]}" --idle "$idle" --json "$work/cells/$cell.json" \
      >/dev/null 2>"$work/cell.log" || status=$?
    if ((status != 0)); then
      ((status != 130)) || exit 130
      # What it has measured is incomplete.
      rm -f "$work/cells/$cell.json"
      echo "peers.sh: $cell failed: $(tail -n1 "$work/cell.log")" >&2
      failures=$((failures + 1))
      # A server may have crashed. Restart all of them, so that each cell has the same start.
      stop_servers
      start_servers "$disk" "$poll" "$linger" || break 3
      continue
    fi
    echo "peers.sh: $cell done" >&2
    idle=0
    if [ "$syscalls" = yes ]; then
      for name in "${names[@]}"; do count_syscalls "$cell" "$name" "${workload[@]}"; done
    fi
  done; done; done
  for name in "${names[@]}"; do
    # A server that has crashed has no process, or one without memory.
    status_file=/proc/${pid[$name]:-none}/status
    grep -qs '^RssAnon' "$status_file" || continue
    # Leave out shared memory, which is the guest's.
    awk -v cell="$disk.$poll.$linger" -v name="$name" '/^(RssAnon|RssFile)/ {kib += $2} END {print cell, name, kib}' \
      "$status_file" >>"$work/memory" || true
  done
  stop_servers
  done; done
done
((total > 0)) || die "no server could be started" 1

{
  echo "command $command_line"
  echo "counter $counter"
  for linger in ${lingers//,/ }; do
    ns=$(lingers_ns "$linger")
    case $ns in
      0) echo "linger $linger ours does not linger" ;;
      *) echo "linger $linger ours lingers for twice as long as its work took, at most ${ns:-an unknown number of} ns" ;;
    esac
  done
  echo "fairness lingering: no peer lingers; the CPU time of lingering counts as ours"
  echo "fairness polling: 0 is off for all; otherwise ours and QEMU poll adaptively for at most that many ns, cloud-hypervisor by poll_queue=true for a time of its own, crosvm not at all"
  echo "fairness executor: ours and crosvm use io_uring for everything, QEMU aio=$aio (threads for a cached file if native), cloud-hypervisor epoll with preadv and pwritev"
  for name in ours "${all_names[@]}"; do echo "version $name ${kind[$name]:-} ${version[$name]}"; done
  first=${lingers%%,*}
  for disk in ${disks//,/ }; do
    echo "server ours taskset -c $server_cpu $(ours_command "$disk" "${polling%%,*}" S "$first")"
    for name in "${all_names[@]}"; do
      if has_disk "${kind[$name]}" "$disk"; then
        echo "server $name taskset -c $server_cpu $(peer_command "$name" "$disk" "${polling%%,*}" S)"
      else
        echo "lacks $name has no disk of the kind $disk"
      fi
    done
  done
} >"$work/facts"
python3 "$here/peers-table.py" "$work" "$json"
((failures == 0)) || { echo "peers.sh: $failures cells failed; the table has the others" >&2; exit 1; }
