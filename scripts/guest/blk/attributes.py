"""What the disk is and what it refuses: its configuration, read-only, flush and resize."""

import re
import signal

from .. import trace
from ..agent import Agent
from ..lab import Lab
from .image_file import ImageFile

SERIAL = "qemu-guest-012345678"  # 20 bytes, all that virtio-blk has for it


def block(guest: Agent, attribute: str) -> str:
    """Reads an attribute of the disk from the guest's sysfs."""
    return guest.value(f"cat /sys/block/vda/{attribute}")


def disk(lab: Lab) -> None:
    """The guest sees the size, serial number, queues and features that the server offers."""
    image = ImageFile(lab.directory, 256)
    arguments = ("--serial", SERIAL, "--queues", "2", "--block-size", "4096")
    with lab.daemon("--image", image.path, *arguments), lab.guest("num-queues=2") as guest:
        lab.expect("sectors", block(guest, "size"), 256 * 2048)
        lab.expect("serial", block(guest, "serial"), SERIAL)
        lab.expect("queues", guest.value("ls /sys/block/vda/mq | wc -l"), 2)
        lab.expect("logical block size", block(guest, "queue/logical_block_size"), 4096)
        lab.expect("read-only", block(guest, "ro"), 0)
        lab.expect("write cache", block(guest, "queue/write_cache"), "write back")
        # RO is off; BLK_SIZE, FLUSH, MQ, DISCARD, WRITE_ZEROES, INDIRECT_DESC, EVENT_IDX and
        # VERSION_1 are on.
        features = block(guest, "device/features")
        wanted = "5:0 6:1 9:1 12:1 13:1 14:1 28:1 29:1 32:1"
        bits = [int(bit) for bit, _, _ in (pair.partition(":") for pair in wanted.split())]
        taken = " ".join(f"{bit}:{features[bit:bit + 1]}" for bit in bits)
        lab.expect("features that the driver took", taken, wanted)
        modes = [
            guest.value(f"cd /sys/block/vda; echo {mode} >cache_type; cat cache_type")
            for mode in ("write through", "write back")
        ]
        lab.expect("cache mode set by the guest", ", ".join(modes), "write through, write back")
        written, read_back = guest.value("""
            noise 8 >/tmp/noise
            dd if=/tmp/noise of=/dev/vda bs=1M conv=fsync
            device=$(basename $(readlink -f /sys/block/vda/device))
            for i in 1 2 3; do
              echo $device >/sys/bus/virtio/drivers/virtio_blk/unbind
              echo $device >/sys/bus/virtio/drivers/virtio_blk/bind
            done
            sum </tmp/noise
            at 0 8 | sum""").split()
        lab.expect("8 MiB after the driver was unbound and bound three times", read_back, written)


def readonly(lab: Lab) -> None:
    """A read-only disk refuses writes and discards, and its image does not change."""
    image = ImageFile(lab.directory, 64)
    image.fill(16)
    before, start = image.sum(0, 64), image.sum(0, 16)
    with lab.daemon("--image", image.path, "--read-only"), lab.guest("num-queues=1") as guest:
        lab.expect("read-only", block(guest, "ro"), 1)
        seen = guest.value("at 0 16 | sum")
        written = guest.succeeds("dd if=/dev/urandom of=/dev/vda bs=4k count=4 conv=fsync")
        lab.expect("a write succeeds", "yes" if written else "no", "no")
        discarded = guest.succeeds("/applets/blkdiscard -o 0 -l 1048576 /dev/vda")
        lab.expect("a discard succeeds", "yes" if discarded else "no", "no")
        lab.expect("the guest reads what is there, before", seen, start)
        lab.expect("the guest reads what is there, after", guest.value("at 0 16 | sum"), start)
    lab.expect("the image is what it was", image.sum(0, 64), before)


def flush(lab: Lab) -> None:
    """Each fsync of the guest becomes an fdatasync of the server, and a plain write does not."""
    image = ImageFile(lab.directory, 64)
    log = lab.directory / "flush.trace"
    # With epoll the server calls fdatasync(2); io_uring needs no system call of its own for it.
    with lab.daemon("--image", image.path, "--monitor", "epoll") as server:
        with trace.attached(server.pid, log, lab.scale, "-e", "trace=fdatasync,fsync"):
            with lab.guest("num-queues=1") as guest:
                guest.value("""
                    dd if=/dev/urandom of=/dev/vda bs=4k seek=1000 count=100 oflag=direct
                    for i in 1 2 3; do
                      dd if=/dev/urandom of=/dev/vda bs=64k seek=$i count=1 conv=fsync
                    done""")
            server.stop()
    seen = len(re.findall(r"f(?:data)?sync\(\d+", log.read_text()))
    lab.expect_true(f"the guest's 3 fsync(2) are {seen} of the server's fdatasync(2)", seen >= 3)
    lab.expect_true("and its 100 writes without fsync(2) are none", seen < 50)


def resize(lab: Lab) -> None:
    """A running guest sees that the image has grown, and can use the new part."""
    image = ImageFile(lab.directory, 256)
    with lab.daemon("--image", image.path) as server, lab.guest("num-queues=1") as guest:
        before = block(guest, "size")
        image.resize(384)
        server.send_signal(signal.SIGHUP)
        guest.succeeds(f"""
            for i in $(seq 300); do
              [ $(cat /sys/block/vda/size) = {before} ] || break
              usleep 100000
            done""")
        lab.expect("sectors before", before, 256 * 2048)
        now = block(guest, "size")
        lab.expect("sectors after truncate -s 384M and SIGHUP", now, 384 * 2048)
        written, read_back = guest.value("""
            noise 1 >/tmp/noise
            sum </tmp/noise
            dd if=/tmp/noise of=/dev/vda bs=1M seek=300 conv=fsync
            at 300 1 | sum""").split()
        lab.expect("what is written past the old end reads back", read_back, written)
    lab.expect("and is in the image", image.sum(300, 1), written)
