"""Finds a QEMU that has the device a check needs."""

import re
import subprocess
import tempfile
from pathlib import Path

from . import packages
from .errors import CheckFailed, Unavailable
from .image import publish
from .process import run_tool

# The first of Debian's suites whose QEMU (11.1) has vhost-user-test-device, with the one it builds on.
SUITES = ["trixie", "trixie-backports"]
PREFIX = f"qemu-{SUITES[-1]}"
VERSION_TIMEOUT = 60.0
UNPACK_TIMEOUT = 300.0

# Programs of a newer suite need that suite's libraries and loader.
WRAPPER = """#!/bin/sh
# Runs the QEMU of this directory with the loader, libraries, modules and firmware of this directory.
here=$(cd "$(dirname "$0")" && pwd)
libraries=$here/usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$here/usr/bin/qemu-system-x86_64" \\
  -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
"""


class Qemu:
    """A QEMU binary: what it is and what it can do."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.title = run_tool([binary, "--version"], VERSION_TIMEOUT).splitlines()[0]
        match = re.search(r"version (\d+)\.(\d+)", self.title)
        if match is None:
            raise CheckFailed(f"{binary} is no QEMU: it says {self.title!r}")
        self.version = (int(match[1]), int(match[2]))
        listing = run_tool([binary, "-device", "help"], VERSION_TIMEOUT)
        self._devices = set(re.findall(r'^name "([^"]+)"', listing, re.MULTILINE))

    def device(self, names: tuple[str, ...]) -> str | None:
        """Returns the first of these devices that this QEMU has."""
        return next((name for name in names if name in self._devices), None)

    @property
    def reconnect(self) -> str:
        """The option of a socket chardev that makes QEMU connect again, as soon as it can."""
        # reconnect= (in seconds) is deprecated since 9.2, which has reconnect-ms.
        return "reconnect-ms=250" if self.version >= (9, 2) else "reconnect=1"


class QemuFinder:
    """Finds a QEMU: a given one alone, or this machine's, or one from newer packages in the cache."""

    def __init__(self, given: Path | None, cache: Path, install: bool) -> None:
        self._given = given
        self._cache = cache
        self._install = install
        self._known: dict[Path, Qemu] = {}

    def find(self, devices: tuple[str, ...]) -> tuple[Qemu, str]:
        """Returns a QEMU and the device it has, the first of `devices`. Raises Unavailable."""
        tried = []
        for binary in self._candidates():
            if binary not in self._known:
                self._known[binary] = Qemu(binary)
            qemu = self._known[binary]
            device = qemu.device(devices)
            if device is not None:
                return qemu, device
            tried.append(qemu.title)
        if self._given is None and self._install and not self._prefix().exists():
            self._fill_prefix()
            return self.find(devices)
        reason = f"no QEMU with {' or '.join(devices)}"
        if tried:
            reason += f": {'; '.join(tried)} has none"
        raise Unavailable(f"{reason} (--install gets a newer one, --qemu takes a binary)")

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
        self._cache.mkdir(parents=True, exist_ok=True)
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
