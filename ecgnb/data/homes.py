"""What the homes of a dataset offer: an archive, or a list of files with sizes and checksums.

A home is an address; how it is asked follows from what it points at:

``https://.../name.zip``
    an archive;
``https://bucket.../?list-type=2&prefix=folder/``
    the list of a folder in an S3 bucket (ListObjectsV2);
``https://.../SHA256SUMS.txt#folder/``
    PhysioNet's list of a project, of which only a folder may be wanted;
``https://zenodo.org/api/records/1#name.zip``
    an archive that a record of Zenodo lists with its checksum.
"""

from __future__ import annotations

import json
import posixpath
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, urldefrag, urlencode, urlsplit, urlunsplit
from xml.etree import ElementTree

from ecgnb.data.download import (
    Digest,
    Entry,
    HomeError,
    Transfer,
    ask,
    chunks,
    is_whole,
    read_sums,
    safe_path,
    total,
    validator,
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


@dataclass(frozen=True)
class Offer:
    """What a home offers.

    Attributes
    ----------
    home : str
        Its address.
    entries : tuple of Entry
        The files; of an archive, the archive itself.
    archive : bool
    """

    home: str
    entries: tuple[Entry, ...]
    archive: bool

    @property
    def size(self) -> int | None:
        """The number of bytes to be downloaded; None if they are not announced."""
        return total(self.entries)


def is_archive(home: str) -> bool:
    """Return whether a home offers one archive rather than single files."""
    return home.endswith(".zip")


def kind(home: str) -> str:
    """Name the kind of a home: archive, s3, sums or zenodo; "" if it is none of them."""
    parts = urlsplit(home)
    if "list-type=2" in parts.query.split("&"):
        return "s3"
    if parts.path.endswith("/SHA256SUMS.txt"):
        return "sums"
    if "/api/records/" in parts.path and parts.fragment.endswith(".zip"):
        return "zenodo"
    return "archive" if parts.path.endswith(".zip") else ""


def look(transfer: Transfer, home: str) -> Offer:
    """Ask a home what it offers.

    Raises
    ------
    HomeError
        If it does not answer, or not with what it is for.
    """
    ways = {"s3": _bucket, "sums": _sums, "zenodo": _zenodo, "archive": _archive}
    if (way := kind(home)) not in ways:
        raise HomeError(f"{home} is not an address of a kind that ecgnb knows")
    entries = ways[way](transfer, home)
    if not entries:
        raise HomeError(f"{home} lists no file")
    return Offer(home, tuple(entries), is_archive(home))


def _archive(transfer: Transfer, home: str) -> list[Entry]:
    answer = ask(transfer, home, "HEAD")
    size = answer.headers.get("Content-Length", "")
    if not size.isdigit():
        raise HomeError(f"{home} does not say how large it is")
    name = posixpath.basename(urlsplit(home).path)
    return [Entry(safe_path(name), int(size), "", home, validator(answer))]


def _bucket(transfer: Transfer, home: str) -> list[Entry]:
    parts = urlsplit(home)
    query = dict(parse_qsl(parts.query))
    prefix = query.get("prefix", "")
    entries: list[Entry] = []
    while True:
        answer = ask(transfer, urlunsplit(parts._replace(query=urlencode(query))))
        try:
            page = ElementTree.fromstring(answer.content)
        except ElementTree.ParseError as error:
            raise HomeError(f"{home} answers with something that is no list of files") from error
        for item in page.iterfind("{*}Contents"):
            key = item.findtext("{*}Key", "")
            if not key.startswith(prefix) or key.endswith("/"):  # a folder's own entry
                continue
            etag = item.findtext("{*}ETag", "")
            # The tag of an object that was sent in one piece is its MD5.
            md5 = re.fullmatch(r'"?([0-9a-f]{32})"?', etag)
            entries.append(
                Entry(
                    safe_path(key.removeprefix(prefix)),
                    int(item.findtext("{*}Size", "")),
                    f"md5:{md5[1]}" if md5 else "",
                    urlunsplit((parts.scheme, parts.netloc, f"/{quote(key)}", "", "")),
                    etag,
                )
            )
        token = page.findtext("{*}NextContinuationToken")
        if not token:
            return _with_sums(transfer, entries)
        query["continuation-token"] = token


def _with_sums(transfer: Transfer, entries: list[Entry]) -> list[Entry]:
    """Take from a ``SHA256SUMS.txt`` among the files what the tags of large objects do not say."""
    urls = [entry.url for entry in entries if entry.path == "SHA256SUMS.txt"]
    if not urls or all(entry.checksum for entry in entries):
        return entries
    sums = read_sums(ask(transfer, urls[0]).content.decode(errors="replace"))
    return [replace(e, checksum=e.checksum or sums.get(e.path, "")) for e in entries]


def _sums(transfer: Transfer, home: str) -> list[Entry]:
    address, folder = urldefrag(home)
    text = ask(transfer, address).content.decode(errors="replace")
    base = address.removesuffix("SHA256SUMS.txt")
    return [
        Entry(safe_path(name.removeprefix(folder)), None, checksum, base + quote(name))
        for name, checksum in read_sums(text).items()
        if name.startswith(folder)
    ]


def _zenodo(transfer: Transfer, home: str) -> list[Entry]:
    address, wanted = urldefrag(home)
    try:
        files = json.loads(ask(transfer, address).content)["files"]
        return [
            Entry(safe_path(wanted), int(one["size"]), one["checksum"], one["links"]["self"])
            for one in files
            if one["key"] == wanted and re.fullmatch("md5:[0-9a-f]{32}", one["checksum"])
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise HomeError(f"{address} answers with something that is no record of Zenodo") from error
