"""Cells that are expected to fail, with the reasons. The script lists them, and they do not make it
fail."""

import re
from dataclasses import dataclass

from plan import Cell


@dataclass(frozen=True)
class Known:
    """Cells of which all three texts match a pattern."""

    program: str
    cell: str  # CALL:FAULT:when=WHEN
    result: str
    reason: str


KNOWN = [
    Known(".*", "(mmap|munmap|brk|mremap|mprotect):.*", "memory allocation of|killed by signal 6",
          "the standard library aborts when an allocation fails"),
    Known(".*", "write:error=EBADF:.*", "^exit 0 without",
          "the standard library takes EBADF from stdout and stderr as success"),
    Known("loop .*", r"write:error=\w+:when=\d+\+", "LOST: .* (bottom halves|pairs of closures)",
          "aio: a wake-up of the loop that fails three times is left to the next producer"),
    Known("server .*", "sendmsg:error=(EPIPE|ECONNRESET):.*", "the peer closed the connection.*no reason",
          "the kernel says that the peer closed the connection, which is no fault to log"),
    Known("bench .*", "write:signal=SIGINT:.*", "^killed by signal 2",
          "the second SIGINT ends bench at once, and strace sends one to each thread that writes"),
    Known("bench .*", "prlimit64:.*", "^panic: .*rustix",
          "rustix, in a debug build: getrlimit(2) has no error for valid arguments"),
    Known("(bench|server) .*", "close:.*", "^panic: .*closedir",
          "the standard library panics if closedir(3) fails"),
    Known("bench .*", "write:.*", "^panic: .*write to an irqfd",
          "virtio-blk-sim, in a debug build: an error of the write(2) to an irqfd is asserted away"),
    Known("server .*", "write:.*", "^load .: hang",
          "virtio-blk-sim: the error of the write(2) to an interrupt's eventfd is not looked at (a full "
          "one, EAGAIN, has an interrupt pending)"),
    Known("bench .*", "write:.*", "the guest hangs|^hang",
          "virtio-blk-sim: the same, in the device that bench runs"),
]


def reason(program: str, cell: Cell, why: str) -> str | None:
    """Why this failure is known, or `None`."""
    name = f"{cell.call}:{cell.fault}:when={cell.when}"
    for entry in KNOWN:
        if re.match(entry.program, program) and re.match(entry.cell, name) and re.search(entry.result, why):
            return entry.reason
    return None
