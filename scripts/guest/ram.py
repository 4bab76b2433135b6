"""The memory of a guest, as its QEMU has it in a memfd (see machine.py)."""

import os
from contextlib import ExitStack
from pathlib import Path

from .errors import CheckFailed

PAGE = 4096
CHUNK = 1 << 20


def pages_that_differ(one: int, other: int) -> list[int]:
    """Returns the numbers of the pages in which the guests of two QEMU processes differ.

    Both guests are stopped and have equally much memory, a multiple of a MiB.
    """
    found: list[int] = []
    with ExitStack() as stack:
        files = [stack.enter_context(_memory(pid).open("rb", buffering=0)) for pid in (one, other)]
        for start in range(0, os.fstat(files[0].fileno()).st_size, CHUNK):
            left, right = (os.pread(file.fileno(), CHUNK, start) for file in files)
            if left != right:
                ranges = [slice(at, at + PAGE) for at in range(0, CHUNK, PAGE)]
                found += [(start + it.start) // PAGE for it in ranges if left[it] != right[it]]
    return found


def _memory(pid: int) -> Path:
    """Returns a path by which the memory can be opened."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).startswith("/memfd:memory-backend-memfd"):
            return link
    raise CheckFailed("QEMU has no memfd for the guest's memory")
