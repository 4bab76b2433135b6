"""What is tried: the calls that a program makes, and the faults of each."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# Nothing that a program could do about an error here.
LEFT_OUT = {
    "execve": "starts the program",
    "exit": "has no error",
    "exit_group": "has no error",
    "rt_sigreturn": "has no error",
    "restart_syscall": "made by the kernel",
}
# Errors are not injected, signals and delays are.
NO_ERRORS = {
    "clock_gettime": "it has no error for a valid clock and address",
    "uname": "it has no error for a valid address",
    "brk": "the kernel reports a failure by returning the old end of the heap",
    "futex": "the standard library and glibc take a FUTEX_WAKE as done, which never fails for a valid address",
}
DELAY_US = 100_000
# The calls that a sandbox refuses from some time on, with these errors.
REFUSED_FOR_GOOD = ("EPERM", "ENOSYS")

CALL = re.compile(r"^(\d+)\s+(\w+)\(")
# The Rust runtime installs the stack for its signal handlers just before main().
STARTED = re.compile(r"^(\d+)\s+sigaltstack\(\{ss_sp=\w+, ss_flags=0")


def errors_of_calls() -> dict[str, list[str]]:
    """The table: each call with the errors on its manual page."""
    lines = Path(__file__).with_name("errnos.txt").read_text().splitlines()
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    return {call: errors for call, *errors in rows}


@dataclass(frozen=True)
class Cell:
    """One fault in one run of a program."""

    call: str
    fault: str  # as in strace's -e inject=CALL:FAULT
    position: str
    when: str
    # Tried in place of `when` if the run does not make so many calls.
    earlier: tuple[str, ...] = ()

    @property
    def persistent(self) -> bool:
        """Whether the fault lasts."""
        return self.when.endswith("+")

    @property
    def each_thread(self) -> bool:
        """Whether it was planned for a thread other than the main one. strace counts by thread."""
        return self.position.endswith("of thread")


@dataclass
class Counts:
    """How often each thread made each call."""

    start_up: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    threads: dict[str, dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    main: str = ""

    def calls(self) -> list[str]:
        """The calls that are made after the start of main()."""
        found = {call for thread, calls in self.threads.items() for call, n in calls.items()
                 if n > (self.start_up[call] if thread == self.main else 0)}
        return sorted(found - set(LEFT_OUT))

    def positions(self, call: str) -> dict[int, str]:
        """The numbers of the first, a middle and the last call of the main thread and of the other
        thread that makes it most often.

        strace counts for each thread on its own, so a number that the loader of the main thread
        uses is left out.
        """
        start_up = self.start_up[call]
        others = [calls[call] for thread, calls in self.threads.items() if thread != self.main]
        found: dict[int, str] = {}
        for who, last, before in (("main", self.threads[self.main][call], start_up),
                                  ("thread", max(others, default=0), 0)):
            if last <= before:
                continue
            for where, number in (("first", max(before, start_up) + 1),
                                  ("middle", (max(before, start_up) + 1 + last) // 2), ("last", last)):
                if start_up < number <= last:
                    found.setdefault(number, f"{where} of {who}")
        return found


def count(trace: Iterable[str]) -> Counts:
    """Counts the calls of a trace by `strace -f -o`."""
    counts = Counts()
    started = False
    for line in trace:
        if not (call := CALL.match(line)):
            continue
        thread, name = call.groups()
        counts.main = counts.main or thread
        counts.threads[thread][name] += 1
        if not started and thread == counts.main:
            counts.start_up[name] += 1
            started = bool(STARTED.match(line))
    return counts


def cells(counts: Counts, signals: Iterable[str], errors: dict[str, list[str]]) -> list[Cell]:
    """All faults of a program, ordered so that a part from the front has some of each call."""
    ranked: list[tuple[tuple[int, int], Cell]] = []
    for call in counts.calls():
        positions = counts.positions(call)
        numbers = sorted(positions)
        some_errors = [] if call in NO_ERRORS else errors[call]
        once = [f"error={error}" for error in some_errors]
        once += [f"signal={signal}" for signal in signals]
        once += [f"delay_enter={DELAY_US}", f"delay_exit={DELAY_US}"]
        # The second number alternates between the faults of one call, so that the front has
        # different positions.
        for rank, fault in enumerate(once):
            for at, number in enumerate(numbers):
                earlier = tuple(str(n) for n in reversed(numbers[:at]))
                cell = Cell(call, fault, positions[number], str(number), earlier)
                ranked.append(((rank * len(numbers) + (at - rank) % len(numbers), 0), cell))
        for at, number in enumerate(numbers if some_errors else []):
            for rank, error in enumerate(REFUSED_FOR_GOOD):
                cell = Cell(call, f"error={error}", f"{positions[number]} and all later", f"{number}+")
                ranked.append(((2 * at + 3 * rank + 2, 1), cell))
    return [cell for _, cell in sorted(ranked, key=lambda entry: entry[0])]
