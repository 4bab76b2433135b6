"""Programs that this machine has, and getting what it lacks from Debian's packages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from .errors import CheckFailed, Unavailable
from .process import run_tool, search_path

# What the harness runs or packs into the guest, and the package that has it.
REQUIRED = {
    "qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "dpkg-deb": "dpkg",
}
OPTIONAL = {
    "fio": "fio", "mke2fs": "e2fsprogs", "e2fsck": "e2fsprogs", "strace": "strace",
    "grub-mkimage": "grub-common", "mformat": "mtools",
}
# The same for files: what a guest needs to boot from its disk.
OPTIONAL_FILES = {
    "/usr/lib/grub/i386-pc/boot.img": "grub-pc-bin",
    "/usr/lib/grub/x86_64-efi/moddep.lst": "grub-efi-amd64-bin",
    "/usr/share/OVMF/OVMF_CODE.fd": "ovmf",
}
APT_TIMEOUT = 900.0


def find_program(name: str) -> Path | None:
    """Returns the path of a program, or None."""
    found = shutil.which(name, path=search_path())
    return Path(found) if found else None


def has_static_busybox() -> bool:
    """Returns true if there is a busybox that runs in the guest without libraries."""
    busybox = find_program("busybox")
    if busybox is None:
        return False
    # ldd fails for a static program.
    return subprocess.run(["ldd", busybox], capture_output=True, check=False).returncode != 0


def missing_programs(wanted: dict[str, str]) -> dict[str, str]:
    """Returns those of `wanted` that are not here."""
    missing = {name: package for name, package in wanted.items() if find_program(name) is None}
    if "busybox" in wanted and not has_static_busybox():
        missing["busybox"] = wanted["busybox"]
    return missing


def install_missing(required: dict[str, str]) -> None:
    """Installs with apt-get what is missing, as root."""
    files = {package for path, package in OPTIONAL_FILES.items() if not Path(path).is_file()}
    wanted = sorted(files | set(missing_programs(required | OPTIONAL).values()))
    if not wanted:
        return
    if os.geteuid() != 0 or find_program("apt-get") is None:
        raise Unavailable(f"--install needs root and apt-get; missing packages: {' '.join(wanted)}")
    print(f"installing: {' '.join(wanted)}", flush=True)
    run_tool(["apt-get", "-qq", "update"], APT_TIMEOUT)
    run_tool(
        ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y",
         "--no-install-recommends", "install", *wanted],
        APT_TIMEOUT,
    )


def download_kernel(directory: Path) -> Path:
    """Downloads the package of Debian's cloud kernel into `directory` and returns its path."""
    if find_program("apt-get") is None:
        raise Unavailable("downloading a kernel needs apt-get; give a package with --kernel")
    run_tool(["apt-get", "-qq", "update"], APT_TIMEOUT)
    depends = run_tool(["apt-cache", "depends", "linux-image-cloud-amd64"], APT_TIMEOUT)
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if match is None:
        raise CheckFailed("apt-cache knows no linux-image-cloud-amd64")
    run_tool(["apt-get", "-qq", "download", match[1]], APT_TIMEOUT, cwd=directory)
    found = sorted(directory.glob(f"{match[1]}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckFailed(f"apt-get downloaded no {match[1]}")
    return found[-1]


def download_closure(package: str, suites: list[str], directory: Path) -> list[Path]:
    """Downloads a package and all that it depends on from the given suites of Debian.

    apt gets a configuration and an empty list of installed packages of its own in `directory`, so
    this machine's packages neither change nor count. The last suite is preferred.
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (directory / "sources.list").write_text("".join(
        f"deb [signed-by={keyring}] http://deb.debian.org/debian {suite} main\n" for suite in suites
    ))
    (directory / "status").write_text("")
    options = [
        "-o", f"Dir::Etc::sourcelist={directory}/sources.list", "-o", "Dir::Etc::sourceparts=-",
        "-o", f"Dir::State={directory}/state", "-o", f"Dir::State::status={directory}/status",
        "-o", f"Dir::Cache={directory}/cache", "-o", "APT::Sandbox::User=root",
        "-o", "Acquire::Languages=none",
    ]
    run_tool(["apt-get", *options, "-qq", "update"], APT_TIMEOUT)
    run_tool(
        ["apt-get", *options, "-qq", "-y", "--no-install-recommends", "--download-only",
         "-t", suites[-1], "install", package],
        APT_TIMEOUT,
    )
    return sorted((directory / "cache/archives").glob("*.deb"))
