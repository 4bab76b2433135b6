"""Guests whose firmware and boot loader read the disk, with the QEMU line that --help prints."""

from ..firmware import OVMF, SEABIOS, START, Firmware
from ..lab import Lab
from .image_file import MIB, ImageFile

# Where the guest writes: behind the partition.
FREE = START // MIB + 64


def seabios(lab: Lab) -> None:
    """SeaBIOS and GRUB boot Linux from the disk, and again after a reboot."""
    boots(lab, SEABIOS)


def ovmf(lab: Lab) -> None:
    """OVMF, a legacy driver of QEMU's default device, and GRUB boot Linux, twice too."""
    boots(lab, OVMF)


def boots(lab: Lab, firmware: Firmware) -> None:
    """Boots twice in one session. Firmware, boot loader and kernel take turns on the device."""
    image = ImageFile(lab.directory, 1)
    lab.write_boot_disk(image.path)
    with lab.daemon("--image", image.path) as daemon, lab.boot(firmware) as machine:
        guest = machine.agent
        kernel = guest.value("at 1 64 | sum")
        lab.expect("the partition, read by the kernel", kernel, image.sum(1, 64))
        written = guest.value(f"""
            noise 1 >/tmp/noise
            dd if=/tmp/noise of=/dev/vda bs=1M seek={FREE} conv=fsync
            sum </tmp/noise""")
        lab.expect("what the kernel wrote", image.sum(FREE, 1), written)
        machine.reboot()
        lab.expect("the same after a reboot", guest.value(f"at {FREE} 1 | sum"), written)
        greeting = f"GRUB on {firmware.platform} reads the disk"
        count = machine.console.read_text(errors="replace").count(greeting)
        lab.expect(f"times that {firmware.name} started GRUB", count, 2)
        # The first two lines say what is served, and where.
        log = daemon.log.read_text().splitlines()
        lab.expect("complaints of the server", "; ".join(log[2:]) or "none", "none")
