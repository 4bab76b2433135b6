"""The lines that are printed for each check, and their count."""

import sys
import time


class Report:
    """Prints a PASS, FAIL or SKIP line for each result and counts them."""

    def __init__(self) -> None:
        self.current = "setup"
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self._noted: set[str] = set()
        self._started = time.monotonic()

    def passes(self, text: str) -> None:
        """Counts and prints a success."""
        self.passed += 1
        self._print("PASS", text)

    def fails(self, text: str) -> None:
        """Counts and prints a failure."""
        self.failed += 1
        self._print("FAIL", text)

    def skips(self, text: str) -> None:
        """Counts and prints what could not be checked, and why."""
        self.skipped += 1
        self._print("SKIP", text)

    def note(self, text: str) -> None:
        """Prints a line that is no result."""
        self._print("", text)

    def note_once(self, text: str) -> None:
        """Prints a line that is no result, unless it was printed before."""
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)

    def start_clock(self) -> None:
        """Sets the time from which `finish` counts."""
        self._started = time.monotonic()

    def finish(self) -> int:
        """Prints the total and returns the exit code."""
        self.current = "total"
        took = time.monotonic() - self._started
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        self.note(f"{counts} in {took:.1f} s")
        return 1 if self.failed else 0

    def _print(self, result: str, text: str) -> None:
        print(f"{result:<4}  {self.current:<9} {text}")
        sys.stdout.flush()
