# Runs in the guest of `scripts/kernel-lab.sh qemu`, with the programs of its initramfs.
#
#   sh qemu-cells.sh WARM-UP REQUESTS ARM...
#
# Each cell starts qemu-storage-daemon, with one vhost-user-blk export in one IOThread, and our
# client, and prints `cell MONITOR DISK ARM` and the client's line. ARM is classic or autoreset.
#
# QEMU chooses its monitor by itself: io_uring if its version has that for IOThreads, else ppoll(2),
# and epoll(7) from 64 descriptors on if the kernel has no io_uring. So a cell whose monitor ends in
# -no-uring switches io_uring off, and one for epoll adds unused kicks. MONITORS and
# DISKS have the names.

warm_up=$1 requests=$2
shift 2
socket=/dev/shm/socket image=/dev/shm/image
io_uring_switch=/proc/sys/kernel/io_uring_disabled

truncate -s 64M $image
# Every page exists, so a read is one of data and not of a hole.
dd if=/dev/zero of=$image bs=1M count=4 conv=notrunc 2>/dev/null

cell() { # MONITOR DISK ARM
  local disk preload='' more='' queues=1 server
  case $2 in
    null) disk=driver=null-co,node-name=disk,size=67108864,read-zeroes=off ;;
    *) disk=driver=file,node-name=disk,filename=$image,aio=$2,cache.direct=on ;;
  esac
  case $1 in epoll*) more=kicks=80 queues=81 ;; esac
  case $1 in *-no-uring) echo 2 >$io_uring_switch ;; *) echo 0 >$io_uring_switch ;; esac
  [ "$3" = classic ] || preload='--preload /qemu/autoreset.so'
  rm -f $socket
  echo "cell ${1%-no-uring} $2 $3"
  # shellcheck disable=SC2086
  /qemu/ld.so --library-path /qemu/lib $preload /qemu/qemu-storage-daemon \
    --object iothread,id=loop,poll-max-ns=0 --blockdev "$disk" \
    --export "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=$socket,iothread=loop,num-queues=$queues" \
    >/dev/shm/said 2>&1 </dev/null &
  server=$!
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -S $socket ] || sleep 0.2
  done
  if [ -S $socket ]; then
    # shellcheck disable=SC2086
    timeout -s KILL 10 vhost-user-count $socket $server "$warm_up" "$requests" ${3#classic} $more 2>&1 || echo "client: exit code $?"
  else
    echo "server: $(cat /dev/shm/said)"
  fi
  kill -9 $server
  wait $server 2>/dev/null
}

for arm; do
  for monitor in $MONITORS; do
    for disk in $DISKS; do
      case $monitor:$disk in *-no-uring:io_uring | *-no-uring:threads) continue ;; esac
      cell "$monitor" $disk "$arm"
    done
  done
done
exit 0
