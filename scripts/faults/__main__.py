"""Makes each system call of three programs fail, with each error of its manual page.

The programs are a loop that uses everything that aio has (the example loop_under_faults, on each
monitor), the server vhost-user-blk under the load of a guest that verifies what it reads, and
`bench virtio-blk`. A first run under strace finds the calls that each makes after its start. Then
each call fails with each error, in the first, a middle and the last call that a thread makes; it is
interrupted by signals; it is delayed; and it is refused from some call on, as by a sandbox.

A run is right if the program does all its work (recovered), or ends, or answers a request, with an
error that says what failed (reported). Everything else is a fault: a hang, a spin, a panic, an end
by a signal, a lost doorbell, a lost write, success without results, an error without its reason.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import known  # noqa: E402
import plan  # noqa: E402
import programs as subjects  # noqa: E402
from programs import BAD, RECOVERED, REPORTED, Fault, Program, Server  # noqa: E402
from run import normal  # noqa: E402

TOP = Path(__file__).resolve().parents[2]
SKIPPED = 3
SHORT_S = 60
NOT_REACHED = "not reached"
INJECTED = re.compile(r"\((INJECTED|DELAYED)|^\d+\s+--- SIG", re.M)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="faults.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 no new fault, 1 a fault was found, 2 wrong use, 3 skipped: no strace or no ptrace(2).")
    add = parser.add_argument
    add("--seconds", type=float, default=float("inf"), metavar="N",
        help="try cells for this time, some of each program and call (default: all cells)")
    add("--short", action="store_const", const=SHORT_S, dest="seconds", help=f"the same as --seconds {SHORT_S}")
    add("--only", default="", metavar="TEXT", help="programs whose name contains TEXT, such as 'server'")
    add("--call", default="", metavar="LIST", help="these system calls only")
    add("--fault", default="", metavar="TEXT", help="faults that contain TEXT, such as 'error=EINTR' or 'delay'")
    add("--jobs", type=int, default=2, metavar="N", help="programs that run at a time (default: %(default)s)")
    add("--target", type=Path, default=TOP / "target/release", metavar="DIR",
        help="where the programs are (default: target/release, where cargo builds them first)")
    add("--list", action="store_true", help="print the cells, and run none")
    add("--verbose", action="store_true", help="print every cell with its result")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error("--jobs takes a number above 0")
    return arguments


def can_trace() -> bool:
    """Whether strace is there, and may trace and inject."""
    if not shutil.which("strace"):
        return False
    probe = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=getppid",
             "-e", "inject=getppid:error=EPERM:when=1", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def build() -> None:
    """Builds the programs."""
    for what in (["-p", "aio-context", "--example", "loop_under_faults"], ["-p", "bench"],
                 ["-p", "virtio-blk-sim", "--bin", "vhost-user-blk"]):
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *what], cwd=TOP, check=True)


class Campaign:
    """The cells of all programs, and their results."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.arguments = arguments
        self.work = work
        self.errors = plan.errors_of_calls()
        self.lock = threading.Lock()
        self.results: dict[tuple[str, str], Counter] = defaultdict(Counter)
        self.bad: list[tuple[Program, plan.Cell, str]] = []
        self.known: Counter = Counter()
        self.directories: list[Path] = []

    def cells_of(self, program: Program) -> list[plan.Cell]:
        """The cells of a program. A first run without faults finds its calls."""
        directory = Path(tempfile.mkdtemp(dir=self.work))
        trace = directory / "trace"
        # Without seccomp-bpf, and so with every call.
        verdict, why = program.run(["strace", "-f", "-o", str(trace)], directory, Fault())
        if verdict != RECOVERED:
            sys.exit(f"{program.name}: it fails without any fault: {why}")
        if isinstance(program, Server):
            log = (directory / "server.err").read_text(errors="replace")
            subjects.ORDINARY.update(map(normal, log.splitlines()))
        with trace.open(errors="replace") as lines:
            counts = plan.count(lines)
        unknown = [call for call in counts.calls() if call not in self.errors and call not in plan.NO_ERRORS]
        if unknown:
            sys.exit(f"{program.name}: not in scripts/faults/errnos.txt: {' '.join(unknown)}")
        cells = plan.cells(counts, program.signals, self.errors)
        wanted = set(filter(None, self.arguments.call.split(",")))
        return [cell for cell in cells
                if (not wanted or cell.call in wanted) and self.arguments.fault in f"{cell.fault}:when={cell.when}"]

    def try_cell(self, program: Program, cell: plan.Cell) -> None:
        """Runs one cell, and records the result."""
        with self.lock:
            directory = self.directories.pop() if self.directories else Path(tempfile.mkdtemp(dir=self.work))
        verdict, why = self._once(program, cell, directory)
        why = " ".join(why.split())
        with self.lock:
            self.directories.append(directory)
            reason = known.reason(program.name, cell, why) if verdict == BAD else None
            if reason:
                self.known[reason] += 1
                verdict = "known"
            if verdict == BAD:
                self.bad.append((program, cell, why))
                print(f"BAD {program.name}: {cell.call}:{cell.fault}:when={cell.when} ({cell.position}): {why}", flush=True)
            elif self.arguments.verbose:
                print(f"{verdict} {program.name}: {cell.call}:{cell.fault}:when={cell.when} ({cell.position}) {why}", flush=True)
            self.results[program.name, cell.call][verdict] += 1

    def _once(self, program: Program, cell: plan.Cell, directory: Path) -> tuple[str, str]:
        for when in (cell.when, *cell.earlier):
            trace = directory / "trace"
            trace.unlink(missing_ok=True)
            tracer = ["strace", "-f", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={cell.call}",
                      "-e", f"inject={cell.call}:{cell.fault}:when={when}"]
            verdict, why = program.run(tracer, directory, Fault(cell.call, cell.persistent, cell.each_thread))
            if verdict == BAD or INJECTED.search(trace.read_text(errors="replace")):
                return verdict, why
        return NOT_REACHED, ""


