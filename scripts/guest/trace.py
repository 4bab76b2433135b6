"""strace(1) on a daemon: to see its system calls, or to delay them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import packages
from .errors import Unavailable
from .process import Process, wait_until

ATTACH_TIMEOUT = 10.0


def available() -> bool:
    """Returns true if this machine has strace."""
    return packages.find_program("strace") is not None


@contextmanager
def attached(pid: int, trace: Path, scale: float, *options: str) -> Iterator[None]:
    """Traces all threads of a process into `trace`. Raises Unavailable if that is not allowed."""
    if not available():
        raise Unavailable("no strace here to look with")
    command = ["strace", "-f", "-qq", *options, "-o", str(trace), "-p", str(pid)]
    with Process(command, trace.with_suffix(".strace")) as tracer:
        wait_until(lambda: _is_traced(pid) or not tracer.alive, ATTACH_TIMEOUT * scale)
        if not tracer.alive:
            raise Unavailable(f"strace may not attach: {tracer.last_words()}")
        yield


def _is_traced(pid: int) -> bool:
    """Returns true if every thread of the process has a tracer."""
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    except OSError:
        return False
    return bool(tasks) and not any("\nTracerPid:\t0\n" in task for task in tasks)
