"""What a check works with: daemons, guests, and a place for its results."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .agent import Agent
from .daemon import Daemon
from .device import Device
from .errors import CheckFailed, Unavailable
from .firmware import Firmware, FirmwareMachine, printed_command, write_boot_disk
from .image import InitramfsMaker, Kernel
from .machine import Hardware, Machine
from .migrating import KEEPS_PAGES, MigratingMachine
from .process import is_program, log_end
from .qemu import QemuFinder, Version
from .report import Report


@dataclass(frozen=True)
class Settings:
    """What holds for all checks of a run."""

    directory: Path  # for sockets, images and logs
    scale: float  # all timeouts are multiplied by it
    sandbox: str  # on, off, or empty for the daemon's default
    kernel: Kernel
    initramfs: InitramfsMaker
    qemus: QemuFinder
    kills: int  # how often the check fio kills the server


class Lab:
    """The surroundings of one check, named `name`, of one device kind."""

    def __init__(
        self, name: str, device: Device, daemon: Path, settings: Settings, report: Report
    ) -> None:
        self.name = name
        self.directory = settings.directory
        self.scale = settings.scale
        self.kills = settings.kills
        self.report = report
        self._device = device
        self._daemon = daemon
        self._settings = settings
        self._numbers = itertools.count(1)
        self._daemon_log: Path | None = None
        self._guest_words: list[str] = []

    def expect(self, what: str, got: object, wanted: object) -> None:
        """Passes if both are equal as text."""
        if str(got) == str(wanted):
            self.report.passes(f"{what}: {got}")
        else:
            self.report.fails(f"{what}: {got if str(got) else 'nothing'}, expected {wanted}")

    def expect_true(self, what: str, condition: bool, found: str = "") -> None:
        """Passes if the condition holds; otherwise the line has what was found instead."""
        if condition:
            self.report.passes(what)
        else:
            self.report.fails(f"{what}: not so{f' ({found})' if found else ''}")

    def daemon(
        self, *arguments: str | Path, terminal: int | None = None, socket: Path | None = None
    ) -> Daemon:
        """Returns the device's daemon with these arguments; its context starts and ends it.

        `terminal` becomes its standard input; `socket` is where it listens, if not in the usual
        place.
        """
        socket = socket or self.socket
        if not is_program(self._daemon):
            raise Unavailable(f"no daemon at {self._daemon}: {self._device.build}")
        log = self._daemon_log = self._log_name("server")
        sandbox = self._settings.sandbox if self._device.has_sandbox else ""
        if sandbox:
            arguments = (*arguments, "--sandbox", sandbox)
        command = [self._daemon, "--socket", socket, *arguments]
        return Daemon(command, socket, log, self.scale, terminal)

    @contextmanager
    def guest(
        self, properties: str = "", programs: tuple[str, ...] = (), restarts: bool = False
    ) -> Iterator[Agent]:
        """Boots a guest, gives its agent, and at the end lets it power off.

        `properties` are added to QEMU's device, `programs` of this machine to the guest's /bin.
        With `restarts` the QEMU is one that survives the daemon's end.
        """
        with self.machine(properties, programs, restarts) as machine:
            yield machine.agent

    @contextmanager
    def machine(
        self, properties: str = "", programs: tuple[str, ...] = (), restarts: bool = False,
        options: tuple[str, ...] = (),
    ) -> Iterator[Machine]:
        """Like `guest`, but gives the machine. `options` are added to QEMU's command line."""
        before = self._device.restarts_before if restarts else None
        hardware = self._hardware(before, properties, programs, options)
        machine = Machine(
            hardware, self.directory, self._log_name("guest"), self.scale, self._device.prelude
        )
        with self._running(machine):
            yield machine

    def migrating_machine(
        self, name: str, socket: Path, properties: str, programs: tuple[str, ...], waits: bool
    ) -> MigratingMachine:
        """Returns a machine whose guest can be migrated, with the daemon at `socket`.

        If it `waits`, it boots no guest, and gets one by migration. Its context starts and ends it.
        Raises Unavailable if there is no QEMU that keeps all of its pages.
        """
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        found = self._hardware(None, properties, programs, since=KEEPS_PAGES)
        hardware = replace(found, socket=socket)
        return MigratingMachine(
            hardware, directory, self._log_name("guest"), self.scale, self._device.prelude, waits
        )

    @contextmanager
    def boot(self, firmware: Firmware) -> Iterator[Machine]:
        """Boots a guest from the disk, with the QEMU line that the daemon's --help prints.

        Yields the machine, and at the end lets it power off.
        """
        hardware = self._hardware(None, "", ())
        printed = printed_command(self._daemon, hardware.qemu.binary, self.socket)
        machine = FirmwareMachine(
            hardware, self.directory, self._log_name("guest"), self.scale, self._device.prelude,
            printed, firmware,
        )
        with self._running(machine):
            yield machine

    def write_boot_disk(self, path: Path) -> None:
        """Writes an image from which a firmware boots the kernel of these guests."""
        settings = self._settings
        write_boot_disk(path, settings.kernel, settings.initramfs.make(), self.directory)

    def _hardware(
        self, before: Version | None, properties: str, programs: tuple[str, ...],
        options: tuple[str, ...] = (), since: Version | None = None,
    ) -> Hardware:
        qemu, device = self._settings.qemus.find(self._device.qemu_devices, before, since)
        self.report.note_once(qemu.title)
        chosen = [device, "chardev=device", self._device.properties, properties]
        return Hardware(
            qemu=qemu, kernel=self._settings.kernel,
            initramfs=self._settings.initramfs.make(programs),
            device=",".join(part for part in chosen if part), socket=self.socket,
            plugged_late=self._device.plugged_late, modules=self._device.modules,
            node=self._device.node, options=options,
        )

    @contextmanager
    def _running(self, machine: Machine) -> Iterator[None]:
        try:
            with machine:
                yield
                self.report.note(machine.power_off())
        except CheckFailed:
            self._guest_words = machine.last_words()
            raise

    def last_words(self) -> list[str]:
        """Returns the ends of the logs of the daemon and the guest, to explain a failure."""
        words = list(self._guest_words)
        if self._daemon_log is not None:
            words += log_end(self._daemon_log)
        return words

    @property
    def daemon_log(self) -> Path:
        """What the daemon of this check prints."""
        assert self._daemon_log is not None  # lab.daemon() comes first
        return self._daemon_log

    @property
    def socket(self) -> Path:
        """Where the daemon of a check listens."""
        return self.directory / "device.sock"

    def _log_name(self, suffix: str) -> Path:
        return self.directory / f"{self.name}-{next(self._numbers)}.{suffix}"