def repeat(program: Program, cell: plan.Cell) -> str:
    """The command that tries a cell again."""
    fault = f"{cell.fault}:when={cell.when}"
    return " ".join(map(shlex.quote, ["scripts/faults.sh", "--only", program.name, "--call", cell.call,
                                      "--fault", fault, "--verbose"]))


def table(results: dict[tuple[str, str], Counter]) -> None:
    """Prints the numbers of cells, for each program and call."""
    columns = (RECOVERED, REPORTED, NOT_REACHED, "known", BAD)
    print(f"\n{'program':<24}{'call':<20}{'cells':>7}" + "".join(f"{column:>13}" for column in columns))
    total: Counter = Counter()
    for (program, call), verdicts in sorted(results.items()):
        total.update(verdicts)
        numbers = "".join(f"{verdicts[column]:>13}" for column in columns)
        print(f"{program:<24}{call:<20}{sum(verdicts.values()):>7}{numbers}")
    numbers = "".join(f"{total[column]:>13}" for column in columns)
    print(f"{'all':<24}{'':<20}{sum(total.values()):>7}{numbers}")


def main() -> int:
    """Runs the campaign."""
    arguments = parse_arguments()
    if not can_trace():
        print("skipped: strace 5.3 or newer is not installed, or ptrace(2) is not allowed here")
        return SKIPPED
    if arguments.target == TOP / "target/release":
        build()
    begin = time.monotonic()
    chosen = [p for p in subjects.programs(arguments.target.resolve()) if arguments.only in p.name]
    if not chosen:
        print(f"no program's name contains {arguments.only!r}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="faults-") as work:
        campaign = Campaign(arguments, Path(work))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            planned = list(zip(chosen, pool.map(campaign.cells_of, chosen)))
        todo = [(rank / len(cells), program, cell) for program, cells in planned for rank, cell in enumerate(cells)]
        # All programs advance at the same pace, so that a part has some of each.
        todo.sort(key=lambda entry: entry[0])
        if arguments.list:
            for _, program, cell in todo:
                print(f"{program.name}: {cell.call}:{cell.fault}:when={cell.when} ({cell.position})")
            return 0

        def attempt(entry: tuple[float, Program, plan.Cell]) -> bool:
            if time.monotonic() - begin > arguments.seconds:
                return False
            campaign.try_cell(entry[1], entry[2])
            return True

        with ThreadPoolExecutor(arguments.jobs) as pool:
            tried = sum(pool.map(attempt, todo))
    table(campaign.results)
    print(f"\n{tried} of {len(todo)} cells tried in {time.monotonic() - begin:.0f} s.")
    for call, why in plan.NO_ERRORS.items():
        print(f"No errors were injected into {call}: {why}.")
    for reason, number in sorted(campaign.known.items()):
        print(f"KNOWN, {number} cells: {reason}")
    for program, cell, why in campaign.bad:
        print(f"BAD {program.name}: {cell.call}:{cell.fault}, the {cell.position}: {why}\n    {repeat(program, cell)}")
    return 1 if campaign.bad else 0


if __name__ == "__main__":
    sys.exit(main())
