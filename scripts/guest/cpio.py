"""Writes cpio archives in the "newc" format, which the kernel unpacks as an initramfs.

The format is described in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from pathlib import Path, PurePosixPath


class Archive:
    """An archive in memory. Parent directories are added as needed."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._names: set[str] = set()

    def add_directory(self, name: str) -> None:
        """Adds a directory, unless it is there already."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, content: bytes, mode: int = 0o755) -> None:
        """Adds a file, unless one of that name is there already."""
        self._add(name, stat.S_IFREG | mode, content)

    def copy_file(self, source: Path, name: str | None = None) -> None:
        """Adds a file of this machine, by default under its own path."""
        self.add_file(name or str(source), source.read_bytes())

    def finish(self) -> bytes:
        """Returns the archive with its trailer."""
        self._write("TRAILER!!!", 0, b"")
        return bytes(self._data)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        path = PurePosixPath(name.lstrip("/"))
        if str(path) in self._names:
            return
        if path.parent != PurePosixPath("."):
            self.add_directory(str(path.parent))
        self._names.add(str(path))
        self._write(str(path), mode, content)

    def _write(self, name: str, mode: int, content: bytes) -> None:
        inode = len(self._names)
        name_bytes = name.encode() + b"\0"
        # magic; ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor,
        # rdevminor, namesize, check
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name_bytes), 0)
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + name_bytes
        self._align()
        self._data += content
        self._align()

    def _align(self) -> None:
        self._data += b"\0" * (-len(self._data) % 4)
