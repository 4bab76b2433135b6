"""What a VMM does to a device besides requests: pauses, resets, memory that comes and goes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .. import messages, packages, trace
from ..daemon import Daemon
from ..errors import CheckFailed, Unavailable
from ..lab import Lab
from ..machine import Machine
from ..process import read_log, wait_until
from .crash import FIO_TIMEOUT, READ, WRITE, script
from .image_file import ImageFile

DIMM = 128 << 20
EJECT_TIMEOUT = 60.0
PORT = ("-device", "pcie-root-port,id=slot0,chassis=1")


@contextmanager
def recorded(lab: Lab, server: Daemon) -> Iterator[None]:
    """Notes which messages the server gets, and checks that it refuses none of them."""
    path = lab.directory / f"{lab.name}.messages"
    with ExitStack() as stack:
        try:
            stack.enter_context(trace.attached(server.pid, path, lab.scale, *messages.OPTIONS))
        except Unavailable as reason:
            lab.report.note(f"messages are not listed: {reason}")
        yield
    found = messages.received(path)
    if found:
        lab.report.note(f"{len(found)} messages: {messages.summary(found)}")
    log = read_log(lab.daemon_log)
    wrong = [line for line in log.splitlines() if "refused" in line or "cannot start" in line]
    lab.expect("messages that the server refused", len(wrong), 0)
    for line in wrong[:5]:
        lab.report.note(line)


def write_and_read(lab: Lab, machine: Machine, what: str) -> None:
    """Writes 8 MiB that were not there before, and reads them back."""
    written, read_back = machine.agent.value("""
        noise 8 >/tmp/noise
        dd if=/tmp/noise of=/dev/vda bs=1M oflag=direct
        sum </tmp/noise
        at 0 8 | sum""").split()
    lab.expect(what, read_back, written)


def states(lab: Lab) -> None:
    """The disk works after a pause, a reset, a reboot and a rebind, with queues that are unused."""
    image = ImageFile(lab.directory, 64)
    server = lab.daemon("--image", image.path, "--queues", "4")
    # The guest has 2 processors, so its driver leaves two of the queues as they are.
    with server, recorded(lab, server), lab.machine("num-queues=4") as machine:
        machine.execute("set-action", reboot="reset")
        write_and_read(lab, machine, "8 MiB with 2 of 4 queues")
        running = machine.agent.start("dd if=/dev/zero of=/dev/vda bs=4k count=2000 seek=2048 oflag=direct")
        for _ in range(3):
            machine.execute("stop")
            machine.execute("cont")
        lab.expect("writes while the guest is paused 3 times, status", running.finish(120).status, 0)
        write_and_read(lab, machine, "8 MiB after the pauses")
        machine.agent.value("""
            device=$(basename $(readlink -f /sys/block/vda/device))
            for i in 1 2 3; do
              echo $device >/sys/bus/virtio/drivers/virtio_blk/unbind
              echo $device >/sys/bus/virtio/drivers/virtio_blk/bind
            done""")
        write_and_read(lab, machine, "8 MiB after the driver was bound again")
        machine.reboot()
        write_and_read(lab, machine, "8 MiB after a reboot")
        writing = machine.agent.start("""
            echo started
            dd if=/dev/zero of=/dev/vda bs=4k count=16000 oflag=direct""")
        writing.wait_for("started", 60)
        machine.reset()
        write_and_read(lab, machine, "8 MiB after a reset in the middle of writes")


def memory(lab: Lab) -> None:
    """Memory that is plugged in while the disk is busy takes its data, and can be taken away."""
    if packages.find_program("fio") is None:
        raise Unavailable("no fio here to give to the guest")
    image = ImageFile(lab.directory, 256)
    server = lab.daemon("--image", image.path, "--queues", "2")
    options = ("-m", "slots=8,maxmem=4G")
    with server, recorded(lab, server):
        with lab.machine("num-queues=2", ("fio",), options=options) as machine:
            machine.agent.value("echo online_movable >/sys/devices/system/memory/auto_online_blocks")
            running = machine.agent.start(script(1, WRITE))
            for number in range(4):
                plug_memory(machine, number)
            status = running.finish(FIO_TIMEOUT).status
            lab.expect("fio while memory was plugged in, its status", status, 0)
            read_into_new_memory(lab, machine)
            machine.agent.value("echo offline >/sys/devices/system/memory/auto_online_blocks")
            plug_memory(machine, 4)
            running = machine.agent.start(script(2, WRITE))
            machine.execute("device_del", id="dimm4")
            gone = wait_until(lambda: count_dimms(machine) == 4, EJECT_TIMEOUT * lab.scale, 0.5)
            lab.expect_true("memory was taken away while fio ran", gone)
            lab.expect("fio meanwhile, its status", running.finish(FIO_TIMEOUT).status, 0)


def read_into_new_memory(lab: Lab, machine: Machine) -> None:
    """Reads a file, whose pages the guest takes from the memory that was plugged in."""
    if packages.find_program("mke2fs") is None:
        lab.report.skips("data in the new memory: no mke2fs here to give to the guest")
        return
    written, read_back, pages = machine.agent.value("""
        /bin/mke2fs -q -t ext4 -F /dev/vda 128M || exit 1
        mount -t ext4 /dev/vda /mnt || exit 1
        noise 64 >/mnt/file
        sum </mnt/file
        sync
        echo 3 >/proc/sys/vm/drop_caches
        sum </mnt/file
        sed -n '/zone *Movable/,/^Node/s/ *nr_zone_[a-z]*active_file //p' /proc/zoneinfo |
          awk '{ n += $1 } END { print n + 0 }'
        umount /mnt""", 180).split()
    lab.expect("64 MiB of a file, read again from the disk", read_back, written)
    lab.expect_true(f"they are in the new memory: {pages} pages", int(pages) >= 8192)


def plug_memory(machine: Machine, number: int) -> None:
    """Plugs a DIMM of 128 MiB in."""
    machine.execute("object-add", **{
        "qom-type": "memory-backend-memfd", "id": f"memory{number}", "size": DIMM, "share": True,
    })
    machine.execute("device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"memory{number}")


def count_dimms(machine: Machine) -> int:
    """Returns how many DIMMs are plugged in."""
    return len(machine.execute("query-memory-devices"))


def replug(lab: Lab) -> None:
    """The disk is unplugged and plugged in again, over the same connection."""
    image = ImageFile(lab.directory, 64)
    server = lab.daemon("--image", image.path, "--queues", "2")
    with server, recorded(lab, server):
        with lab.machine("num-queues=2,bus=slot0,id=disk", options=PORT) as machine:
            write_and_read(lab, machine, "8 MiB before")
            for times in range(1, 4):
                machine.execute("device_del", id="disk")
                gone = machine.agent.succeeds(
                    "for i in $(seq 300); do [ -e /dev/vda ] || exit 0; usleep 100000; done; exit 1"
                )
                lab.expect_true(f"unplugged, {times}", gone)
                plugged = wait_until(lambda: is_plugged(machine), EJECT_TIMEOUT * lab.scale, 0.5)
                lab.expect_true(f"plugged in again, {times}", plugged)
                machine.agent.value(
                    "for i in $(seq 300); do [ -e /dev/vda ] && exit 0; usleep 100000; done; exit 1"
                )
                write_and_read(lab, machine, f"8 MiB after, {times}")


def is_plugged(machine: Machine) -> bool:
    """Plugs the disk in. Returns false if the old one is still there."""
    try:
        machine.execute(
            "device_add", driver="vhost-user-blk-pci", id="disk", bus="slot0", chardev="device",
            **{"num-queues": 2},
        )
    except CheckFailed:
        return False
    return True
