"""The console device: vhost-user-console carries the guest's /dev/hvc0 to a UNIX socket."""

import fcntl
import hashlib
import os
import pty
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .agent import Agent
from .checks import Check, Suite
from .device import Device
from .errors import CheckFailed
from .lab import Lab
from .process import wait_until

DEVICE = Device(
    name="console",
    daemon="examples/vhost-user-console",
    build="cargo build --release -p virtio-blk-sim --examples",
    # QEMU's device for backends under development. Before 10.2 it had another name and could not be
    # put on a command line.
    qemu_devices=("vhost-user-test-device-pci",),
    # Device id 3, a queue for each direction, and struct virtio_console_config (virtio 1.3, 5.3).
    properties="virtio-id=3,num_vqs=2,config_size=12",
    modules=("virtio_console",),
    node="/dev/hvc0",
    plugged_late=True,
)
LENGTH = 1 << 20
CONNECT_TIMEOUT = 10.0
SHELL_TIMEOUT = 60.0
ECHO_TIMEOUT = 300.0
PAUSE = 3.0  # seconds


class Line:
    """Our end of the console: a connection to the daemon's chardev socket."""

    def __init__(self, path: Path, scale: float) -> None:
        self._scale = scale
        self._received = b""
        self._connection = socket.socket(socket.AF_UNIX)

        def connects() -> bool:
            return self._connection.connect_ex(str(path)) == 0

        if not wait_until(connects, CONNECT_TIMEOUT * scale):
            self._connection.close()
            raise CheckFailed("the daemon does not listen at its --chardev")

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def send(self, text: str) -> None:
        """Sends a line to the guest's shell."""
        self.transfer(text.encode() + b"\n", 0, SHELL_TIMEOUT)

    def expect(self, text: str) -> None:
        """Reads up to this text. Raises CheckFailed if it does not come."""
        deadline = time.monotonic() + SHELL_TIMEOUT * self._scale
        while text.encode() not in self._received:
            if time.monotonic() > deadline:
                raise CheckFailed(f"the console sent {self._received[-80:]!r}, not {text!r}")
            self._exchange(b"", deadline)
        self._received = self._received.partition(text.encode())[2]

    def transfer(self, data: bytes, wanted: int, timeout: float) -> bytes:
        """Sends `data` and meanwhile reads; returns the next `wanted` bytes.

        Returns fewer after a timeout.
        """
        deadline = time.monotonic() + timeout * self._scale
        left = memoryview(data)
        while (left or len(self._received) < wanted) and time.monotonic() < deadline:
            left = left[self._exchange(left, deadline):]
        taken, self._received = self._received[:wanted], self._received[wanted:]
        return taken

    def _exchange(self, data: bytes | memoryview, deadline: float) -> int:
        """Waits until something can be read or sent, does so, and returns how much was sent."""
        writers = [self._connection] if data else []
        patience = max(deadline - time.monotonic(), 0)
        readable, writable, _ = select.select([self._connection], writers, [], patience)
        try:
            if readable:
                received = self._connection.recv(1 << 16)
                if not received:
                    raise CheckFailed("the daemon closed the console")
                self._received += received
            return self._connection.send(data, socket.MSG_DONTWAIT) if writable else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            raise CheckFailed(f"the console is gone: {error}") from error


@contextmanager
def shell(lab: Lab, guest: Agent, path: Path) -> Iterator[Line]:
    """Starts a shell on the guest's console, which changes no byte, and connects to it.

    The shell is interactive: it echoes commands and prints a prompt. So what is expected of a
    command must not be in the command itself.
    """
    guest.value("""
        setsid sh -c 'exec </dev/hvc0 >/dev/hvc0 2>&1
          stty raw -echo -iexten
          exec sh' &
        true""")
    line = Line(path, lab.scale)
    try:
        line.send("echo hello $((6 * 7))")
        line.expect("hello 42\n")
        yield line
    finally:
        line.close()


def echo(lab: Lab) -> None:
    """A shell on the console runs commands, and 1 MiB goes in and comes out again unharmed."""
    path = lab.directory / "console.sock"
    with lab.daemon("--chardev", path), lab.guest() as guest, shell(lab, guest, path) as line:
        line.send("cat /proc/consoles /proc/version; echo over $((1 + 1))")
        line.expect("over 2\n")
        lab.report.passes("a shell on /dev/hvc0 runs a command")
        # The shell reads ahead, so the data must not come before head(1) reads.
        line.send(f"echo ready $((1 + 2)); head -c {LENGTH}; echo over $((2 + 2))")
        line.expect("ready 3\n")
        time.sleep(0.5)
        sent = os.urandom(LENGTH)
        came = line.transfer(sent, LENGTH, ECHO_TIMEOUT)
        lab.expect("bytes that came back of 1 MiB", len(came), LENGTH)
        wanted = hashlib.sha256(sent).hexdigest()
        lab.expect("their SHA-256", hashlib.sha256(came).hexdigest(), wanted)
        line.expect("over 4\n")
        lab.report.passes("the shell goes on after it")


def backlog(lab: Lab) -> None:
    """Nothing is lost when the other end of the console stops reading for a while."""
    path = lab.directory / "console.sock"
    with lab.daemon("--chardev", path), lab.guest() as guest, shell(lab, guest, path) as line:
        wanted = guest.value(f"""
            head -c {LENGTH} /dev/urandom >/tmp/data
            sha256sum </tmp/data | cut -c-64""")
        line.send("echo ready $((2 + 3)); cat /tmp/data; echo over $((3 + 3))")
        line.expect("ready 5\n")
        time.sleep(PAUSE)
        came = line.transfer(b"", LENGTH, ECHO_TIMEOUT)
        lab.expect("bytes that came of 1 MiB", len(came), LENGTH)
        lab.expect("their SHA-256", hashlib.sha256(came).hexdigest(), wanted)
        line.expect("over 6\n")


def set_size(terminal: int, columns: int, rows: int) -> None:
    """Sets the window size of a terminal: ioctl_tty(2), TIOCSWINSZ."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def resize(lab: Lab) -> None:
    """The guest's terminal gets the size of the daemon's terminal after each SIGWINCH."""
    path = lab.directory / "console.sock"
    main, terminal = pty.openpty()
    try:
        arguments = ("--chardev", path, "--size", "100x40")
        with lab.daemon(*arguments, terminal=terminal) as daemon, lab.guest() as guest:
            with shell(lab, guest, path):
                # Not the size from the start: Linux before 6.13 reads it only when the device says
                # that it has changed.
                for columns, rows in ((132, 43), (90, 30)):
                    set_size(main, columns, rows)
                    daemon.send_signal(signal.SIGWINCH)
                    seen = guest.value(f"""
                        for i in $(seq 100); do
                          [ "$(stty size </dev/hvc0)" = "{rows} {columns}" ] && break
                          usleep 100000
                        done
                        stty size </dev/hvc0""")
                    # stty prints rows first.
                    lab.expect("size after SIGWINCH", seen, f"{rows} {columns}")
    finally:
        os.close(main)
        os.close(terminal)


SUITE = Suite(DEVICE, (Check("console", echo), Check("backlog", backlog), Check("winsize", resize)))
