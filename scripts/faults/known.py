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
    Known("loop .*", "write:.*", "LOST: .* (bottom halves|pairs of closures)",
          "aio: a wake-up of the loop from another thread does not look at the error of its write(2)"),
]


def reason(program: str, cell: Cell, why: str) -> str | None:
    """Why this failure is known, or `None`."""
    name = f"{cell.call}:{cell.fault}:when={cell.when}"
    for entry in KNOWN:
        if re.match(entry.program, program) and re.match(entry.cell, name) and re.search(entry.result, why):
            return entry.reason
    return None
