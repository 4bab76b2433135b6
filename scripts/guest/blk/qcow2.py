"""A qcow2 image, which qemu-img checks after the guest has used it."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .. import packages
from ..daemon import Daemon
from ..errors import CheckFailed, Unavailable
from ..lab import Lab
from .crash import verify, verify_killed
from .image_file import MIB, sum_of


def qcow2(lab: Lab) -> None:
    """fio reads back what it wrote to a qcow2 image over a backing file, also through kills."""
    tool = packages.find_program("qemu-img")
    if tool is None:
        raise Unavailable("no qemu-img here to make and check an image")
    if packages.find_program("fio") is None:
        raise Unavailable("no fio here to give to the guest")
    base, image = lab.directory / "base.raw", lab.directory / "disk.qcow2"
    base.write_bytes(b"\x5a" * (64 * MIB))
    for kills in (0, lab.kills) if lab.kills else (0,):
        image.unlink(missing_ok=True)
        run(tool, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image, "256M")
        arguments = ("--image", image, "--format", "qcow2", "--allow-backing", lab.directory)
        server = lab.daemon(*arguments, "--queues", "2")
        with served(server), lab.guest("num-queues=2", ("fio",), restarts=True) as guest:
            if kills:
                verify_killed(lab, server, guest, kills)
            else:
                verify(lab, guest)
            tail = guest.value("at 200 2 | sum")
            server.stop()
        # 3: leaked clusters, which a kill may leave, and nothing else.
        status = run(tool, "check", "-q", "-f", "qcow2", image, fine=(0, 3) if kills else (0,))
        lab.report.note(f"qemu-img check: status {status}")
        raw = lab.directory / "disk.raw"
        run(tool, "convert", "-f", "qcow2", "-O", "raw", image, raw)
        run(tool, "compare", "-q", "-f", "qcow2", "-F", "raw", image, raw)
        lab.expect("the end of the disk as the guest and qemu-img see it", tail, sum_of(raw, 200, 2))
    whole = base.read_bytes() == b"\x5a" * (64 * MIB)
    lab.expect("the backing file is as it was", "yes" if whole else "no", "yes")


@contextmanager
def served(server: Daemon) -> Iterator[None]:
    """Runs a server, unless it was built without these images."""
    with ExitStack() as stack:
        try:
            stack.enter_context(server)
        except CheckFailed as reason:
            if "cargo feature `imago`" in server.log.read_text(errors="replace"):
                build = "cargo build --release -p virtio-blk-sim --features imago"
                raise Unavailable(f"the server has no qcow2: {build}") from reason
            raise
        yield


def run(tool: Path | str, *arguments: Path | str, fine: tuple[int, ...] = (0,)) -> int:
    """Runs qemu-img and returns its status, which must be one of `fine`."""
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        raise CheckFailed(f"qemu-img {arguments[0]}: {done.stdout}{done.stderr}")
    return done.returncode
