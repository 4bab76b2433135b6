"""The programs under fault injection, and what each must have done at its end."""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from run import Process, cpu_of, crash, names_what_failed, normal, wait_until

RECOVERED, REPORTED, BAD = "recovered", "reported", "BAD"
Verdict = tuple[str, str]


@dataclass(frozen=True)
class Fault:
    """What the judge has to know of the fault; `call` is empty in the first run."""

    call: str = ""
    persistent: bool = False
    # It meets each thread of a pool once, also the threads of the next guest.
    each_thread: bool = False


@dataclass(frozen=True)
class Program:
    """A program with its arguments."""

    name: str
    binaries: Path

    # Survived by the program; what they do is written in the subclass.
    signals: tuple[str, ...] = ("SIGCONT", "SIGWINCH")

    def run(self, tracer: Sequence[str], directory: Path, fault: Fault) -> Verdict:
        """Runs it once under `tracer`, a command line that is put before the program's."""
        raise NotImplementedError


def error_exit(stderr: str, code: int, fault: Fault) -> Verdict:
    """The verdict for a program that has ended with an error."""
    call = fault.call
    if fault.persistent and call.startswith("write"):
        return REPORTED, "it can write no message"
    lines = [line for line in stderr.splitlines() if line.strip()]
    if not lines:
        return BAD, f"exit {code} without a message"
    if any(names_what_failed(line, call) for line in lines[-3:]):
        return REPORTED, lines[-1]
    return BAD, f"exit {code}, and the message does not say what failed: {lines[-1]}"


@dataclass(frozen=True)
class Loop(Program):
    """aio's example loop_under_faults. Its handler for SIGUSR1 interrupts system calls."""

    monitor: str = "auto"
    reset: str = "autoreset"
    part: tuple[str, ...] = ()
    signals: tuple[str, ...] = ("SIGUSR1", "SIGCONT")

    def run(self, tracer: Sequence[str], directory: Path, fault: Fault) -> Verdict:
        program = str(self.binaries / "examples/loop_under_faults")
        ended = Process([*tracer, program, self.monitor, self.reset, "20", *self.part], directory, "loop").wait()
        if bad := crash(ended):
            return BAD, bad
        if ended.code in (4, 5):
            return BAD, ended.stderr.strip()
        if ended.code == 0:
            done = ended.stdout.startswith("all arrived: 20 of each")
            return (RECOVERED, "") if done else (BAD, "exit 0 without a result")
        return error_exit(ended.stderr, ended.code, fault)


@dataclass(frozen=True)
class Bench(Program):
    """One arm of `bench virtio-blk`, as short as it can be."""

    arm: str = "epoll/edge"
    signals: tuple[str, ...] = ("SIGWINCH", "SIGINT")

    def run(self, tracer: Sequence[str], directory: Path, fault: Fault) -> Verdict:
        report = directory / "report.json"
        report.unlink(missing_ok=True)
        command = [str(self.binaries / "bench"), "virtio-blk", "--quick", "--rounds", "1", "--runtime", "1ms",
                   "--pin", "0,0", "--arms", self.arm, "--json", str(report)]
        ended = Process([*tracer, *command], directory, "bench").wait()
        if bad := crash(ended):
            return BAD, bad
        if ended.code == 130 and "Stopped by Ctrl-C" in ended.stdout:
            return REPORTED, "Stopped by Ctrl-C"
        if ended.code != 0:
            return error_exit(ended.stderr, ended.code, fault)
        try:
            results = json.loads(report.read_text())
        except (OSError, ValueError) as error:
            return BAD, f"exit 0 without a report: {error}"
        measured = [row for row in results["results"] if row["status"] == "measured"]
        if not (results["complete"] and measured and "per request" in ended.stdout.lower()):
            return BAD, "exit 0 without results: " + " ".join(ended.stdout.split())[-200:]
        return RECOVERED, ""


