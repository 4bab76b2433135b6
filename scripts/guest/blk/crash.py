"""The server is killed while the guest writes: nothing may be lost, and nothing may hang."""

import hashlib
import json
import time
from contextlib import ExitStack

from .. import packages, trace
from ..agent import Agent
from ..daemon import Daemon
from ..errors import CheckFailed, Unavailable
from ..lab import Lab
from .image_file import ImageFile

# 48 blocks of 2 MiB, each with its own content, that go past the page cache.
WRITE_ROUNDS = """
    noise 2 >/tmp/noise
    i=0
    errors=0
    while [ $i -lt 48 ]; do
      { echo "round $i"; cat /tmp/noise; } | dd of=/tmp/block bs=2M count=1 iflag=fullblock
      sum </tmp/block >>/tmp/written
      dd if=/tmp/block of=/dev/vda bs=64k seek=$((i * 32)) oflag=direct || errors=$((errors + 1))
      i=$((i + 1))
      echo "round=$i"
    done
    echo "errors=$errors"
"""
READ_ROUNDS = """
    blockdev --flushbufs /dev/vda
    i=0
    while [ $i -lt 48 ]; do at $((i * 2)) 2 | sum >>/tmp/read; i=$((i + 1)); done
    cmp -s /tmp/written /tmp/read
"""
FIO = """
    /bin/fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --rw=randwrite \\
      --bsrange=4k-32k --iodepth=32 --size=128M --verify=crc32c --verify_backlog=256 \\
      --verify_fatal=1 --randseed=1 --output=/tmp/fio --output-format=json >/dev/ttyS0
"""


def crash(lab: Lab) -> None:
    """Writes go on as if nothing were when the server is killed and a new one takes over."""
    image = ImageFile(lab.directory, 256)
    ends = 0
    server = lab.daemon("--image", image.path)
    with server, lab.guest("num-queues=1", restarts=True) as guest:
        writing = guest.start(WRITE_ROUNDS)
        for number in (5, 20, 35):
            if writing.wait_for(f"round={number}", 120):
                if number == 20:
                    server.stop()
                else:
                    server.kill()
                ends += 1
                server.start()
        errors = writing.finish(240).output.rpartition("errors=")[2]
        flushed = guest.succeeds("dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=30000 conv=fsync")
        same = guest.succeeds(READ_ROUNDS, 120)
        sums = guest.value("sum </tmp/written")
    what = "times the server ended among the guest's writes (kill -9, SIGTERM, kill -9)"
    lab.expect(what, ends, 3)
    lab.expect("writes that failed in the guest", errors, 0)
    lab.expect("a flush afterwards succeeds", "yes" if flushed else "no", "yes")
    lab.expect("all 48 blocks read back as they were written", "yes" if same else "no", "yes")
    in_image = "".join(image.sum(offset, 2) + "\n" for offset in range(0, 96, 2))
    lab.expect("and are in the image", hashlib.sha256(in_image.encode()).hexdigest(), sums)


def fio(lab: Lab) -> None:
    """fio reads back what it wrote, also when the server is killed with requests in flight."""
    if packages.find_program("fio") is None:
        raise Unavailable("no fio here to give to the guest")
    if not trace.available():
        lab.report.note("no strace to hold writes back: few will be in flight at the kill")
    for kills in (0, 2):
        image = ImageFile(lab.directory, 256)
        arguments = ("--image", image.path, "--queues", "2", "--monitor", "epoll")
        server = lab.daemon(*arguments)
        with server, lab.guest("num-queues=2", ("fio",), restarts=True) as guest:
            verify(lab, server, guest, kills)


def verify(lab: Lab, server: Daemon, guest: Agent, kills: int) -> None:
    """Runs fio, and meanwhile kills the server so many times."""
    running = guest.start(FIO)
    killed = 0
    for _ in range(kills):
        time.sleep(1)
        kill_in_flight(lab, server)
        if running.is_running():
            killed += 1
        server.start()
    status = running.finish(240).status
    if kills:
        lab.expect("times the server was killed -9 while fio ran", killed, kills)
        lab.expect("the same, its status", status, 0)
        return
    what = "fio random write and read, iodepth 32, verify=crc32c, its status"
    lab.expect(what, status, 0)
    try:
        job = json.loads(guest.value("cat /tmp/fio"))["jobs"][0]
        writes, reads = job["write"]["total_ios"], job["read"]["total_ios"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckFailed("fio wrote no report") from error
    lab.report.note(f"{writes} writes, {reads} reads")


def kill_in_flight(lab: Lab, server: Daemon) -> None:
    """Kills the server with writes in flight, which the guest waits for until they are replayed.

    strace makes each write of the server take half a second, so that the kill finds some.
    """
    calls = "pwrite64,pwritev,pwritev2"
    with ExitStack() as stack:
        try:
            stack.enter_context(trace.attached(
                server.pid, lab.directory / "fio.trace", lab.scale,
                "-e", f"trace={calls}", "-e", f"inject={calls}:delay_enter=500000",
            ))
        except Unavailable as reason:
            lab.report.note(str(reason))
        time.sleep(2)
        server.kill()
