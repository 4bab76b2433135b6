"""Child processes that never outlive us, and bounded waiting."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import CheckFailed

PR_SET_PDEATHSIG = 1  # prctl(2)


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.05) -> bool:
    """Polls `condition` until it is true. Returns false if it is not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


def is_program(path: Path) -> bool:
    """Returns whether `path` is a file that may be executed."""
    return path.is_file() and os.access(path, os.X_OK)


def run_tool(command: Sequence[str | Path], timeout: float, cwd: Path | None = None) -> str:
    """Runs a command to its end and returns its output. Raises CheckFailed if it fails."""
    try:
        done = subprocess.run(
            command, timeout=timeout, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"{command[0]} did not end within {timeout:.0f} s") from error
    except OSError as error:
        raise CheckFailed(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise CheckFailed(f"{command[0]} failed: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def last_line(text: str) -> str:
    """Returns the last line that is not empty."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


class Process:
    """A child process whose output goes to a log file. Leaving its context ends it."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, stdin: int = subprocess.DEVNULL
    ) -> None:
        self.name = Path(command[0]).name
        self.log = log
        libc = ctypes.CDLL(None)
        with log.open("ab") as output:
            try:
                # A session of its own, so that Ctrl-C on the terminal reaches us alone and we end
                # the children in order. Should we be killed, the kernel kills them.
                self._child = subprocess.Popen(
                    command, stdin=stdin, stdout=output, stderr=output, start_new_session=True,
                    preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
                )
            except OSError as error:
                raise CheckFailed(f"{command[0]} cannot be run: {error.strerror}") from error
        self.pid = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def alive(self) -> bool:
        """True while the process has not ended."""
        return self._child.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal; does nothing if the process has ended."""
        self._child.send_signal(number)

    def wait(self, timeout: float) -> int | None:
        """Returns the exit status, negative for a signal, or None after the timeout."""
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10) -> int:
        """Sends a signal, then SIGKILL if that was not enough, and returns the exit status."""
        try:
            self.send_signal(number)
            status = self.wait(timeout)
            if status is not None:
                return status
        finally:
            if self.alive:
                self._child.kill()
                self._child.wait()
        return self._child.returncode

    def last_words(self) -> str:
        """Returns the last line of the log."""
        return last_line(read_log(self.log))


def read_log(path: Path) -> str:
    """Returns the text of a log; an absent one is empty."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def log_end(path: Path) -> list[str]:
    """Returns the last three lines of a log."""
    return read_log(path).strip().splitlines()[-3:]


def search_path(environment: Mapping[str, str] = os.environ) -> str:
    """Returns PATH with the directories of system programs, which users may not have there."""
    return environment.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
