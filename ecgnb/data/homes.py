"""What the homes of a dataset offer: an archive, or a list of files with sizes and checksums.

A home is an address; how it is asked follows from what it points at: an archive
(``.../name.zip``), the list of a folder in an S3 bucket (``.../?list-type=2&prefix=folder/``),
PhysioNet's list of a project, of which only a folder may be wanted
(``.../SHA256SUMS.txt#folder/``), or an archive that a record of Zenodo lists with its checksum
(``.../api/records/1#name.zip``).
"""

import errno
import json
import posixpath
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, urldefrag, urlencode, urlsplit, urlunsplit
from xml.etree import ElementTree

from ecgnb.data import download
from ecgnb.data.download import Entry, HomeError, Transfer, is_whole, read, read_sums, safe_path

MOST_COMPRESSED = 20  # ECGs take about half of their size; what takes less than this is a bomb
MOST_FILES = 2_000_000  # of a dataset: more than any has
_CHUNK = 1 << 18
_SUMS = "SHA256SUMS.txt"
_DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


def list_members(archive: Path) -> dict[str, Entry]:
    """List the files of an archive by their names in it, without the folder that encloses them all.

    The checksum is that of the ``SHA256SUMS.txt`` in the archive where it names the file, else the
    archive's own.
    """
    with _open(archive) as opened:
        infos = opened.infolist()
        if not _announced(archive, len(infos)):
            raise HomeError("its directory has lost files")
        for info in infos:
            # `zipfile` turns backslashes into slashes on Windows and cuts names at a null byte.
            safe_path(info.orig_filename.removesuffix("/"))
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise HomeError(f"{info.filename!r} in it is a link or a device, not a plain file")
        files = [info for info in infos if not info.is_dir()]
        unpacked = sum(info.file_size for info in files)
        if unpacked > MOST_COMPRESSED * archive.stat().st_size:
            raise HomeError(f"it would unpack to {unpacked / 1e6:,.0f} MB, as no dataset does")
        tops = {info.filename.partition("/")[0] for info in files}
        inside = all("/" in info.filename for info in files)
        top = f"{tops.pop()}/" if inside and len(tops) == 1 else ""
        names = [info.filename.removeprefix(top) for info in files]
        folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
        if len(set(names)) < len(names) or folders.intersection(names):
            raise HomeError("it holds two files of one name")
        sums: dict[str, str] = {}
        if _SUMS in names:
            if opened.getinfo(top + _SUMS).file_size > download.MOST_LISTED:
                raise HomeError(f"its {_SUMS} is longer than any list of files")
            sums = read_sums(opened.read(top + _SUMS).decode(errors="replace"))
        if lost := sums.keys() - set(names):
            raise HomeError(f"it lacks {len(lost)} of the files in its {_SUMS}, as {min(lost)!r}")
        return {
            info.filename: Entry(name, info.file_size, sums.get(name, f"crc32:{info.CRC:08x}"))
            for info, name in zip(files, names, strict=True)
        }


def _announced(archive: Path, count: int) -> bool:
    """Tell whether an archive has as many members as the record at its end says."""
    with open(archive, "rb") as file:
        start = file.seek(max(0, archive.stat().st_size - (1 << 16) - 22))
        tail = file.read()
        end = tail.rfind(b"PK\x05\x06")
        if tail[max(0, end - 20) :].startswith(b"PK\x06\x07"):  # what has no room in the record
            (at,) = struct.unpack_from("<Q", tail, end - 12)
            file.seek(at)
            record = file.read(40) if at < start + len(tail) else b""
            return len(record) == 40 and struct.unpack_from("<Q", record, 32) == (count,)
    return struct.unpack_from("<H", tail, end + 10) == (count & 0xFFFF,)


def unpack(
    archive: Path, members: dict[str, Entry], folder: Path, advance: Callable[[int], object]
) -> None:
    """Unpack some members into a folder; those that an earlier call has unpacked whole are kept."""
    with _open(archive) as opened:
        for name, entry in members.items():
            path = folder / entry.path
            if is_whole(entry, path):
                advance(entry.size or 0)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(name) as packed, open(path, "wb") as out:
                while chunk := packed.read(_CHUNK):  # which ends at the size announced
                    advance(out.write(chunk))
            if not is_whole(entry, path):
                path.unlink()
                raise HomeError(f"{entry.path} in it does not have its published checksum")


