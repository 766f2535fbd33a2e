"""Files over http: resumed where they stopped, asked for again with growing waits, then verified.

A file is downloaded under a name made of all that is known of it, so that what is left of another
version is never continued. It gets its own name in one `os.replace`, once it is verified.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from ecgnb import __version__

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


CONNECTIONS = 8  # PhysioNet throttles each connection; with many more of them it refuses
TRIES = 5  # in a row that brought nothing new
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
_TIMEOUT_S = (10, 60)  # to connect, and between two pieces
_PIECE = 1 << 15  # what a break in the connection can lose
_PASSING = (429, 500, 502, 503, 504)

Answer = TypeVar("Answer")


class _PassingError(Exception):
    """What may be over when one asks again, and how long the server asks to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def _open_session() -> requests.Session:
    """Open a session with no more connections to a server than it bears."""
    session = requests.Session()
    adapter = HTTPAdapter(pool_maxsize=CONNECTIONS, pool_block=True)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    # Compressed on the way, a file would have another size than announced, and no ranges.
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": f"ecgnb/{__version__}"})
    return session


@dataclass(frozen=True)
class Transfer:
    """What the downloads of one call share.

    Attributes
    ----------
    parts : Path
        A folder for unfinished files.
    session : requests.Session
        At most `CONNECTIONS` connections to a server, which are used again.
    stop : threading.Event
        Set when one download has failed for good, or when the user has had enough.
    """

    parts: Path
    session: requests.Session = field(default_factory=_open_session)
    stop: threading.Event = field(default_factory=threading.Event)


def ask(transfer: Transfer, url: str, method: str = "GET") -> requests.Response:
    """Return a server's whole answer to a request.

    Raises
    ------
    HomeError
        If there is none, or it is not the thing asked for.
    """

    def once() -> requests.Response:
        answer = transfer.session.request(method, url, timeout=_TIMEOUT_S, allow_redirects=True)
        _check(answer, url)
        return answer

    return _patiently(transfer, url, once)


def download(
    transfer: Transfer, entry: Entry, path: Path, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Download a file, or the rest of it.

    Parameters
    ----------
    transfer : Transfer
    entry : Entry
        With its address.
    path : Path
        Where it is put when it is whole and verified.
    advance : callable
        Told the number of bytes that were written, or, below zero, given up.

    Raises
    ------
    HomeError
        If it cannot be had, has changed meanwhile, or is not what was announced.
    OSError
        If it cannot be written.
    """
    known = f"{entry.url} {entry.validator} {entry.size} {entry.checksum}"
    part = transfer.parts / hashlib.sha256(known.encode()).hexdigest()[:24]
    part.parent.mkdir(parents=True, exist_ok=True)
    advance(_size(part))
    for _ in range(2):  # what went wrong on the way once may go right the second time
        _patiently(
            transfer, entry.url, lambda: _rest(transfer, entry, part, advance), lambda: _size(part)
        )
        if is_whole(entry, part):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, path)
            return
        _give_up(part, advance)
    raise HomeError(f"{entry.url} is not what was announced: its checksum or its size is wrong")


def download_all(
    transfer: Transfer, entries: Iterable[Entry], folder: Path, bar: tqdm, *, bytes_known: bool
) -> None:
    """Download files, `CONNECTIONS` at once.

    Parameters
    ----------
    transfer : Transfer
    entries : iterable of Entry
    folder : Path
        Where they belong.
    bar : tqdm
        Told of bytes, or of files where their sizes are not known.
    bytes_known : bool

    Raises
    ------
    HomeError
        If one of them cannot be had; the others that were under way are kept.
    OSError
        If one cannot be written.
    """
    lock = threading.Lock()  # a bar is not made for threads

    def advance(count: int) -> None:
        if transfer.stop.is_set():
            raise HomeError("stopped")
        if bytes_known:
            with lock:
                bar.update(count)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        jobs = [pool.submit(download, transfer, e, folder / e.path, advance) for e in entries]
        try:
            for job in as_completed(jobs):
                job.result()
                if not bytes_known:
                    bar.update(1)
        except BaseException:
            transfer.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _rest(transfer: Transfer, entry: Entry, part: Path, advance: Callable[[int], None]) -> None:
    """Ask once for what is missing of a file, and append what comes."""
    have = _size(part)
    if entry.size is not None and have > entry.size:
        have = _give_up(part, advance)
    if have and have == entry.size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and entry.validator:
        headers["If-Range"] = entry.validator
    get = transfer.session.get(entry.url, headers=headers, stream=True, timeout=_TIMEOUT_S)
    with get as answer:
        continued = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status_code == 416 or (answer.status_code == 206 and not continued):
            _give_up(part, advance)
            raise _PassingError("does not have the rest of the file")
        _check(answer, entry.url)
        if entry.validator and validator(answer) != entry.validator:
            raise HomeError(f"{entry.url} has changed since it was looked up: fetch again")
        if have and answer.status_code != 206:
            have = _give_up(part, advance)  # the server knows no ranges: from the start
        with open(part, "ab") as out:
            for chunk in answer.iter_content(_PIECE):
                have += len(chunk)
                if entry.size is not None and have > entry.size:
                    _give_up(part, advance)
                    raise HomeError(f"{entry.url} is longer than announced")
                out.write(chunk)
                advance(len(chunk))
    if entry.size is not None and have < entry.size:
        raise _PassingError("ended too early")


def _patiently(
    transfer: Transfer,
    url: str,
    once: Callable[[], Answer],
    progress: Callable[[], int] = lambda: 0,
) -> Answer:
    """Do something until it goes right or `TRIES` in a row have brought nothing new."""
    tries, most = 0, progress()
    while True:
        wait = None
        try:
            return once()
        except _PassingError as passing:
            reason, wait = str(passing), passing.wait
        except requests.RequestException as error:
            reason = f"cannot be reached or breaks off ({type(error).__name__})"
        if progress() > most:
            tries, most = 0, progress()
        tries += 1
        if wait is None:
            wait = min(FIRST_WAIT_S * 2 ** (tries - 1), LONGEST_WAIT_S)
        if tries >= TRIES or wait > LONGEST_WAIT_S:
            asked = f" and asks to wait {wait:.0f} s" if wait > LONGEST_WAIT_S else ""
            raise HomeError(f"{url} {reason}{asked}")
        if transfer.stop.wait(wait):
            raise HomeError("stopped")


def _check(answer: requests.Response, url: str) -> None:
    if answer.status_code in _PASSING:
        raise _PassingError(f"answers {answer.status_code}", _wait_asked_for(answer))
    if not answer.ok:
        raise HomeError(f"{url} answers {answer.status_code} {answer.reason}")


def _wait_asked_for(answer: requests.Response) -> float | None:
    asked = answer.headers.get("Retry-After")
    try:
        return Retry().parse_retry_after(asked) if asked else None
    except InvalidHeader:
        return None


def validator(answer: requests.Response) -> str:
    """Return what tells a file from a later one at the same address; "" if nothing does."""
    etag = answer.headers.get("ETag", "")
    # A weak tag may stay the same where bytes change, and is not allowed in a range request.
    return answer.headers.get("Last-Modified", "") if etag[:2] in ("", "W/") else etag


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _give_up(part: Path, advance: Callable[[int], None]) -> int:
    """Remove what was downloaded of a file; return 0, what is left of it."""
    advance(-_size(part))
    part.unlink(missing_ok=True)
    return 0
