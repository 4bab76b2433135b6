"""A vhost-user daemon under test: started, asked to end, killed, and started again."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import CheckFailed
from .process import Process, wait_until

START_TIMEOUT = 10.0
END_TIMEOUT = 30.0
LISTENING = 0x10000  # __SO_ACCEPTCON, in the flags of /proc/net/unix


def listeners(path: Path) -> set[str]:
    """Returns the inodes of the sockets that listen at `path`."""
    found = set()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        # Num RefCount Protocol Flags Type St Inode Path
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path) and int(fields[3], 16) & LISTENING:
            found.add(fields[6])
    return found


class Daemon:
    """A daemon with its command line and log. Entering starts it; leaving stops what still runs.

    A kill leaves the socket file behind, for the next start to replace.
    """

    def __init__(
        self, command: Sequence[str | Path], socket: Path, log: Path, scale: float,
        terminal: int | None = None,
    ) -> None:
        self._command = command
        self._socket = socket
        self._scale = scale
        self._stdin = os.open(os.devnull, os.O_RDONLY) if terminal is None else os.dup(terminal)
        self.log = log
        self._process: Process | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            os.close(self._stdin)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self.kill()
            os.close(self._stdin)

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        if self._process is None:
            raise CheckFailed("the daemon does not run")
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it listens. Raises CheckFailed if it does not."""
        before = listeners(self._socket)
        process = self._process = Process(self._command, self.log, self._stdin)
        # Not the socket file: a killed daemon's may still be there.
        started = wait_until(
            lambda: bool(listeners(self._socket) - before) or not process.alive,
            START_TIMEOUT * self._scale,
        )
        if not started or not process.alive:
            raise CheckFailed(f"{process.name} does not listen: {process.last_words()}")

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Asks it to end by SIGTERM. Raises CheckFailed if its exit status is not 0."""
        if self._process is None:
            return
        process, self._process = self._process, None
        status = process.end(timeout=END_TIMEOUT * self._scale)
        if status != 0:
            raise CheckFailed(f"{process.name} ended with status {status}: {process.last_words()}")

    def kill(self) -> None:
        """Ends it by SIGKILL, in the middle of whatever it does."""
        if self._process is not None:
            process, self._process = self._process, None
            process.end(signal.SIGKILL)

    def restart(self) -> None:
        """Kills it and starts it again."""
        self.kill()
        self.start()