@contextmanager
def _open(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (*_DAMAGES, OSError) as error:
        # Where a damaged directory points cannot be read from; nothing else is invalid here.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise HomeError(f"it is no whole zip archive ({error})") from error


def is_archive(home: str) -> bool:
    """Return whether a home offers one archive rather than single files."""
    return kind(home) in ("archive", "zenodo")


def kind(home: str) -> str:
    """Name the kind of a home: archive, s3, sums or zenodo; "" if it is none of them."""
    parts = urlsplit(home)
    if "list-type=2" in parts.query.split("&"):
        return "s3"
    if parts.path.endswith(f"/{_SUMS}"):
        return "sums"
    if "/api/records/" in parts.path and parts.fragment.endswith(".zip"):
        return "zenodo"
    return "archive" if parts.path.endswith(".zip") else ""


def look(transfer: Transfer, home: str) -> list[Entry]:
    """Ask a home what files it offers; of an archive, the archive itself."""
    ways = {"s3": _bucket, "sums": _sums, "zenodo": _zenodo, "archive": _archive}
    try:
        way = ways.get(kind(home))
        entries = way(transfer, home) if way else []
    except (ValueError, KeyError, TypeError, RecursionError, ElementTree.ParseError) as error:
        raise HomeError(f"{home} answers with something that is no list of files") from error
    if not entries:
        wrong = "lists no file" if way else "is not an address of a kind that ecgnb knows"
        raise HomeError(f"{home} {wrong}")
    return entries


def _archive(transfer: Transfer, home: str) -> list[Entry]:
    with download.ask(transfer, home, "HEAD") as answer:
        size = answer.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise HomeError(f"{home} does not say how large it is")
        name = posixpath.basename(urlsplit(home).path)
        return [Entry(safe_path(name), int(size), "", home, download.validator(answer))]


def _bucket(transfer: Transfer, home: str) -> list[Entry]:
    parts = urlsplit(home)
    query = dict(parse_qsl(parts.query))
    prefix = query.get("prefix", "")
    entries: dict[str, Entry] = {}
    while True:
        had = len(entries)
        address = urlunsplit(parts._replace(query=urlencode(query)))
        page = ElementTree.fromstring(read(transfer, address))
        for item in page.iterfind("{*}Contents"):
            key = item.findtext("{*}Key", "")
            if not key.startswith(prefix) or key.endswith("/"):  # a folder's own entry
                continue
            etag = item.findtext("{*}ETag", "")
            # The tag of an object that was sent in one piece is its MD5.
            md5 = re.fullmatch(r'"?([0-9a-f]{32})"?', etag)
            entries[key] = Entry(
                safe_path(key.removeprefix(prefix)),
                int(item.findtext("{*}Size", "")),
                f"md5:{md5[1]}" if md5 else "",
                urlunsplit((parts.scheme, parts.netloc, f"/{quote(key)}", "", "")),
                etag,
            )
        token = page.findtext("{*}NextContinuationToken")
        if not token:
            break
        if len(entries) == had or len(entries) > MOST_FILES:
            raise HomeError(f"{home} is a list without end")
        query["continuation-token"] = token
    # What the tags of large objects do not say, a list of checksums among the files may.
    sums, files = {}, entries.values()
    urls = [entry.url for entry in files if entry.path == _SUMS]
    if urls and not all(entry.checksum for entry in files):
        sums = read_sums(read(transfer, urls[0]).decode(errors="replace"))
    return [replace(e, checksum=e.checksum or sums.get(e.path, "")) for e in files]


def _sums(transfer: Transfer, home: str) -> list[Entry]:
    address, folder = urldefrag(home)
    base = address.removesuffix(_SUMS)
    return [
        Entry(safe_path(name.removeprefix(folder)), None, checksum, base + quote(name))
        for name, checksum in read_sums(read(transfer, address).decode(errors="replace")).items()
        if name.startswith(folder)
    ]


def _zenodo(transfer: Transfer, home: str) -> list[Entry]:
    address, wanted = urldefrag(home)
    return [
        Entry(safe_path(wanted), int(one["size"]), one["checksum"], one["links"]["self"])
        for one in json.loads(read(transfer, address))["files"]
        if one["key"] == wanted and re.fullmatch("md5:[0-9a-f]{32}", one["checksum"])
    ]
