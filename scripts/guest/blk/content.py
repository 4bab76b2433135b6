"""What is on the disk: bytes, file systems, and what was discarded or zeroed."""

from pathlib import Path

from .. import packages
from ..agent import Agent
from ..errors import CheckFailed
from ..lab import Lab
from ..process import run_tool
from .image_file import ImageFile, sum_of_zeroes

FSCK_TIMEOUT = 120.0


def yes(condition: bool) -> str:
    """Returns a condition as a word."""
    return "yes" if condition else "no"


def data(lab: Lab) -> None:
    """Bytes and an ext4 file system are the same after a reboot, with another server."""
    image = ImageFile(lab.directory, 256)
    has_mkfs = packages.find_program("mke2fs") is not None
    tree = ""
    with lab.daemon("--image", image.path, "--queues", "2"), lab.guest("num-queues=2") as guest:
        # The first 128 MiB become a file system, the next 64 MiB take bytes without one.
        written, read_back = guest.value("""
            noise 64 >/tmp/noise
            sum </tmp/noise
            dd if=/tmp/noise of=/dev/vda bs=256k seek=512 conv=fsync
            at 128 64 | sum
            rm /tmp/noise""", 180).split()
        lab.expect("64 MiB read back at once, SHA-256", read_back, written)
        lab.expect("64 MiB in the image", image.sum(128, 64), written)
        if has_mkfs:
            made = guest.succeeds("/bin/mke2fs -q -t ext4 -F /dev/vda 128M")
            lab.expect("mkfs.ext4 in the guest", yes(made), "yes")
            mounted = guest.succeeds("mount -t ext4 /dev/vda /mnt")
            tree = fill_tree(guest)
            unmounted = guest.succeeds("umount /mnt")
            both = f"{yes(mounted)} {yes(unmounted)}"
            lab.expect("mounted, filled and unmounted", both, "yes yes")
    if not has_mkfs:
        lab.report.skips("ext4: no mke2fs here to give to the guest")
    elif (fsck := packages.find_program("e2fsck")) is not None:
        lab.expect_true("e2fsck finds nothing wrong in the image", *is_clean(fsck, image.path))
    arguments = ("--queues", "2", "--threads", "2")
    with lab.daemon("--image", image.path, *arguments), lab.guest("num-queues=2") as guest:
        lab.expect("64 MiB after a reboot", guest.value("at 128 64 | sum"), written)
        if has_mkfs:
            guest.value("mount -t ext4 -o ro /dev/vda /mnt")
            sums = guest.value("sum </mnt/sums")
            lab.expect("ext4 tree after a reboot, list of sums", sums, tree)
            right = guest.value("cd /mnt; sha256sum -c sums | grep -c OK")
            lab.expect("ext4 tree after a reboot, files with the right sum", right, 64)
            guest.value("umount /mnt")


def fill_tree(guest: Agent) -> str:
    """Writes 64 files of 0 to 504 KiB below /mnt and returns the sum of the list of their sums."""
    return guest.value("""
        for directory in $(seq 8); do
          mkdir -p /mnt/tree/$directory
          for file in $(seq 8); do
            size=$(((directory * 8 + file - 9) * 8))
            dd if=/dev/urandom of=/mnt/tree/$directory/$file bs=1k count=$size
          done
        done
        cd /mnt
        find tree -type f | sort | xargs sha256sum >sums
        sum <sums""", 180)


def is_clean(fsck: Path, image: Path) -> tuple[bool, str]:
    """Returns whether e2fsck is content with the image, and otherwise its last line."""
    try:
        run_tool([fsck, "-fn", image], FSCK_TIMEOUT)
    except CheckFailed as error:
        return False, str(error)
    return True, ""


def discard(lab: Lab) -> None:
    """Discard, write zeroes and fstrim free and zero what they cover, and nothing else."""
    image = ImageFile(lab.directory, 64)
    with lab.daemon("--image", image.path), lab.guest("num-queues=1") as guest:
        guest.value("noise 32 | dd of=/dev/vda bs=256k conv=fsync")
        full, beside = image.blocks(), image.sum(16, 16)
        discarded = guest.succeeds("/applets/blkdiscard -o 0 -l 16777216 /dev/vda")
        seen, seen_beside = guest.value("at 0 16 | sum; at 16 16 | sum").split()
        punched = image.blocks()
        lab.expect("blkdiscard of 16 MiB", yes(discarded), "yes")
        lab.expect_true(
            f"it punched a hole: {full} blocks of 512 bytes before, {punched} after",
            full - punched >= 16 * 2048,
        )
        lab.expect("what was discarded reads as zeroes", seen, sum_of_zeroes(16))
        lab.expect("what lies beside it has not changed", seen_beside, beside)
        write_zeroes(lab, guest)
        trim(lab, guest, image)


def write_zeroes(lab: Lab, guest: Agent) -> None:
    """Zeroes 8 MiB that hold random bytes."""
    if packages.find_program("blkdiscard") is None:
        lab.report.skips("write zeroes: no blkdiscard of util-linux here to give to the guest")
        return
    zeroed = guest.succeeds("/bin/blkdiscard -z -o 16777216 -l 8388608 /dev/vda")
    lab.expect("write zeroes of 8 MiB", yes(zeroed), "yes")
    lab.expect("they read as zeroes", guest.value("at 16 8 | sum"), sum_of_zeroes(8))


def trim(lab: Lab, guest: Agent, image: ImageFile) -> None:
    """Removes a file of 24 MiB from a file system and trims that."""
    if packages.find_program("mke2fs") is None:
        lab.report.skips("fstrim: no mke2fs here to give to the guest")
        return
    guest.value("""
        /bin/mke2fs -q -t ext4 -E nodiscard -F /dev/vda 64M || exit 1
        mount -t ext4 /dev/vda /mnt || exit 1
        noise 24 >/mnt/file
        sync""")
    filled = image.blocks()
    trimmed = guest.succeeds("rm /mnt/file; sync; fstrim /mnt")
    left = image.blocks()
    lab.expect_true(
        f"fstrim after rm punched: {filled} blocks before, {left} after", filled - left >= 20 * 2048
    )
    lab.expect("fstrim", yes(trimmed), "yes")
    guest.value("umount /mnt")
