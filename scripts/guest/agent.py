"""Runs shell commands in the guest over its second serial port; guest/init.sh is the other side."""

import base64
import re
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import CheckFailed


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit status and what it printed to its standard output."""

    status: int
    output: str


class Command:
    """A command that runs in the guest. `finish` must be called before the next command starts."""

    def __init__(self, agent: "Agent", number: int, text: str) -> None:
        self._agent = agent
        self._number = number
        self._name = text.strip().splitlines()[-1].strip()[:60]
        self._lines: list[str] = []
        self.status: int | None = None

    def lines(self, timeout: float) -> Iterator[str]:
        """Yields each line as the command prints it, until it ends, within the timeout."""
        deadline = time.monotonic() + timeout * self._agent.scale
        while self.status is None:
            output = self._take(self._agent.read_line(deadline, self._name))
            if output is not None:
                yield output

    def is_running(self) -> bool:
        """Returns true if the guest has not yet sent the exit status; does not wait for it."""
        while self.status is None and self._agent.has_line():
            self._take(self._agent.read_line(time.monotonic() + 1, self._name))
        return self.status is None

    def wait_for(self, wanted: str, timeout: float) -> bool:
        """Waits for a line of output. Returns false if the command ended without it."""
        return any(line == wanted for line in self.lines(timeout))

    def finish(self, timeout: float) -> Result:
        """Waits for the end of the command and returns all that it printed."""
        for _ in self.lines(timeout):
            pass
        assert self.status is not None  # lines() ends no other way
        return Result(self.status, "\n".join(self._lines))

    def _take(self, line: str) -> str | None:
        """Takes a line of output, and returns it, or the exit status."""
        output, status = f"{self._number}:", f"{self._number}="
        if line.startswith(output):
            self._lines.append(line.removeprefix(output))
            return self._lines[-1]
        try:
            self.status = int(line.removeprefix(status))
        except ValueError as error:
            raise CheckFailed(f"the guest sent {line!r} during {self._name!r}") from error
        return None


class Agent:
    """The connection to the guest's init. Timeouts are in seconds and multiplied by `scale`."""

    def __init__(self, connection: socket.socket, scale: float, prelude: str = "") -> None:
        self.scale = scale
        self._connection = connection
        self._prelude = prelude
        self._buffer = b""
        self._commands = 0

    def wait_until_ready(self, timeout: float) -> float:
        """Waits for the end of the boot and returns the guest's uptime in seconds.

        What a firmware writes to the port before is skipped: OVMF uses each one as a console.
        """
        deadline = time.monotonic() + timeout * self.scale
        while True:
            line = self.read_line(deadline, "the boot")
            ready = re.search(r"ready=(\d+\.\d+)$", line)
            if ready is not None:
                return float(ready[1])

    def start(self, text: str) -> Command:
        """Starts a shell script in the guest, after the prelude of the device kind."""
        self._commands += 1
        encoded = base64.b64encode(f"{self._prelude}\n{text}\n".encode())
        try:
            self._connection.settimeout(60 * self.scale)
            self._connection.sendall(b"%d %s\n" % (self._commands, encoded))
        except OSError as error:
            raise CheckFailed(f"the guest takes no commands: {error}") from error
        return Command(self, self._commands, text)

    def run(self, text: str, timeout: float = 60) -> Result:
        """Runs a shell script in the guest to its end."""
        return self.start(text).finish(timeout)

    def succeeds(self, text: str, timeout: float = 60) -> bool:
        """Runs a shell script and returns true if its exit status is 0."""
        return self.run(text, timeout).status == 0

    def value(self, text: str, timeout: float = 60) -> str:
        """Runs a shell script that must succeed and returns its output."""
        result = self.run(text, timeout)
        if result.status != 0:
            name = text.strip().splitlines()[-1].strip()
            raise CheckFailed(f"{name!r} failed in the guest with status {result.status}")
        return result.output.strip()

    def move_to(self, connection: socket.socket) -> None:
        """Goes on with the guest on another connection, after the old one has ended.

        A command may be running: what the guest sent on the old connection comes first.
        """
        self._connection.settimeout(60 * self.scale)
        try:
            while received := self._connection.recv(65536):
                self._buffer += received
        except OSError as error:
            raise CheckFailed(f"the guest's old connection does not end: {error}") from error
        self._connection = connection

    def has_line(self) -> bool:
        """Returns true if a whole line has come; does not wait for one."""
        while b"\n" not in self._buffer:
            if not select.select([self._connection], [], [], 0)[0]:
                return False
            self._receive()
        return True

    def read_line(self, deadline: float, during: str) -> str:
        """Returns the next line that the guest sends."""
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CheckFailed(f"the guest did not answer in time: {during}")
            if select.select([self._connection], [], [], left)[0]:
                self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def _receive(self) -> None:
        try:
            received = self._connection.recv(65536)
        except OSError as error:
            raise CheckFailed(f"the guest is gone: {error}") from error
        if not received:
            raise CheckFailed("the guest has ended")
        self._buffer += received
