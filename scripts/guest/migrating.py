"""A guest that moves from one QEMU to another while it runs."""

import time
from collections.abc import Callable
from pathlib import Path

from .errors import CheckFailed
from .machine import END_TIMEOUT, MONITOR_TIMEOUT, Hardware, Machine
from .process import Process, wait_until
from .qmp import Monitor
from .ram import pages_that_differ

MIGRATION_TIMEOUT = 180.0
# In bytes per second and milliseconds: slow enough for the guest to change much of its memory
# meanwhile, and with a pause that a machine without KVM can keep.
PARAMETERS = {"max-bandwidth": 100 << 20, "downtime-limit": 1000}
# The first QEMU that sends all pages that an emulated processor writes (its commit 03bfc2188f06).
# An older one was seen to lose some, also with its own virtio-blk and with one processor.
KEEPS_PAGES = (9, 0)


class MigratingMachine(Machine):
    """A machine that its guest can leave, or that waits for a guest."""

    # A page that the kernel clears when it allocates it is sent again anyway, whether or not the
    # device marks what it writes there soon after.
    kernel_options = f"{Machine.kernel_options} init_on_alloc=0"

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
        return [*super().command_line(), *incoming]

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
        syncs = self._send(other, meanwhile)
        self._leave_to(other)
        return syncs

    def migrate_and_compare(
        self, other: "MigratingMachine", meanwhile: Callable[[], None]
    ) -> tuple[int, list[int]]:
        """Like `migrate_to`, but holds the guest when it is there, and compares its memory.

        Returns also the numbers of the pages that are not what they were when the guest left.
        """
        assert self._process is not None and other._process is not None
        other.execute("stop")  # before the guest is there: it does not start when it comes
        syncs = self._send(other, meanwhile)
        if not wait_until(lambda: other._status() == "paused", MONITOR_TIMEOUT * self._scale):
            raise CheckFailed(f"the guest does not arrive (QEMU: {other._status()})")
        differ = pages_that_differ(self._process.pid, other._process.pid)
        other.execute("cont")
        self._leave_to(other)
        return syncs, differ

    def _send(self, other: "MigratingMachine", meanwhile: Callable[[], None]) -> int:
        self.execute("migrate-set-parameters", **PARAMETERS)
        self.execute("migrate", uri=f"unix:{other._incoming}")
        deadline = time.monotonic() + MIGRATION_TIMEOUT * self._scale
        while (state := self.execute("query-migrate"))["status"] != "completed":
            if state["status"] in ("failed", "cancelled"):
                raise CheckFailed(f"the migration failed: {state.get('error-desc', state)}")
            if time.monotonic() > deadline:
                raise CheckFailed(f"the migration does not end: {state}")
            meanwhile()
        return int(state["ram"]["dirty-sync-count"])

    def _leave_to(self, other: "MigratingMachine") -> None:
        assert self._process is not None
        self.execute("quit")
        if self._process.wait(END_TIMEOUT * self._scale) is None:
            raise CheckFailed("QEMU does not end after the migration")
        agent = self.agent
        agent.move_to(other._line)
        other.agent = agent
