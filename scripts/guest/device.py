"""What the harness has to know of a device kind."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A device kind: its daemon, QEMU's side, and the guest's side."""

    name: str
    daemon: str  # the daemon's binary, below cargo's target directory
    build: str  # the command that builds it
    qemu_devices: tuple[str, ...]  # QEMU's devices for it; the first one that a QEMU has is used
    modules: tuple[str, ...]  # the guest's drivers, in the order in which they are loaded
    node: str  # a path in the guest that is there once the driver serves the device
    properties: str = ""  # of QEMU's device, always
    prelude: str = ""  # shell functions for every command in the guest
    # QEMU connects a chardev that reconnects in the background, and most devices do not wait for
    # it. Such a device is plugged in when the connection is there, before the guest starts.
    plugged_late: bool = False
    # The first QEMU whose device does not survive the end of the daemon, if there is one.
    restarts_before: tuple[int, int] | None = None
    has_sandbox: bool = False  # whether the daemon takes --sandbox
