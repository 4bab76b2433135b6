"""The file system device of the published crate virtiofsd, hosted by vhost-user-fs."""

import hashlib
import random
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import packages, trace
from .checks import Check, Suite
from .daemon import Daemon
from .device import Device
from .errors import CheckFailed, Unavailable
from .lab import Lab
from .process import wait_until

DEVICE = Device(
    name="fs",
    daemon="vhost-user-fs",
    build="cargo build --release --manifest-path virtio-blk-sim/virtiofs/Cargo.toml "
    "--target-dir target",
    qemu_devices=("vhost-user-fs-pci",),
    modules=("fuse", "virtiofs"),
    node="/sys/bus/virtio/drivers/virtiofs/virtio0",
    properties="tag=share",
    plugged_late=True,
)
# With the guest's copies 10,000 files. The device keeps each that the guest knows open, and a
# process may often have 20,000 open files.
DIRECTORIES = 50
FILES = 100  # in each directory
LARGEST = 16 << 10  # bytes of a file
# cp, sha256sum and rm of the guest's busybox do most of the work: one process for many files.
COPY = """
    mount -t virtiofs share /mnt && cd /mnt &&
    sha256sum -c -s sums && cp -r made copied && sync
"""
LATER = """
    umount /mnt && mount -t virtiofs share /mnt && cd /mnt/copied &&
    sed 's, made/, ,' ../sums | sha256sum -c -s
"""
NAMES = """
    cd /mnt && mkdir names && cd names && echo one >a && ln a b && ln -s a c && mv a d &&
    chmod 640 d && echo two >>b && [ "$(cat d)" = "$(printf 'one\\ntwo')" ] &&
    [ "$(readlink c)" = a ] && [ ! -e c ] && truncate -s 1M e && rm c && ls | tr '\\n' ' '
"""
FIO = """
    mount -t virtiofs share /mnt &&
    /bin/fio --name=verify --directory=/mnt --direct=1 --ioengine=libaio --rw=randrw \\
      --bsrange=4k-64k --iodepth=16 --numjobs=2 --size={size}M --verify=crc32c --verify_fatal=1 \\
      --randseed=7 --output=/tmp/fio --output-format=json >/dev/ttyS0
"""
FIO_SIZE = 32
TIMEOUT = 900.0
# What is traced: small enough for strace, which slows each call down.
CALLS_DIRECTORIES = 5


def make_tree(shared: Path, directories: int) -> int:
    """Fills a directory with files of random bytes and a list of their sums. Returns how many."""
    numbers = random.Random(1)
    lines = []
    for directory in range(directories):
        (shared / f"made/{directory}").mkdir(parents=True)
        for name in range(FILES):
            path = Path(f"made/{directory}/{name}")
            content = numbers.randbytes(numbers.randrange(LARGEST))
            (shared / path).write_bytes(content)
            lines.append(f"{hashlib.sha256(content).hexdigest()}  {path}\n")
    (shared / "sums").write_text("".join(lines))
    return len(lines)


def same_files(shared: Path) -> int:
    """Returns how many files of the copied tree have the same content as those made here."""
    made = [path for path in (shared / "made").rglob("*") if path.is_file()]
    copies = [shared / "copied" / path.relative_to(shared / "made") for path in made]
    pairs = zip(made, copies, strict=True)
    return sum(copy.is_file() and copy.read_bytes() == path.read_bytes() for path, copy in pairs)


def shared_directory(lab: Lab, name: str = "shared") -> Path:
    """Makes an empty directory to share."""
    shared = lab.directory / f"{lab.name}-{name}"
    shared.mkdir()
    return shared


def files(lab: Lab) -> None:
    """5,000 files of the host have the right sums in the guest, and the guest's copies here."""
    _files(lab)


def pool(lab: Lab) -> None:
    """The same with an I/O thread for the queues and four threads of the device."""
    _files(lab, "--io-thread", "--thread-pool-size", "4")


def _files(lab: Lab, *arguments: str) -> None:
    shared = shared_directory(lab)
    count = make_tree(shared, DIRECTORIES)
    with lab.daemon("--shared-dir", shared, *arguments), lab.guest() as guest:
        lab.expect_true("the guest mounts, checks and copies all", guest.succeeds(COPY, TIMEOUT))
        lab.expect("copies that are right in the host's directory", same_files(shared), count)
        lab.expect_true("they are right after another mount", guest.succeeds(LATER, TIMEOUT))
        lab.expect("links, renames and modes", guest.value(NAMES, 60), "b d e")
        lab.expect("the mode, seen here", oct((shared / "names/d").stat().st_mode & 0o777), "0o640")
        removed = guest.succeeds("cd /mnt && rm -r copied names", TIMEOUT)
        lab.expect_true("the guest removes them", removed and not (shared / "copied").exists())
        lab.expect_true("and unmounts", guest.succeeds("umount /mnt"))


