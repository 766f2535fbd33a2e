"""Zip archives of datasets: everything in them is looked at before anything is written."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ecgnb.data.entries import (
    Digest,
    Entry,
    HomeError,
    chunks,
    is_whole,
    read_sums,
    safe_path,
)

MOST_COMPRESSED = 20  # ECGs take about half of their size; what takes less than this is a bomb


def list_members(archive: Path) -> dict[str, Entry]:
    """List the files of an archive of a dataset, without the folder that encloses them all.

    Parameters
    ----------
    archive : Path

    Returns
    -------
    dict of str to Entry
        By the name in the archive. The checksum is that of the ``SHA256SUMS.txt`` in the archive
        where it names the file, else the archive's own.

    Raises
    ------
    HomeError
        If it is no whole archive, or holds what would be written outside the folder, is no plain
        file, or unpacks to far more than a dataset does.
    """
    with _open(archive) as opened:
        for info in opened.infolist():
            _check(info)
        files = [info for info in opened.infolist() if not info.is_dir()]
        unpacked = sum(info.file_size for info in files)
        if unpacked > MOST_COMPRESSED * archive.stat().st_size:
            raise HomeError(f"it would unpack to {unpacked / 1e6:,.0f} MB, as no dataset does")
        tops = {info.filename.partition("/")[0] for info in files}
        inside = all("/" in info.filename for info in files)
        top = f"{tops.pop()}/" if inside and len(tops) == 1 else ""
        names = [info.filename.removeprefix(top) for info in files]
        if len(set(names)) < len(names) or _file_and_folder(names):
            raise HomeError("it holds two files of one name")
        sums: dict[str, str] = {}
        if "SHA256SUMS.txt" in names:
            sums = read_sums(opened.read(f"{top}SHA256SUMS.txt").decode(errors="replace"))
        return {
            info.filename: Entry(name, info.file_size, sums.get(name, f"crc32:{info.CRC:08x}"))
            for info, name in zip(files, names, strict=True)
        }


def unpack(
    archive: Path, members: dict[str, Entry], folder: Path, advance: Callable[[int], None]
) -> None:
    """Unpack files of an archive; those that an earlier call has unpacked are kept.

    Parameters
    ----------
    archive : Path
    members : dict of str to Entry
        As `list_members` gives them, or some of them.
    folder : Path
        Where they are put. Of a call that was stopped, one file may be there in part; the next
        call sees it by its checksum and writes it again.
    advance : callable
        Told the number of bytes that are done.

    Raises
    ------
    HomeError
        If a file is not what its checksum says.
    OSError
        If one cannot be written.
    """
    with _open(archive) as opened:
        for name, entry in members.items():
            path = folder / entry.path
            if is_whole(entry, path):
                advance(entry.size or 0)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = Digest(entry.checksum.partition(":")[0])
            with opened.open(name) as packed, open(path, "wb") as out:
                for chunk in chunks(packed):  # which ends at the size announced
                    digest.update(chunk)
                    out.write(chunk)
                    advance(len(chunk))
            if digest.text() != entry.checksum:
                path.unlink()
                raise HomeError(f"{entry.path} in it does not have its published checksum")


def _check(info: zipfile.ZipInfo) -> None:
    # `zipfile` turns backslashes into slashes on Windows and cuts names at a null byte.
    safe_path(info.orig_filename.removesuffix("/"))
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise HomeError(f"{info.filename!r} in it is a link or a device, not a plain file")
    if info.flag_bits & 1:
        raise HomeError(f"{info.filename!r} in it is encrypted")


def _file_and_folder(names: Iterable[str]) -> bool:
    """Return whether one name is that of a file and of the folder of another file."""
    files = set(names)
    folders = {name[:at] for name in files for at, sign in enumerate(name) if sign == "/"}
    return bool(files & folders)


@contextmanager
def _open(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise HomeError(f"it is no whole zip archive ({error})") from error
