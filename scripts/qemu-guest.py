#!/usr/bin/env python3
"""Linux guests under QEMU use the devices that our vhost-user daemons serve.

Prints one PASS, FAIL or SKIP line for each thing that is checked, and exits with 1 if anything
failed, 2 for wrong use, and 0 otherwise, also if everything was skipped. QEMU emulates the
processor (TCG), so it needs no /dev/kvm; a guest boots in three to ten seconds.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

sys.dont_write_bytecode = True  # before the package is imported

from guest import blk, checks, console, fs, packages, rng  # noqa: E402
from guest.errors import CheckFailed, Unavailable, UsageError  # noqa: E402
from guest.image import InitramfsMaker, KernelFinder  # noqa: E402
from guest.lab import Settings  # noqa: E402
from guest.process import is_program  # noqa: E402
from guest.qemu import QemuFinder  # noqa: E402
from guest.report import Report  # noqa: E402

SUITES = (blk.SUITE, rng.SUITE, console.SUITE, fs.SUITE)
NEEDS = """
Needs qemu-system-x86_64, busybox (static) and dpkg-deb. Packed into the guest where this machine
has them: mke2fs and blkdiscard (mkfs.ext4, write zeroes), fio. Used outside: strace, e2fsck; and to
boot a guest from its disk, grub-mkimage, mtools, GRUB for i386-pc and x86_64-efi, and OVMF.
"""


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "qemu-guest")
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=NEEDS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("server", nargs="?", type=Path, metavar="SERVER",
        help="vhost-user-blk (default: the one in --target)")
    add("--target", type=Path, default=Path("target/release"), metavar="DIR",
        help="where cargo leaves the daemons (default: %(default)s)")
    add("--install", action="store_true",
        help="install what is missing with apt-get (as root), and download Debian's cloud kernel "
        "and a newer QEMU where a check needs one; without it, what a machine lacks is skipped, "
        "and nothing is installed or downloaded")
    add("--kernel", type=Path, metavar="DEB",
        help="a linux-image-*-cloud-amd64 package that is there already")
    add("--qemu", type=Path, metavar="BINARY", help="the only QEMU to use")
    add("--device", default="", metavar="LIST",
        help=f"some of: {' '.join(suite.device.name for suite in SUITES)} (default: all)")
    add("--only", default="", metavar="LIST", help="some of the checks that --list prints")
    add("--sandbox", choices=("on", "off"), default="",
        help="passed on to the daemons that have this option")
    add("--timeout-scale", type=float, default=1.0, metavar="FACTOR",
        help="multiplies all timeouts, for a machine that is slow or busy")
    add("--kills", type=int, default=2, metavar="N",
        help="how often the check fio kills the server (default: %(default)s)")
    add("--cache", type=Path, default=cache, metavar="DIR",
        help="keeps kernels and a newer QEMU (default: %(default)s)")
    add("--keep", action="store_true",
        help="leave the work directory, with the logs of daemons and guests")
    add("--list", action="store_true", help="print the checks and do nothing")
    return parser.parse_args()


def list_checks() -> None:
    """Prints each check with its sentence."""
    for suite in SUITES:
        print(f"{suite.device.name}: {suite.device.daemon}")
        for check in suite.checks:
            print(f"  {check.name:<15} {check.summary}")


def run(options: argparse.Namespace, work: Path) -> int:
    """Runs the chosen checks in a work directory and returns the exit code."""
    chosen = checks.select(SUITES, options.device, options.only)
    if not 0 < options.timeout_scale <= 1000:
        raise UsageError(f"--timeout-scale must be above 0, at most 1000, not {options.timeout_scale}")
    if not 0 <= options.kills <= 10000:
        raise UsageError(f"--kills must be between 0 and 10000, not {options.kills}")
    for path in (options.kernel, options.qemu):
        if path is not None and not path.is_file():
            raise UsageError(f"there is no {path}")
    target = options.target.absolute()
    daemons = {suite.device.name: target / suite.device.daemon for suite in SUITES}
    if options.server is not None:
        daemons["blk"] = options.server.absolute()
    if any(suite is blk.SUITE for suite, _ in chosen) and not is_program(daemons["blk"]):
        raise UsageError(f"no server at {daemons['blk']}: {blk.DEVICE.build}")
    report = Report()
    try:
        settings = prepare(options, work, report)
    except Unavailable as reason:
        report.skips(str(reason))
        return 0
    report.start_clock()
    for suite, check in chosen:
        checks.run(suite, check, daemons[suite.device.name], settings, report)
    return report.finish()


def prepare(options: argparse.Namespace, work: Path, report: Report) -> Settings:
    """Finds the tools and makes what all guests need. Raises Unavailable."""
    required = dict(packages.REQUIRED)
    if options.qemu is not None:
        del required["qemu-system-x86_64"]
    if options.install:
        packages.install_missing(required)
    missing = packages.missing_programs(required)
    if missing:
        names = " ".join(missing.values())
        raise Unavailable(f"everything: this machine lacks {names} (--install gets them)")
    modules = checks.modules_of(SUITES)
    cache = options.cache.absolute()  # apt takes relative paths as relative to /
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--cache {cache}: {error.strerror}") from error
    kernel = KernelFinder(cache, options.kernel, options.install, modules).find()
    initramfs = InitramfsMaker(kernel, modules, work)
    given = options.qemu.absolute() if options.qemu is not None else None
    qemus = QemuFinder(given, cache, options.install)
    size = initramfs.make().stat().st_size / (1 << 20)
    report.note(f"kernel {kernel.version}, initramfs {size:.1f}M")
    return Settings(
        directory=work, scale=options.timeout_scale, sandbox=options.sandbox, kernel=kernel,
        initramfs=initramfs, qemus=qemus, kills=options.kills,
    )


def interrupt(number: int, frame: FrameType | None) -> None:
    """Turns SIGTERM into what Ctrl-C does, so that everything is cleaned up."""
    raise KeyboardInterrupt


def main() -> int:
    """Runs the command and returns its exit code."""
    options = parse_arguments()
    if options.list:
        list_checks()
        return 0
    signal.signal(signal.SIGTERM, interrupt)
    work = Path(tempfile.mkdtemp(prefix="qemu-guest."))
    try:
        return run(options, work)
    except (UsageError, CheckFailed) as error:
        print(f"qemu-guest: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    finally:
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
