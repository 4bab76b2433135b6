"""The entropy device: vhost-user-rng gives the guest's /dev/hwrng its bytes."""

import time

from .checks import Check, Suite
from .device import Device
from .lab import Lab

DEVICE = Device(
    name="rng",
    daemon="examples/vhost-user-rng",
    build="cargo build --release -p virtio-blk-sim --examples",
    qemu_devices=("vhost-user-rng-pci",),
    modules=("virtio_rng",),
    node="/sys/bus/virtio/drivers/virtio_rng/virtio0",
    plugged_late=True,
    # Its vhost-user-base, on which this device stands since then, starts the new connection without
    # initializing it: 10.0 and 11.1 fail an assertion, 7.2 goes on.
    restarts_before=(9, 0),
)
PART = 32 << 10  # bytes
WAIT = 2.0  # seconds, in which a read that does not wait would be over


def rng(lab: Lab) -> None:
    """The guest takes its random numbers from the device, and they look random."""
    with lab.daemon(), lab.guest() as guest:
        current = guest.value("cat /sys/class/misc/hw_random/rng_current")
        lab.expect("the generator in use", current, "virtio_rng.0")
        size, packed = guest.value(f"""
            for part in 1 2; do
              dd if=/dev/hwrng of=/tmp/$part bs={PART} count=1 iflag=fullblock
            done
            cat /tmp/1 /tmp/2 >/tmp/both
            wc -c </tmp/both
            gzip -c /tmp/both | wc -c""", 180).split()
        lab.expect("bytes read", size, 2 * PART)
        lab.expect_true("gzip cannot make them fewer", int(packed) >= 2 * PART, f"{packed} left")
        zeroes = guest.succeeds(f"head -c {PART} /dev/zero | cmp -s - /tmp/1")
        lab.expect_true("they are not zeroes", not zeroes)
        lab.expect_true("no two reads are the same", not guest.succeeds("cmp -s /tmp/1 /tmp/2"))


def restart(lab: Lab) -> None:
    """A read waits while no daemon runs, and goes on when the next one has started."""
    read = f"dd if=/dev/hwrng bs={PART} count=1 iflag=fullblock | wc -c"
    with lab.daemon() as daemon, lab.guest(restarts=True) as guest:
        lab.expect("bytes before", guest.value(read, 120), PART)
        for name, end in (("kill -9", daemon.kill), ("SIGTERM", daemon.stop)):
            end()
            reading = guest.start(read)
            time.sleep(WAIT)
            lab.expect_true(f"a read waits after {name}", reading.is_running())
            daemon.start()
            lab.expect("bytes once a daemon runs again", reading.finish(120).output.strip(), PART)


SUITE = Suite(DEVICE, (Check("rng", rng), Check("rng-crash", restart)))
