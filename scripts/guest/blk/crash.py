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
# The first reads each block back soon after it was written. The second reads what the first has
# written, with the same seed; with a backlog, fio 3.33 would read without comparing.
WRITE = "--verify_backlog=256"
READ = "--verify_only"
FIO = """
    /bin/fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --rw=randwrite \\
      --bsrange=4k-32k --iodepth=32 --size={size}M --verify=crc32c --verify_fatal=1 \\
      --randseed={seed} {how} --output=/tmp/fio --output-format=json >/dev/ttyS0
"""
SIZE = 128
FIO_TIMEOUT = 240.0


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
    """fio reads back what it wrote, also when the server is killed again and again (--kills)."""
    if packages.find_program("fio") is None:
        raise Unavailable("no fio here to give to the guest")
    if lab.kills and not trace.available():
        lab.report.note("no strace to hold writes back: few will be in flight at the kill")
    for kills in (0, lab.kills) if lab.kills else (0,):
        image = ImageFile(lab.directory, 256)
        arguments = ("--image", image.path, "--queues", "2", "--monitor", "epoll")
        server = lab.daemon(*arguments)
        with server, lab.guest("num-queues=2", ("fio",), restarts=True) as guest:
            if kills:
                verify_killed(lab, server, guest, kills)
            else:
                verify(lab, guest)


def script(seed: int, how: str) -> str:
    """Returns the guest's command for one run of fio."""
    return FIO.format(size=SIZE, seed=seed, how=how)


def verify(lab: Lab, guest: Agent) -> None:
    """Runs fio to its end."""
    status = guest.run(script(1, WRITE), FIO_TIMEOUT).status
    lab.expect("fio random write and read, iodepth 32, verify=crc32c, its status", status, 0)
    writes, reads = operations(guest)
    lab.report.note(f"{writes} writes, {reads} reads")


def verify_killed(lab: Lab, server: Daemon, guest: Agent, kills: int) -> None:
    """Runs fio, again if it ends too early, and meanwhile kills the server so many times."""
    killed = rounds = writes = reads = 0
    done = (0, 0)
    statuses = set()
    while killed < kills and rounds < 2 * kills:
        rounds += 1
        running = guest.start(script(rounds, WRITE))
        while killed < kills:
            # Another moment each time.
            time.sleep(0.5 + killed * 0.37 % 1)
            if not running.is_running():
                break
            if killed % 2 == 0:
                kill_in_flight(lab, server)
            else:
                server.kill()
            killed += running.is_running()
            server.start()
        statuses.add(running.finish(FIO_TIMEOUT).status)
        done = operations(guest)
        writes, reads = writes + done[0], reads + done[1]
    lab.expect("times the server was killed -9 while fio ran", killed, kills)
    found = " ".join(str(status) for status in sorted(statuses))
    lab.expect(f"the same, the status of each of {rounds} runs of fio", found, 0)
    lab.report.note(f"{writes} writes, {reads} reads")
    # The image as a new server and an empty page cache see it.
    server.restart()
    again = guest.run(script(rounds, READ), FIO_TIMEOUT)
    lab.expect("all that the last run wrote is there at the end, fio's status", again.status, 0)
    lab.expect("blocks that were read for that", operations(guest)[1], done[0])


def operations(guest: Agent) -> tuple[int, int]:
    """Returns how many writes and reads the last run of fio reports."""
    try:
        job = json.loads(guest.value("cat /tmp/fio"))["jobs"][0]
        return job["write"]["total_ios"], job["read"]["total_ios"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckFailed("fio wrote no report") from error


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
