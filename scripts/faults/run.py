"""Processes with a watchdog, and what may be said of their ends."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A run takes less than a second; this is for a machine that is busy.
WATCHDOG_S = 20.0
# More CPU time than this in one run is a spin.
SPIN_CPU_S = 6.0
PANIC = 101


@dataclass
class Ended:
    """The end of a process."""

    code: int  # negative for a signal, as in subprocess
    stdout: str
    stderr: str
    cpu_s: float
    hung: bool


class Process:
    """A command in a process group of its own, with its output in files."""

    def __init__(self, command: Sequence[str], directory: Path, name: str) -> None:
        self.out, self.err = directory / f"{name}.out", directory / f"{name}.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True, cwd=directory)
        self.hung = False
        self.ended: Ended | None = None

    def log(self) -> str:
        """What it has written to stderr so far."""
        return self.err.read_text(errors="replace")

    def kill(self) -> None:
        """Ends the process group, which only this object has."""
        if self.ended is None:
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def has_ended(self) -> bool:
        """Looks, and collects the result."""
        if self.ended is None:
            pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
            if pid:
                self._collect(status, usage.ru_utime + usage.ru_stime)
        return self.ended is not None

    def wait(self, seconds: float = WATCHDOG_S) -> Ended:
        """Waits for the end, and brings it about when the time is over."""
        if self.ended is None:
            def expire() -> None:
                self.hung = True
                self.kill()
            timer = threading.Timer(seconds, expire)
            timer.start()
            _, status, usage = os.wait4(self.child.pid, 0)
            timer.cancel()
            self._collect(status, usage.ru_utime + usage.ru_stime)
        assert self.ended is not None
        return self.ended

    def _collect(self, status: int, cpu_s: float) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.child.returncode = code
        self.ended = Ended(code, self.out.read_text(errors="replace"), self.log(), cpu_s, self.hung)


def wait_until(condition, seconds: float = WATCHDOG_S, interval: float = 0.01) -> bool:
    """Polls `condition`. Returns false if the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


def cpu_of(pid: int) -> float:
    """The CPU time of a process so far, in seconds; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def normal(line: str) -> str:
    """A line without what differs from run to run."""
    return re.sub(r"\d[\d.,]*", "#", re.sub(r"0x[0-9a-f]+", "#", line))


def names_what_failed(message: str, call: str) -> bool:
    """Whether an error message says more than what strerror(3) says."""
    if re.search(rf"\b{call.removeprefix('rt_').rstrip('0123456789')}", message):
        return True
    # The last part, behind the colons, is the reason; before it stands what was attempted.
    without = re.sub(r"\(os error \d+\)", "", message)
    for number in range(1, 134):
        without = without.replace(os.strerror(number), "")
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"^[\w-]+: ", "", without.strip()))
    return len(words) >= 2


def crash(ended: Ended) -> str | None:
    """What is never allowed, whatever failed."""
    if ended.hung:
        kind = "spin" if ended.cpu_s > WATCHDOG_S / 2 else "hang"
        return f"{kind}: still running after {WATCHDOG_S:.0f} s, {ended.cpu_s:.1f} s of CPU time"
    if ended.cpu_s > SPIN_CPU_S:
        return f"spin: {ended.cpu_s:.1f} s of CPU time"
    if ended.code == PANIC or "panicked at" in ended.stderr:
        _, _, panic = ended.stderr.rpartition("panicked at")
        return "panic: " + " ".join(panic.split())[:300]
    if ended.code < 0 or ended.code > 128 and ended.code != 130:
        return f"killed by signal {-ended.code if ended.code < 0 else ended.code - 128}: " + ended.stderr[-300:].strip()
    return None
