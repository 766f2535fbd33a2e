"""The files of a download: what is known of each before it is here, and whether it is whole."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_CHUNK = 1 << 18


class HomeError(Exception):
    """One home of a dataset does not serve it; the text says why, the next home may."""


@dataclass(frozen=True)
class Entry:
    """One file of a download.

    Attributes
    ----------
    path : str
        Where it belongs in the folder of the dataset; checked by `safe_path`.
    size : int or None
        In bytes; None if it is not announced.
    checksum : str
        ``sha256:``, ``md5:`` or ``crc32:`` and the hexadecimal digest; "" if none is published.
    url : str
        Its address; "" for a member of an archive.
    validator : str
        The ETag or the date by which a server tells that the file is still the same; "" if none.
    """

    path: str
    size: int | None = None
    checksum: str = ""
    url: str = ""
    validator: str = ""


def total(entries: tuple[Entry, ...]) -> int | None:
    """Return the size of all of them in bytes; None if one does not announce its size."""
    sizes = [entry.size for entry in entries]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def safe_path(name: str) -> str:
    """Return a name from an archive or a list as it is, if it stays below its folder.

    Raises
    ------
    HomeError
        If it is absolute, leads upwards, or means something else on another system.
    """
    parts = name.split("/")
    # A colon begins a drive or a stream on Windows; a dot-name could hide or replace our own files.
    if (
        any(part in ("", ".", "..") or part.startswith(".ecgnb") for part in parts)
        or any(sign in name for sign in "\\:")
        or not name.isprintable()
    ):
        raise HomeError(f"it names a file {name!r}, which does not stay below its folder")
    return name


class Digest:
    """A checksum that is computed piece by piece."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._crc = 0
        known = algorithm in ("md5", "sha256")
        # Not for security: a computer on which MD5 is forbidden must still see a broken download.
        self._hash = hashlib.new(algorithm, usedforsecurity=False) if known else None

    def update(self, chunk: bytes) -> None:
        """Add a piece."""
        if self._hash is None:
            self._crc = zlib.crc32(chunk, self._crc)
        else:
            self._hash.update(chunk)

    def text(self) -> str:
        """Return the checksum as `Entry` writes it."""
        digest = f"{self._crc:08x}" if self._hash is None else self._hash.hexdigest()
        return f"{self._algorithm}:{digest}"


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Read a file piece by piece."""
    while chunk := file.read(_CHUNK):
        yield chunk


def read_sums(text: str) -> dict[str, str]:
    """Read a ``SHA256SUMS.txt``: the checksum, as `Entry` writes it, by the name of the file."""
    # PhysioNet writes one blank between the two, sha256sum a second one or a star.
    lines = re.findall(r"^([0-9a-fA-F]{64}) [ *]?(?:\./)?(.+?)\r?$", text, re.MULTILINE)
    return {name: f"sha256:{digest.lower()}" for digest, name in lines}


def is_whole(entry: Entry, path: Path) -> bool:
    """Return whether a file is there with the size and the checksum that were announced."""
    try:
        if entry.size is not None and path.stat().st_size != entry.size:
            return False
        if not entry.checksum:
            return path.is_file()
        digest = Digest(entry.checksum.partition(":")[0])
        with open(path, "rb") as file:
            for chunk in chunks(file):
                digest.update(chunk)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    return digest.text() == entry.checksum