@dataclass(frozen=True)
class Server(Program):
    """vhost-user-blk with a file, while a guest writes, reads and compares."""

    arguments: tuple[str, ...] = ()
    signals: tuple[str, ...] = ("SIGUSR1", "SIGHUP")

    LISTENING = "listening on"

    def run(self, tracer: Sequence[str], directory: Path, fault: Fault) -> Verdict:
        socket, image = directory / "disk.sock", directory / "disk.raw"
        socket.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(1 << 20)
        command = [str(self.binaries / "vhost-user-blk"), "--socket", socket.name, "--image", image.name]
        server = Process([*tracer, *command, *self.arguments], directory, "server")
        try:
            return self._judge(server, directory, fault, bool(tracer))
        finally:
            server.kill()
            server.wait()
            socket.unlink(missing_ok=True)

    def _judge(self, server: Process, directory: Path, fault: Fault, traced: bool) -> Verdict:
        if not wait_until(lambda: server.has_ended() or self._listens(server, directory / "disk.sock")):
            return BAD, f"hang: it neither listens nor ends; its log: {server.log()[-300:]}"
        if server.has_ended():
            return self._ended(server, fault)
        pid = tracee_of(server.child.pid) if traced else server.child.pid
        if pid is None:
            return self._ended(server, fault)
        before = len(server.log().splitlines())
        failed = []
        # A fault that is over must not last: one of the loads after it has to succeed.
        loads = 0
        for loads in range(1, 4):
            load = self._load(directory)
            if bad := crash(load):
                return BAD, f"load {loads}: {bad}; the server's log: {server.log()[-300:]}"
            if load.code == 0:
                break
            message = load.stderr.strip().splitlines()[-1] if load.stderr.strip() else f"exit {load.code}"
            if "does not hold what was last written" in message:
                return BAD, f"lost write: {message}"
            failed.append(message)
            if server.has_ended():
                break
        log = server.log().splitlines()[before:]
        said = [line for line in log if names_what_failed(line, fault.call) and not ordinary(line)]
        if failed and not said and not server.has_ended():
            return BAD, f"the guest saw \"{failed[0]}\", and the server's log has no reason: {log[-3:]}"
        if server.has_ended():
            return self._ended(server, fault)
        if len(failed) == 3 and not (fault.persistent or fault.each_thread):
            return BAD, f"it serves no more: {failed[-1]}; its log: {log[-3:]}"
        if len(log) > 400:
            return BAD, f"{len(log)} lines of log; the last: {log[-1]}"
        # Nobody is connected: a thread that still runs spins.
        time.sleep(0.05)
        used = cpu_of(pid)
        time.sleep(0.2)
        if cpu_of(pid) - used > 0.1:
            return BAD, f"spin: idle, it used {cpu_of(pid) - used:.2f} s of CPU time in 0.2 s"
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        ended = server.wait()
        if ended.hung:
            return BAD, f"hang: SIGTERM does not end it; its log: {ended.stderr[-300:]}"
        if ended.code != 0 or crash(ended):
            return self._ended(server, fault)
        return (REPORTED, said[0]) if failed else (RECOVERED, "")

    def _listens(self, server: Process, socket: Path) -> bool:
        """Whether it says so, or has had a socket for a second: the line may be what was lost."""
        try:
            return self.LISTENING in server.log() or time.time() - socket.stat().st_mtime > 1
        except FileNotFoundError:
            return False

    @staticmethod
    def _ended(server: Process, fault: Fault) -> Verdict:
        ended = server.wait()
        if bad := crash(ended):
            return BAD, bad
        if ended.code == 0:
            return BAD, f"it ended with exit 0 by itself: {ended.stderr[-300:]}"
        return error_exit(ended.stderr, ended.code, fault)

    def _load(self, directory: Path):
        command = [str(self.binaries / "bench"), "vhost-user", "--socket", "disk.sock", "--rw", "randrw", "--verify",
                   "--iodepth", "4", "--rounds", "1", "--runtime", "10ms", "--idle", "0"]
        return Process(command, directory, "load").wait()


def ordinary(line: str) -> bool:
    """Whether the server's log has this line without a fault too."""
    return normal(line) in ORDINARY


# Lines of the first run, without their numbers.
ORDINARY: set[str] = set()


def tracee_of(tracer: int) -> int | None:
    """The process that strace started. `None` if it has ended."""
    try:
        children = Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()
    except OSError:  # strace has ended, too
        return None
    return int(children[0]) if children else None


def programs(binaries: Path) -> list[Program]:
    """All programs, the shortest first."""
    loops = [Loop(f"loop {monitor}/{reset}", binaries, monitor=monitor, reset=reset)
             for monitor in ("epoll", "io_uring", "poll") for reset in ("autoreset", "classic")]
    # A fault ends the first thread that meets it. In these parts each thread only wakes the loop.
    loops += [Loop(f"loop {monitor} {part}", binaries, monitor=monitor, part=(part,))
              for part in ("bottom-halves", "closures") for monitor in ("epoll", "io_uring", "poll")]
    benches = [Bench(f"bench {arm}", binaries, arm=arm)
               for arm in ("epoll/edge", "io_uring/ring-read", "poll/classic")]
    servers = [Server(f"server {name}", binaries, arguments=("--monitor", *name.split()))
               for name in ("io_uring", "epoll", "poll")]
    return [*loops, *benches, *servers]
