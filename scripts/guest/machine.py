"""A guest under QEMU, which emulates the processor (TCG), so it needs no /dev/kvm."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .agent import Agent
from .errors import CheckFailed
from .image import BASE_MODULES, Kernel
from .process import Process, log_end, wait_until
from .qemu import Qemu
from .qmp import Monitor

MEMORY = "768M"
BOOT_TIMEOUT = 120.0
POWER_OFF_TIMEOUT = 60.0
MONITOR_TIMEOUT = 30.0
END_TIMEOUT = 10.0


@dataclass(frozen=True)
class Hardware:
    """What a guest is made of."""

    qemu: Qemu
    kernel: Kernel
    initramfs: Path
    device: str  # QEMU's name for the device, with its properties
    plugged_late: bool  # see device.py
    socket: Path  # where the vhost-user daemon listens
    modules: tuple[str, ...]  # the device's drivers
    node: str  # the path that shows that the driver has found the device
    options: tuple[str, ...] = ()  # more of QEMU's command line


class Machine:
    """A running guest. Entering boots it; leaving ends it, whatever it does.

    `directory` takes its sockets, `log` is the path of its logs without their suffixes.
    """

    kernel_options = "console=ttyS0 loglevel=5 panic=-1"

    def __init__(
        self, hardware: Hardware, directory: Path, log: Path, scale: float, prelude: str = ""
    ) -> None:
        self._hardware = hardware
        self._directory = directory
        self._scale = scale
        self._prelude = prelude
        self.console = log.with_suffix(".console")
        self._qemu_log = log.with_suffix(".qemu")
        self._answers = log.with_suffix(".answers")
        self._listeners: list[socket.socket] = []
        self._connections: list[socket.socket] = []
        self._monitor: Monitor | None = None
        self._process: Process | None = None
        self._started = 0.0
        self._uptime = 0.0
        self.agent: Agent

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def power_off(self) -> str:
        """Lets the guest power itself off and returns how long it ran.

        Raises CheckFailed if it does not end.
        """
        assert self._process is not None
        self.agent.start("sync; poweroff -f")
        status = self._process.wait(POWER_OFF_TIMEOUT * self._scale)
        if status is None:
            raise CheckFailed(f"the guest does not power off (QEMU: {self._status()})")
        if status != 0:
            raise CheckFailed(f"QEMU ended with status {status}: {self._process.last_words()}")
        took = time.monotonic() - self._started
        return f"guest up after {self._uptime:.2f} s of its time, off after {took:.1f} s"

    def last_words(self) -> list[str]:
        """Returns the ends of the logs, to explain a failure."""
        return [line for log in (self.console, self._qemu_log) for line in log_end(log)]

    def _boot(self) -> None:
        agent, monitor = self._listen("agent.sock"), self._listen("monitor.sock")
        self._process = Process(self.command_line(), self._qemu_log)
        # QEMU connects first of all. It starts the guest only when the daemon has answered.
        try:
            self._monitor = Monitor(self._accept(monitor), MONITOR_TIMEOUT * self._scale)
            if self._hardware.plugged_late:
                self._plug(self._monitor)
            self.agent = Agent(self._accept(agent), self._scale, self._prelude)
            self._uptime = self.agent.wait_until_ready(BOOT_TIMEOUT)
        except CheckFailed as error:
            if self._process.wait(END_TIMEOUT if self._monitor is None else 0) is None:
                raise
            raise CheckFailed(f"QEMU does not start: {self._process.last_words()}") from error
        self._load_drivers()

    def reboot(self) -> None:
        """Lets the guest restart, and waits until it is up again."""
        self.agent.start("sync; reboot -f")
        self._uptime = self.agent.wait_until_ready(BOOT_TIMEOUT)
        self._load_drivers()

    def reset(self) -> None:
        """Resets the guest as its reset button does, and waits until it is up again."""
        self.execute("system_reset")
        self._uptime = self.agent.wait_until_ready(BOOT_TIMEOUT)
        self._load_drivers()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Runs a command of QEMU's monitor. Raises CheckFailed if QEMU refuses it."""
        assert self._monitor is not None
        return self._monitor.execute(command, **arguments)

    def _load_drivers(self) -> None:
        modules = " ".join((*BASE_MODULES, *self._hardware.modules))
        node = self._hardware.node
        found = self.agent.succeeds(f"""
            for module in {modules}; do
              [ ! -f /modules/$module.ko ] || insmod /modules/$module.ko || exit 1
            done
            for i in $(seq 100); do [ -e {node} ] && break; usleep 100000; done
            [ -e {node} ]""")
        if not found:
            raise CheckFailed(f"the guest has no {node}")

    def _plug(self, monitor: Monitor) -> None:
        """Plugs the device in once its chardev is connected, and starts the guest."""
        def is_connected() -> bool:
            chardevs = monitor.execute("query-chardev")
            names = [it.get("filename", "") for it in chardevs if it.get("label") == "device"]
            return bool(names) and not names[0].startswith("disconnected")

        if not wait_until(is_connected, MONITOR_TIMEOUT * self._scale):
            raise CheckFailed("QEMU does not connect to the daemon")
        driver, *properties = self._hardware.device.split(",")
        arguments: dict[str, str | int] = {"driver": driver, "id": "plugged"}
        for name, _, value in (text.partition("=") for text in properties):
            arguments[name] = int(value) if value.isdigit() else value
        monitor.execute("device_add", **arguments)
        monitor.execute("cont")

    def _listen(self, name: str) -> socket.socket:
        path = self._directory / name
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        self._listeners.append(listener)
        listener.bind(str(path))
        listener.listen(1)
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        assert self._process is not None
        deadline = time.monotonic() + MONITOR_TIMEOUT * self._scale
        listener.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if not self._process.alive:
                    break
                continue
            self._connections.append(connection)
            return connection
        raise CheckFailed("QEMU does not connect to the harness")

    def command_line(self) -> list[str | Path]:
        """Returns QEMU's command line."""
        it = self._hardware
        return [
            it.qemu.binary, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY,
            # The daemon maps the guest's memory, so it must be shared.
            "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on",
            "-numa", "node,memdev=memory",
            "-kernel", it.kernel.image, "-initrd", it.initramfs,
            "-append", self.kernel_options,
            *self.wires(), *it.options,
            "-chardev", f"socket,id=device,path={it.socket},{it.qemu.reconnect}",
            # Its vCPUs stay stopped until the device is there. PC's PCI bus takes it at any time.
            *(["-machine", "pc", "-S"] if it.plugged_late else ["-device", it.device]),
        ]

    def wires(self) -> list[str | Path]:
        """Returns the options that connect QEMU and the guest to the harness."""
        return [
            "-chardev", f"socket,id=monitor,path={self._directory / 'monitor.sock'}",
            "-mon", "chardev=monitor,mode=control",
            "-serial", f"file:{self.console}",
            "-chardev",
            f"socket,id=agent,path={self._directory / 'agent.sock'},logfile={self._answers}",
            "-serial", "chardev:agent",
        ]

    def _status(self) -> str:
        """Returns what QEMU says of the guest: running, paused, shutdown, ..."""
        assert self._monitor is not None
        try:
            return str(self._monitor.execute("query-status").get("status"))
        except CheckFailed as error:
            return str(error)

    def _end(self) -> None:
        if self._process is not None and self._process.alive and self._monitor is not None:
            try:
                self._monitor.execute("quit")
                self._process.wait(END_TIMEOUT)
            except CheckFailed:
                pass  # SIGTERM, and in the end SIGKILL, will do.
        if self._process is not None:
            self._process.end()
        if self._monitor is not None:
            self._monitor.close()
        for connection in (*self._connections, *self._listeners):
            connection.close()