def fio(lab: Lab) -> None:
    """fio reads back what it wrote to files, 16 requests at a time from two jobs."""
    if packages.find_program("fio") is None:
        raise Unavailable("no fio here to give to the guest")
    shared = shared_directory(lab)
    with lab.daemon("--shared-dir", shared), lab.guest(programs=("fio",)) as guest:
        status = guest.run(FIO.format(size=FIO_SIZE), TIMEOUT).status
        lab.expect("fio random read and write, verify=crc32c, its status", status, 0)
        sizes = [path.stat().st_size >> 20 for path in sorted(shared.glob("verify.*"))]
        lab.expect("its files in the host's directory, MiB", sizes, [FIO_SIZE] * 2)


def reboot(lab: Lab) -> None:
    """A guest that restarts without unmounting mounts the directory again."""
    shared = shared_directory(lab)
    (shared / "there").write_text("kept")
    with lab.daemon("--shared-dir", shared) as daemon:
        for number in (1, 2):
            with lab.guest() as guest:
                guest.value("mount -t virtiofs share /mnt")
                lab.expect(f"guest {number} reads a file", guest.value("cat /mnt/there"), "kept")
                guest.value("exec 4>/mnt/open; echo open >&4; sync")
        lab.expect_true("one daemon served both", daemon.pid > 0)


def calls(lab: Lab) -> None:
    """The device needs fewer system calls on this event loop than under its own daemon."""
    own, requests = _counted(lab, "own")
    if requests <= 0:
        raise CheckFailed("the daemon counted no requests")
    original = packages.find_program("virtiofsd")
    if original is None:
        raise Unavailable("no virtiofsd in PATH to compare with: cargo install virtiofsd@1.14.0")
    theirs, _ = _counted(lab, "virtiofsd", original)
    lab.report.note(f"{requests} requests; system calls for each, here and in virtiofsd:")
    for name in sorted(own | theirs, key=lambda name: -max(own.get(name, 0), theirs.get(name, 0))):
        here, there = own.get(name, 0) / requests, theirs.get(name, 0) / requests
        if max(here, there) >= 0.05:
            lab.report.note(f"{name:<16} {here:6.2f} {there:6.2f}")
    total, other = sum(own.values()), sum(theirs.values())
    lab.report.note(f"{'total':<16} {total / requests:6.2f} {other / requests:6.2f}")
    lab.expect_true("fewer system calls", total < other, f"{total}, not fewer than {other}")


def _counted(
    lab: Lab, name: str, original: Path | None = None
) -> tuple[dict[str, int], int]:
    """Lets the guest copy files. Returns the daemon's system calls meanwhile, and the requests.

    The requests of the original daemon are not known: 0.
    """
    shared = shared_directory(lab, name)
    count = make_tree(shared, CALLS_DIRECTORIES)
    summary = lab.directory / f"{lab.name}-{name}.calls"
    requests = 0
    with _daemon(lab, shared, original) as daemon, lab.guest() as guest:
        guest.value("mount -t virtiofs share /mnt")
        if original is None:
            requests -= _requests(lab, daemon)
        with trace.attached(daemon.pid, summary, lab.scale, "-c"):
            copied = guest.succeeds(COPY.partition("&&")[2], TIMEOUT)
        if original is None:
            requests += _requests(lab, daemon)
        lab.expect_true(f"{name}: the guest checks and copies all", copied)
        lab.expect(f"{name}: right copies", same_files(shared), count)
    return _parse(summary), requests


def _requests(lab: Lab, daemon: Daemon) -> int:
    """Asks our daemon how many requests its second queue, which takes most, has taken."""
    lines = re.compile(r"^queue 1: (\d+) requests", re.MULTILINE)

    def found() -> list[str]:
        return lines.findall(daemon.log.read_text(errors="replace"))

    before = len(found())
    daemon.send_signal(signal.SIGUSR1)
    if not wait_until(lambda: len(found()) > before, 10 * lab.scale):
        raise CheckFailed("the daemon does not log its requests")
    return int(found()[-1])


@contextmanager
def _daemon(lab: Lab, shared: Path, original: Path | None) -> Iterator[Daemon]:
    if original is None:
        with lab.daemon("--shared-dir", shared, "--io-thread") as daemon:
            yield daemon
        return
    # It ends by itself when the guest is gone. By default it has the same file system, but for
    # the handles that it keeps instead of open files.
    command = [original, "--socket-path", lab.socket, "--shared-dir", shared, "--sandbox", "none",
               "--inode-file-handles=never"]
    daemon = Daemon(command, lab.socket, lab.directory / "virtiofsd.log", lab.scale)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.kill()


def _parse(summary: Path) -> dict[str, int]:
    """Returns the counts of strace -c, by system call."""
    counts: dict[str, int] = {}
    for line in summary.read_text().splitlines():
        # % time, seconds, usecs/call, calls, errors (or nothing), name
        match = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
        if match is not None and match[2] != "total":
            counts[match[2]] = int(match[1])
    if not counts:
        raise CheckFailed("strace has written no summary")
    return counts


SUITE = Suite(DEVICE, (
    Check("fs", files), Check("fs-pool", pool), Check("fs-fio", fio), Check("fs-again", reboot),
    Check("fs-calls", calls),
))
