"""A guest that moves from one QEMU to another while it runs."""

import time
from collections.abc import Callable
from pathlib import Path

from .agent import Agent
from .errors import CheckFailed
from .machine import END_TIMEOUT, MONITOR_TIMEOUT, Hardware, Machine
from .process import Process
from .qmp import Monitor

MIGRATION_TIMEOUT = 180.0
# In bytes per second and milliseconds: slow enough for the guest to change much of its memory
# meanwhile, and with a pause that a machine without KVM can keep.
PARAMETERS = {"max-bandwidth": 100 << 20, "downtime-limit": 1000}


class MigratingMachine(Machine):
    """A machine that its guest can leave, or that waits for a guest."""

    def __init__(
        self, hardware: Hardware, directory: Path, log: Path, scale: float, prelude: str,
        waits: bool,
    ) -> None:
        super().__init__(hardware, directory, log, scale, prelude)
        self._waits = waits
        self._incoming = directory / "incoming.sock"

    def command_line(self) -> list[str | Path]:
        """Returns QEMU's command line."""
        incoming = ["-incoming", f"unix:{self._incoming}"] if self._waits else []
        # The last -smp counts. With two processors 2 of 7 runs ended in a broken guest (QEMU 7.2).
        # The cause is not known: neither QEMU's threads for several CPUs nor the server is cleared.
        return [*super().command_line(), "-smp", "1", *incoming]

    def _boot(self) -> None:
        if not self._waits:
            super()._boot()
            return
        agent, monitor = self._listen("agent.sock"), self._listen("monitor.sock")
        self._process = Process(self.command_line(), self._qemu_log)
        self._monitor = Monitor(self._accept(monitor), MONITOR_TIMEOUT * self._scale)
        self._line = self._accept(agent)

    def migrate_to(self, other: "MigratingMachine", meanwhile: Callable[[], None]) -> int:
        """Moves the guest to a machine that waits for it, and its agent with it.

        Calls `meanwhile` again and again until it is there. Returns how often QEMU collected the
        pages that had changed.
        """
        assert self._monitor is not None and self._process is not None
        self._monitor.execute("migrate-set-parameters", **PARAMETERS)
        self._monitor.execute("migrate", uri=f"unix:{other._incoming}")
        deadline = time.monotonic() + MIGRATION_TIMEOUT * self._scale
        while (state := self._monitor.execute("query-migrate"))["status"] != "completed":
            if state["status"] in ("failed", "cancelled"):
                raise CheckFailed(f"the migration failed: {state.get('error-desc', state)}")
            if time.monotonic() > deadline:
                raise CheckFailed(f"the migration does not end: {state}")
            meanwhile()
        self._monitor.execute("quit")
        if self._process.wait(END_TIMEOUT * self._scale) is None:
            raise CheckFailed("QEMU does not end after the migration")
        other._take(self.agent)
        return int(state["ram"]["dirty-sync-count"])

    def _take(self, agent: Agent) -> None:
        agent.move_to(self._line)
        self.agent = agent
