"""The block device: vhost-user-blk serves an image file as /dev/vda."""

from ..checks import Check, Suite
from ..device import Device
from .attributes import disk, flush, readonly, resize
from .boot import ovmf, seabios
from .content import data, discard
from .crash import crash, fio
from .migrate import migrate

DEVICE = Device(
    name="blk",
    daemon="vhost-user-blk",
    build="cargo build --release -p virtio-blk-sim",
    qemu_devices=("vhost-user-blk-pci",),
    modules=("virtio_blk",),
    node="/dev/vda",
    has_sandbox=True,
    # `at OFFSET LENGTH` prints a part of the disk, in MiB, as the device has it and not as the page
    # cache remembers it.
    prelude="""
        sum() { sha256sum | cut -d' ' -f1; }
        noise() { dd if=/dev/urandom bs=1M count=$1 2>/dev/null; }
        at() { blockdev --flushbufs /dev/vda; dd if=/dev/vda bs=1M skip=$1 count=$2 2>/dev/null; }
    """,
)
SUITE = Suite(
    DEVICE,
    (
        Check("disk", disk),
        Check("data", data),
        Check("readonly", readonly),
        Check("flush", flush),
        Check("discard", discard),
        Check("resize", resize),
        Check("crash", crash),
        Check("fio", fio),
        Check("migrate", migrate),
        Check("seabios", seabios),
        Check("ovmf", ovmf),
    ),
)
