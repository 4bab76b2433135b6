"""A disk image on the host, to compare what is in it with what the guest sees."""

import hashlib
import os
from pathlib import Path

MIB = 1 << 20


class ImageFile:
    """A new sparse image of a given size in MiB. Offsets and lengths are in MiB."""

    def __init__(self, directory: Path, size: int) -> None:
        self.path = directory / "disk.raw"
        self.path.unlink(missing_ok=True)
        self.path.touch()
        self.resize(size)

    def resize(self, size: int) -> None:
        """Makes it longer or shorter."""
        os.truncate(self.path, size * MIB)

    def fill(self, length: int) -> None:
        """Writes random bytes to its beginning."""
        with self.path.open("r+b") as file:
            for _ in range(length):
                file.write(os.urandom(MIB))

    def blocks(self) -> int:
        """Returns how much of the file is allocated, in blocks of 512 bytes."""
        return self.path.stat().st_blocks

    def sum(self, offset: int, length: int) -> str:
        """Returns the SHA-256 of a part."""
        return sum_of(self.path, offset, length)


def sum_of(path: Path, offset: int, length: int) -> str:
    """Returns the SHA-256 of a part of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset * MIB)
        for _ in range(length):
            digest.update(file.read(MIB))
    return digest.hexdigest()


def sum_of_zeroes(length: int) -> str:
    """Returns the SHA-256 of so many MiB of zeroes."""
    return hashlib.sha256(bytes(length * MIB)).hexdigest()
