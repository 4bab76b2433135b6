"""A client for QEMU's monitor (QMP: JSON over a socket)."""

import json
import socket
from typing import Any

from .errors import CheckFailed


class Monitor:
    """A QMP session on a connected socket. Events are ignored."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        connection.settimeout(timeout)
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Runs a command and returns its result. Raises CheckFailed if QEMU refuses or is gone."""
        message = {"execute": command, "arguments": arguments}
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise CheckFailed(f"QEMU's monitor is gone: {error}") from error
        while True:
            answer = self._read()
            if "error" in answer:
                raise CheckFailed(f"QEMU refuses {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """Closes the connection."""
        self._lines.close()
        self._connection.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
            answer = json.loads(line) if line else None
        except (OSError, ValueError) as error:
            raise CheckFailed(f"QEMU's monitor does not answer: {error}") from error
        if not isinstance(answer, dict):
            raise CheckFailed("QEMU's monitor is gone")
        return answer
