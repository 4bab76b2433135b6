"""Guests that boot from the device itself: the firmware, a boot loader on the disk, and a kernel.

The disk has GRUB for a BIOS and for UEFI, each with the same short script in it.
"""

import re
import shlex
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .errors import CheckFailed, Unavailable
from .image import Kernel
from .machine import Hardware, Machine
from .process import run_tool
from .qemu import Qemu

SECTOR = 512
MIB = 1 << 20
# The partition starts here; GRUB for a BIOS is in front of it.
START = MIB
SIZE = 64 * MIB
TOOL_TIMEOUT = 120.0
ESP = 0xEF  # the type of an EFI system partition; a BIOS does not care

GRUB = Path("/usr/lib/grub")
# Reads, file systems and output that the script needs, besides the access to the disk.
MODULES = "part_msdos fat linux normal serial terminal echo search search_fs_file".split()
SCRIPT = """\
serial --unit=0
terminal_output serial
echo "GRUB on $grub_platform reads the disk"
search --file --set=root /vmlinuz
linux /vmlinuz console=ttyS0 loglevel=5 panic=-1
initrd /initramfs
boot
"""


@dataclass(frozen=True)
class Firmware:
    """What runs before the boot loader."""

    name: str
    platform: str  # what GRUB calls it
    flash: Path | None = None  # an image of the firmware, if it is not QEMU's default
    variables: Path | None = None  # the initial content of its variables

    def options(self, directory: Path) -> list[str]:
        """Returns QEMU's options for it. Raises Unavailable if it is not installed."""
        if self.flash is None or self.variables is None:
            return []
        if not self.flash.is_file() or not self.variables.is_file():
            raise Unavailable(f"no {self.flash} here (--install gets it)")
        variables = directory / "variables.fd"
        shutil.copyfile(self.variables, variables)
        variables.chmod(0o600)
        return [
            "-drive", f"if=pflash,format=raw,readonly=on,file={self.flash}",
            "-drive", f"if=pflash,format=raw,file={variables}",
        ]


SEABIOS = Firmware("SeaBIOS", "pc")
OVMF = Firmware(
    "OVMF", "efi", Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")
)


def printed_command(daemon: Path, qemu: Path, socket: Path) -> list[str]:
    """Returns the QEMU command line that the daemon's --help prints, for this QEMU and socket."""
    text = run_tool([daemon, "--help"], TOOL_TIMEOUT).replace("\\\n", " ")
    line = re.search(r"^\s*(qemu-system-\S+ .*?)(?: \.\.\.)?$", text, re.MULTILINE)
    if line is None:
        raise CheckFailed(f"{daemon.name} --help has no line for QEMU")
    _, *arguments = shlex.split(line[1])
    replaced = [re.sub(r"(?<=path=)[^,]+", str(socket), argument) for argument in arguments]
    if replaced == arguments:
        raise CheckFailed(f"QEMU's line in {daemon.name} --help has no socket")
    # Of an older QEMU --help says how its option is called.
    reconnect = Qemu(qemu).reconnect
    return [str(qemu), *(re.sub(r"reconnect(-ms)?=\d+", reconnect, it) for it in replaced)]


def write_boot_disk(path: Path, kernel: Kernel, initramfs: Path, work: Path) -> None:
    """Writes an image that boots this kernel on a BIOS and on UEFI.

    Raises Unavailable if a tool for it is missing.
    """
    for program in ("grub-mkimage", "mformat", "mmd", "mcopy"):
        if packages.find_program(program) is None:
            raise Unavailable(f"this machine lacks {program} (--install gets it)")
    script, partition = work / "grub.cfg", work / "partition"
    core, efi = work / "core.img", work / "bootx64.efi"
    script.write_text(SCRIPT)
    _make_grub("i386-pc", ["biosdisk", *MODULES], script, core)
    _make_grub("x86_64-efi", MODULES, script, efi)
    partition.unlink(missing_ok=True)
    mtools = ["-i", str(partition)]
    run_tool(["mformat", "-C", "-F", *mtools, "-T", str(SIZE // SECTOR), "::"], TOOL_TIMEOUT)
    run_tool(["mmd", *mtools, "::/EFI", "::/EFI/BOOT"], TOOL_TIMEOUT)
    files = {
        "EFI/BOOT/BOOTX64.EFI": efi, "vmlinuz": kernel.image, "initramfs": initramfs,
    }
    for name, source in files.items():
        run_tool(["mcopy", *mtools, str(source), f"::/{name}"], TOOL_TIMEOUT)
    if core.stat().st_size > START - SECTOR:
        raise CheckFailed("GRUB does not fit in front of the partition")
    with path.open("wb") as disk:
        disk.truncate(START + SIZE + MIB)
        disk.write(_first_sector())
        # Behind the first sector, where its code and GRUB's own list of blocks look for it.
        disk.write(core.read_bytes())
        disk.seek(START)
        disk.write(partition.read_bytes())


def _make_grub(target: str, modules: list[str], script: Path, output: Path) -> None:
    if not (GRUB / target).is_dir():
        raise Unavailable(f"no GRUB for {target} here (--install gets it)")
    run_tool(
        ["grub-mkimage", "-O", target, "-p", "/", "-c", str(script), "-o", str(output), *modules],
        TOOL_TIMEOUT,
    )


def _first_sector() -> bytes:
    """Returns GRUB's first sector with a table of one partition."""
    code = (GRUB / "i386-pc" / "boot.img").read_bytes()[:446]
    beyond = b"\xfe\xff\xff"  # cylinder, head and sector are not used
    entry = struct.pack("<B3sB3sII", 0x80, beyond, ESP, beyond, START // SECTOR, SIZE // SECTOR)
    return code.ljust(446, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa"


class FirmwareMachine(Machine):
    """A guest with the command line that the daemon's --help prints."""

    def __init__(
        self, hardware: Hardware, directory: Path, log: Path, scale: float, prelude: str,
        printed: list[str], firmware: Firmware,
    ) -> None:
        super().__init__(hardware, directory, log, scale, prelude)
        # What the "..." of the printed line stands for, besides the harness's own wires.
        self._line = [
            *printed, "-accel", "tcg", "-display", "none", "-nic", "none",
            *firmware.options(directory),
        ]

    def command_line(self) -> list[str | Path]:
        """Returns the printed line with what the harness needs."""
        return [*self._line, *self.wires()]
