"""A guest migrates between two servers of one image while fio verifies what it reads."""

import re
from contextlib import ExitStack
from pathlib import Path

from .. import packages
from ..agent import Agent, Command
from ..daemon import Daemon
from ..errors import CheckFailed, Unavailable
from ..lab import Lab
from ..migrating import MigratingMachine
from ..process import run_tool, wait_until
from .image_file import MIB, ImageFile

TRIPS = 3  # there and back
SIZE = 64  # MiB that fio uses of the disk
PARTS, PART = 16, 8  # parts after that, which the guest reads, and MiB of each
# The host stops the guest's loop by writing this at the end of the disk.
STOP = b"stop"
DISK = SIZE + PARTS * PART + 1
FIO = (
    "--name=verify --direct=1 --rw=randwrite --bsrange=4k-32k --iodepth=16 --verify=crc32c "
    f"--verify_fatal=1 --size={SIZE}M --output-format=json"
)
# Each round writes with another seed, and reads soon after, until the host says stop.
LOOP = f"""
    part() {{ dd if=/dev/vda bs=1M skip=$(({SIZE} + $1 * {PART})) count={PART}; }}
    # Lets the device fill the page cache, and looks at it a moment later. If the guest has migrated
    # in between, pages that were not marked have other content.
    cached() {{
      n=0
      while [ ! -e /tmp/end ]; do
        blockdev --flushbufs /dev/vda
        part $n >/dev/null
        usleep 500000
        found=differs
        [ "$(part $n | md5sum)" = "$(cat /tmp/sum$n)" ] && found=same
        echo "cached=$found"
        n=$(((n + 1) % {PARTS}))
      done
    }}
    for n in $(seq 0 {PARTS - 1}); do part $n | md5sum >/tmp/sum$n; done
    cached &
    i=1
    while true; do
      /bin/fio {FIO} --filename=/dev/vda --ioengine=libaio --verify_backlog=64 --randseed=$i \
        --output=/tmp/fio >/dev/ttyS0 || {{ touch /tmp/end; exit 1; }}
      echo "round=$i"
      word=$(dd if=/dev/vda bs=4k skip={(DISK * MIB >> 12) - 1} count=1 iflag=direct | head -c 4)
      [ "$word" = {STOP.decode()} ] && break
      i=$((i + 1))
    done
    touch /tmp/end
    wait
"""
ROUND_TIMEOUT = 240.0
NAMES = ("here", "there")


def migrate(lab: Lab) -> None:
    """A guest migrates there and back three times while fio verifies; the image is handed over."""
    if packages.find_program("fio") is None:
        raise Unavailable("no fio here to give to the guest")
    image = ImageFile(lab.directory, DISK)
    image.fill(SIZE + PARTS * PART)
    sockets = [lab.directory / f"{name}.sock" for name in NAMES]
    usual = ("--image", image.path, "--queues", "2", "--lock", "running")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(lab.daemon(*usual, *more, socket=socket))
            for socket, more in zip(sockets, ((), ("--threads", "2")), strict=True)
        ]
        logs = [DirtyLog(server) for server in servers]
        machine = stack.enter_context(machine_at(lab, 0, 0, sockets))
        running = machine.agent.start(LOOP)
        if not running.wait_for("round=1", ROUND_TIMEOUT):
            raise CheckFailed(f"fio failed before the migration, with status {running.status}")
        for trip in range(2 * TRIPS):
            here, there = trip % 2, (trip + 1) % 2
            target = stack.enter_context(machine_at(lab, there, trip + 1, sockets))
            # In the second pair of trips the guest goes on at once, so the server there asks for
            # the lock of the image while the one here gives it back.
            if trip // 2 != 1:
                syncs, differ = machine.migrate_and_compare(target, logs[here].look)
                first = " ".join(f"{page:#x}" for page in differ[:4])
                what = "pages of the guest that are not what they were before"
                lab.expect(f"{what}{first and f' (the first ones: {first})'}", len(differ), 0)
            else:
                syncs = machine.migrate_to(target, logs[here].look)
            machine = target
            lab.report.note(f"to {NAMES[there]}: QEMU collected dirty pages {syncs} times")
        lab.expect("fio runs on after the migrations", running.is_running(), True)
        rounds = finish(lab, image, running)
        verify(lab, machine.agent, rounds)
        lab.report.note(machine.power_off())
        for name, log in zip(NAMES, logs, strict=True):
            lab.expect(f"logs of dirty pages that the server {name} had mapped", len(log.logs), TRIPS)
            found = f"pages that it had marked and QEMU had not taken, at most: {log.marks}"
            lab.expect_true(found, log.marks > 0)
    outside = run_tool(
        ["fio", *FIO.split(), f"--filename={image.path}", "--ioengine=psync", "--verify_only",
         f"--randseed={rounds}", "--verify_state_save=0"],
        ROUND_TIMEOUT,
    )
    lab.expect_true("the image has what the guest wrote", '"error" : 0' in outside, outside[-500:])


def machine_at(lab: Lab, place: int, trip: int, sockets: list[Path]) -> MigratingMachine:
    """Returns the machine of a trip, at one of the two servers. The first one boots."""
    name = f"{NAMES[place]}-{trip}"
    return lab.migrating_machine(name, sockets[place], "num-queues=2", ("fio",), waits=trip > 0)


def finish(lab: Lab, image: ImageFile, running: Command) -> int:
    """Ends the guest's loop; returns how many rounds it has done."""
    with image.path.open("r+b") as file:
        file.seek(DISK * MIB - 4096)
        file.write(STOP)
    result = running.finish(2 * ROUND_TIMEOUT)
    rounds = len(re.findall(r"^round=\d+$", result.output, re.MULTILINE))
    lab.expect(f"{rounds} rounds of fio, verify=crc32c, across the migrations, status", result.status, 0)
    cached = [result.output.count(f"cached={found}") for found in ("same", "differs")]
    what = f"{cached[0]} times the page cache kept what the device had put there, and it differed"
    lab.expect(what, cached[1], 0)
    return rounds


def verify(lab: Lab, guest: Agent, rounds: int) -> None:
    """Reads again what the last round wrote, past the guest's page cache."""
    again = guest.run(
        f"/bin/fio {FIO} --filename=/dev/vda --ioengine=libaio --verify_only --randseed={rounds} "
        "--output=/tmp/fio >/dev/ttyS0", ROUND_TIMEOUT,
    )
    lab.expect("the last round's data read again after the last migration, fio's status", again.status, 0)


class DirtyLog:
    """QEMU's log of dirty pages, as the server of one side has mapped it."""

    def __init__(self, server: Daemon) -> None:
        self._pid = server.pid
        self.logs: set[str] = set()
        self.marks = 0

    def look(self) -> None:
        """Looks for a log, and for bits that QEMU has not taken yet."""
        for line in Path(f"/proc/{self._pid}/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and "vhost-log" in fields[5]:
                start, end = (int(address, 16) for address in fields[0].split("-"))
                with open(f"/proc/{self._pid}/mem", "rb") as memory:
                    memory.seek(start)
                    bits = memory.read(end - start)
                self.logs.add(fields[4])  # the inode: each log is another file
                self.marks = max(self.marks, int.from_bytes(bits).bit_count())
