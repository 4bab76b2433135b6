"""The guest's kernel, from a Debian package, and its initramfs."""

import hashlib
import lzma
import platform
import re
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .cpio import Archive
from .errors import CheckFailed, Unavailable
from .process import run_tool

# In the order in which they must be loaded. One that is not found is built in or part of another.
BASE_MODULES = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
)
# Packed into every guest, where this machine has them.
BASE_PROGRAMS = ("mke2fs", "blkdiscard")
PACKAGE_TIMEOUT = 120.0


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the directory that has its modules."""

    image: Path
    modules: Path
    version: str

    def module(self, name: str) -> bytes | None:
        """Returns the content of a module, uncompressed, or None if there is no such file."""
        pattern = module_pattern([name])
        for path in sorted(self.modules.rglob("*.ko*")):
            if not pattern.search(f"/{path.name}"):
                continue
            match path.suffix:
                case ".ko":
                    return path.read_bytes()
                case ".xz":
                    return lzma.decompress(path.read_bytes())
                case suffix:
                    raise CheckFailed(f"{path.name}: {suffix} modules are not supported")
        return None


def module_pattern(names: list[str]) -> re.Pattern[str]:
    """Returns what matches the paths of these modules; - and _ are the same in their names."""
    either = "|".join(name.replace("_", "[-_]") for name in names)
    return re.compile(rf"/(?:{either})\.ko(?:\.\w+)?$")


def publish(directory: Path, target: Path) -> None:
    """Renames a finished directory to its name in the cache."""
    try:
        directory.rename(target)
    except OSError:
        # Another run was faster; its result is as good.
        if not target.is_dir():
            raise


class KernelFinder:
    """Finds a kernel: a given package, an installed one, one in the cache, or a download."""

    def __init__(
        self, cache: Path, package: Path | None, install: bool, modules: list[str]
    ) -> None:
        self._cache = cache
        self._package = package
        self._install = install
        self._modules = modules

    def find(self) -> Kernel:
        """Returns the kernel. Raises Unavailable if there is none."""
        if self._package is not None:
            return self._unpack(self._package)
        installed = self._installed()
        if installed is not None:
            return installed
        packages_here = self._cache.glob("linux-image-*.deb")
        cached = sorted(packages_here, key=lambda path: path.stat().st_mtime)
        if cached:
            return self._unpack(cached[-1])
        if self._install:
            return self._unpack(packages.download_kernel(self._cache))
        raise Unavailable(
            "everything: no Debian cloud kernel here "
            "(--install downloads one, --kernel takes a package)"
        )

    @staticmethod
    def _installed() -> Kernel | None:
        for image in sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"), reverse=True):
            version = image.name.removeprefix("vmlinuz-")
            modules = Path("/lib/modules", version)
            if modules.is_dir():
                return Kernel(image, modules, version)
        return None

    def _unpack(self, package: Path) -> Kernel:
        """Takes the image and the needed modules out of a package; they stay cached."""
        try:
            status = package.stat()
        except OSError as error:
            raise CheckFailed(f"{package}: {error.strerror}") from error
        key = f"{package.resolve()} {status.st_size} {status.st_mtime_ns} {self._modules}"
        target = self._cache / f"kernel-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=self._cache, prefix="unpacking-") as directory:
                unpacked = Path(directory, "kernel")
                unpacked.mkdir()
                self._extract(package, unpacked)
                publish(unpacked, target)
        image = next(target.glob("vmlinuz-*"), None)
        if image is None:
            raise CheckFailed(f"{package}: there is no kernel in this package")
        return Kernel(image, target, image.name.removeprefix("vmlinuz-"))

    def _extract(self, package: Path, target: Path) -> None:
        wanted = re.compile(r"/boot/vmlinuz-[^/]+$|" + module_pattern(self._modules).pattern)
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as unpacker:
            try:
                with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
                    for member in archive:
                        if not member.isfile() or not wanted.search(member.name):
                            continue
                        content = archive.extractfile(member)
                        if content is not None:
                            (target / Path(member.name).name).write_bytes(content.read())
            except tarfile.TarError as error:
                raise CheckFailed(f"{package}: dpkg-deb cannot read this package") from error
            finally:
                # It may have more to write if the archive was left early.
                unpacker.kill()


class InitramfsMaker:
    """Builds the guest's file system: busybox, modules, our init, and programs of this machine."""

    def __init__(self, kernel: Kernel, modules: list[str], target: Path) -> None:
        self._kernel = kernel
        self._modules = modules
        self._target = target
        self._made: dict[tuple[str, ...], Path] = {}

    def make(self, programs: tuple[str, ...] = ()) -> Path:
        """Returns an initramfs with these programs besides the basic ones."""
        if programs not in self._made:
            path = self._target / "-".join(["initramfs", *programs])
            path.write_bytes(self._build(programs))
            self._made[programs] = path
        return self._made[programs]

    def _build(self, programs: tuple[str, ...]) -> bytes:
        archive = Archive()
        for directory in ("bin", "proc", "sys", "dev", "mnt", "tmp", "modules"):
            archive.add_directory(directory)
        busybox = packages.find_program("busybox")
        if busybox is None:
            raise Unavailable("everything: this machine lacks busybox-static (--install gets it)")
        archive.copy_file(busybox, "bin/busybox")
        archive.copy_file(Path(__file__).with_name("init.sh"), "init")
        for name in self._modules:
            content = self._kernel.module(name)
            if content is not None:
                archive.add_file(f"modules/{name}.ko", content)
        for program in (*BASE_PROGRAMS, *programs):
            path = packages.find_program(program)
            if path is not None:
                self._pack(archive, path)
        return archive.finish()

    @staticmethod
    def _pack(archive: Archive, program: Path) -> None:
        """Adds a program to /bin, and the libraries it needs under their own paths."""
        archive.copy_file(program, f"bin/{program.name}")
        libraries = re.findall(r"/\S+", run_tool(["ldd", program], PACKAGE_TIMEOUT))
        # Engines of fio that are plugins are opened by name.
        plugin = Path(f"/usr/lib/{platform.machine()}-linux-gnu/fio/fio-libaio.so")
        if program.name == "fio" and plugin.is_file():
            needs = run_tool(["ldd", plugin], PACKAGE_TIMEOUT)
            libraries += [str(plugin), *re.findall(r"/\S+", needs)]
        for library in libraries:
            if Path(library).is_file():
                archive.copy_file(Path(library))
