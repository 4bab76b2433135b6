"""Finds a QEMU that has the device a check needs."""

import re
import tempfile
from pathlib import Path

from . import packages
from .errors import CheckFailed, Unavailable
from .image import publish
from .process import run_tool

# The first of Debian's suites whose QEMU (11.1) has vhost-user-test-device, and its base.
SUITES = ["trixie", "trixie-backports"]
PREFIX = f"qemu-{SUITES[-1]}"
VERSION_TIMEOUT = 60.0
UNPACK_TIMEOUT = 300.0

# Programs of a newer suite need that suite's libraries and loader.
WRAPPER = """#!/bin/sh
# Runs the QEMU of this directory with its own loader, libraries, modules and firmware.
here=$(cd "$(dirname "$0")" && pwd)
libraries=$here/usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" \\
  "$here/usr/bin/qemu-system-x86_64" -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
"""


Version = tuple[int, int]


class Qemu:
    """A QEMU binary: what it is and what it can do."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        match = re.match(
            r"(QEMU emulator version (\d+)\.(\d+).*)",
            run_tool([binary, "--version"], VERSION_TIMEOUT),
        )
        if match is None:
            raise CheckFailed(f"{binary} is not QEMU")
        self.title = match[1]
        self.version: Version = (int(match[2]), int(match[3]))

    def device(self, names: tuple[str, ...]) -> str | None:
        """Returns the first of these devices that this QEMU has."""
        return next((name for name in names if self._has(name)), None)

    def _has(self, name: str) -> bool:
        # Not "-device help": for the whole list QEMU loads all its modules, and an unpacked one
        # finds those of this machine's QEMU, which are no match.
        try:
            help_text = run_tool([self.binary, "-device", f"{name},help"], VERSION_TIMEOUT)
        except CheckFailed:
            return False
        return f"{name} options" in help_text

    @property
    def reconnect(self) -> str:
        """The option of a socket chardev that makes QEMU connect again, as soon as it can."""
        # reconnect= (in seconds) is deprecated since 9.2, which has reconnect-ms.
        return "reconnect-ms=250" if self.version >= (9, 2) else "reconnect=1"


class QemuFinder:
    """Finds a QEMU: a given one alone, or this machine's, or a newer one in the cache."""

    def __init__(self, given: Path | None, cache: Path, install: bool) -> None:
        self._given = given
        self._cache = cache
        self._install = install
        self._known: dict[Path, Qemu] = {}

    def find(
        self, devices: tuple[str, ...], before: Version | None, since: Version | None = None
    ) -> tuple[Qemu, str]:
        """Returns a QEMU and the first of `devices` that it has.

        It is older than `before` and not older than `since`, if they are given. Raises Unavailable
        if there is none.
        """
        tried = []
        for binary in self._candidates():
            if binary not in self._known:
                self._known[binary] = Qemu(binary)
            qemu = self._known[binary]
            device = qemu.device(devices)
            fits = (before is None or qemu.version < before) and qemu.version >= (since or (0, 0))
            if device is not None and fits:
                return qemu, device
            tried.append(qemu.title)
        wanted, hint = " or ".join(devices), "--qemu takes a binary"
        if before is not None:
            wanted += f" in a QEMU before {before[0]}.{before[1]}"
        elif since is not None:
            wanted += f" in a QEMU since {since[0]}.{since[1]}"
        if before is None and self._given is None:
            if self._install and not self._prefix().exists():
                self._fill_prefix()
                return self.find(devices, before, since)
            hint = "--install gets a newer QEMU, " + hint
        raise Unavailable(f"no {wanted} here, only {', '.join(tried) or 'nothing'} ({hint})")

    def _prefix(self) -> Path:
        return self._cache / PREFIX / "qemu-system-x86_64"

    def _candidates(self) -> list[Path]:
        if self._given is not None:
            return [self._given]
        binaries = [packages.find_program("qemu-system-x86_64"), self._prefix()]
        return [binary for binary in binaries if binary is not None and binary.exists()]

    def _fill_prefix(self) -> None:
        """Unpacks a newer QEMU and all that it needs into the cache; nothing is installed."""
        print(f"downloading QEMU of {SUITES[-1]} to {self._cache / PREFIX}", flush=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix="downloading-") as directory:
            prefix = Path(directory, "prefix")
            prefix.mkdir()
            for package in packages.download_closure("qemu-system-x86", SUITES, Path(directory)):
                run_tool(["dpkg-deb", "-x", package, prefix], UNPACK_TIMEOUT)
            wrapper = prefix / "qemu-system-x86_64"
            wrapper.write_text(WRAPPER)
            wrapper.chmod(0o755)
            Qemu(wrapper)  # raises if it does not run
            publish(prefix, self._cache / PREFIX)
