"""Lists the vhost-user messages that a daemon receives, from a trace of its recvmsg(2)."""

import re
import struct
from pathlib import Path

from .process import read_log

# What trace.attached() needs to see them: each byte of each message in hexadecimal.
OPTIONS = ("-e", "trace=recvmsg", "-xx", "-s", "8192")

HEADER = struct.Struct("=III")
NAMES = {
    1: "GET_FEATURES", 2: "SET_FEATURES", 3: "SET_OWNER", 4: "RESET_OWNER", 5: "SET_MEM_TABLE",
    6: "SET_LOG_BASE", 7: "SET_LOG_FD", 8: "SET_VRING_NUM", 9: "SET_VRING_ADDR",
    10: "SET_VRING_BASE", 11: "GET_VRING_BASE", 12: "SET_VRING_KICK", 13: "SET_VRING_CALL",
    14: "SET_VRING_ERR", 15: "GET_PROTOCOL_FEATURES", 16: "SET_PROTOCOL_FEATURES",
    17: "GET_QUEUE_NUM", 18: "SET_VRING_ENABLE", 21: "SET_BACKEND_REQ_FD", 24: "GET_CONFIG",
    25: "SET_CONFIG", 31: "GET_INFLIGHT_FD", 32: "SET_INFLIGHT_FD", 34: "RESET_DEVICE",
    36: "GET_MAX_MEM_SLOTS", 37: "ADD_MEM_REG", 38: "REM_MEM_REG", 39: "SET_STATUS",
    40: "GET_STATUS",
}
NOFD = 0x100  # in SET_VRING_KICK and its siblings
CALL = re.compile(r'recvmsg\((\d+), .*?msg_iov=\[(.*?)\], msg_iovlen.* = (\d+)$')
PIECE = re.compile(r'iov_base="((?:\\x[0-9a-f]{2})*)"')


class Message:
    """A request of a frontend."""

    def __init__(self, number: int, body: bytes) -> None:
        self.number = number
        self.body = body
        self.name = NAMES.get(number, f"message {number}")

    @property
    def text(self) -> str:
        """The name, with the value where it matters: NOFD, on or off, a status, features."""
        if self.number in (12, 13, 14) and self._word() & NOFD:
            return f"{self.name} NOFD"
        if self.number == 18:
            return f"{self.name} {int.from_bytes(self.body[4:8], 'little')}"
        if self.number in (2, 16, 39):
            return f"{self.name} {self._word():#x}"
        return self.name

    def _word(self) -> int:
        return int.from_bytes(self.body[:8], "little")


def received(trace: Path) -> list[Message]:
    """Returns the messages in a trace, in their order for each descriptor."""
    streams: dict[str, bytes] = {}
    for line in read_log(trace).splitlines():
        call = CALL.search(line)
        if call is not None:
            data = "".join(PIECE.findall(call[2])).replace("\\x", "")
            streams[call[1]] = streams.get(call[1], b"") + bytes.fromhex(data)[:int(call[3])]
    return [message for stream in streams.values() for message in _parse(stream)]


def _parse(stream: bytes) -> list[Message]:
    messages = []
    while len(stream) >= HEADER.size:
        number, _, size = HEADER.unpack_from(stream)
        messages.append(Message(number, stream[HEADER.size:HEADER.size + size]))
        stream = stream[HEADER.size + size:]
    return messages


def summary(messages: list[Message]) -> str:
    """Returns each different text with its count, in the order of first appearance."""
    counts: dict[str, int] = {}
    for message in messages:
        counts[message.text] = counts.get(message.text, 0) + 1
    return ", ".join(f"{text} x{count}" for text, count in counts.items())
