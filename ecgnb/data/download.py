"""Files over http: resumed where they stopped, asked for again with growing waits, then verified.

A file has a name made of all that is known of it, so that no other version is ever continued, until
it is whole.
"""

import hashlib
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import InvalidHeader, MaxRetryError, ProtocolError
from urllib3.util import Retry

from ecgnb import __version__
from ecgnb.data.catalog import is_plain
from ecgnb.errors import UserError

CONNECTIONS = 8  # PhysioNet throttles each connection; with many more of them it refuses
TRIES = 5  # in a row that brought nothing new
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
MOST_LISTED = 100_000_000  # bytes of a list of files: five times the longest known
_TIMEOUT_S = (10, 60)  # to connect, and between two pieces
_PIECE = 1 << 15  # what a break in the connection can lose
_CHUNK = 1 << 18


class HomeError(Exception):
    """One home of a dataset does not serve it; the text says why, the next home may."""


class BreakError(HomeError):
    """A server broke off; the rest may come if it is asked again."""


@dataclass(frozen=True)
class Entry:
    """One file of a download."""

    path: str  # where it belongs in the folder of the dataset; checked by `safe_path`
    size: int | None = None  # in bytes; None if it is not announced
    checksum: str = ""  # sha256:, md5: or crc32: and the hexadecimal digest; "" if not published
    url: str = ""  # "" for a member of an archive
    validator: str = ""  # the ETag or date by which a server tells it is still the same; "" if none

    @property
    def key(self) -> str:
        """A name that no other version of the file has."""
        known = f"{self.url} {self.validator} {self.size} {self.checksum}"
        return hashlib.sha256(known.encode()).hexdigest()[:24]


def total(entries: Iterable[Entry]) -> int | None:
    """Return the size of all of them in bytes; None if one does not announce its size."""
    sizes = [entry.size for entry in entries]
    return None if None in sizes else sum(filter(None, sizes))


def safe_path(name: str) -> str:
    """Return a name from an archive or a list as it is, or raise a HomeError if it is not plain."""
    if not is_plain(name, hidden=True):
        raise HomeError(f"it names a file {name!r}, which does not stay below its folder")
    return name


def read_sums(text: str) -> dict[str, str]:
    """Read a ``SHA256SUMS.txt``: the checksum, as `Entry` writes it, by the name of the file."""
    # PhysioNet writes one blank between the two, sha256sum a second one or a star.
    lines = re.findall(r"^([0-9a-fA-F]{64}) [ *]?(?:\./)?(.+?)\r?$", text, re.MULTILINE)
    return {name: f"sha256:{digest.lower()}" for digest, name in lines}


def is_whole(entry: Entry, path: Path) -> bool:
    """Return whether a regular file is there with the size and the checksum that were announced."""
    if not path.is_file() or entry.size not in (None, path.stat().st_size):
        return False
    if not entry.checksum:
        return True
    algorithm, _, wanted = entry.checksum.partition(":")
    with open(path, "rb") as file:
        if algorithm == "crc32":
            value = 0
            while chunk := file.read(_CHUNK):
                value = zlib.crc32(chunk, value)
            return f"{value:08x}" == wanted
        # Not for security: a computer on which MD5 is forbidden must still see a broken download.
        kind = partial(hashlib.new, algorithm, usedforsecurity=False)
        return hashlib.file_digest(file, kind).hexdigest() == wanted


class Transfer:
    """What the downloads of one call share."""

    def __init__(self, parts: Path) -> None:
        self.parts = parts  # a folder for unfinished files
        # Set when one download has failed for good, or when the user has had enough.
        self.stop = threading.Event()
        self.patience = _patience(self.stop)
        self.session = requests.Session()
        adapter = HTTPAdapter(pool_maxsize=CONNECTIONS, pool_block=True, max_retries=self.patience)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)
        # Compressed on the way, a file would have another size than announced, and no ranges.
        self.session.headers["Accept-Encoding"] = "identity"
        self.session.headers["User-Agent"] = f"ecgnb/{__version__}"


def _patience(stop: threading.Event) -> Retry:
    """Say how often, and after which waits, a server is asked again."""

    class Patience(Retry):
        def sleep(self, response: Any = None) -> None:
            wait = None
            with suppress(InvalidHeader):
                wait = self.get_retry_after(response) if response else None
            if wait and wait > LONGEST_WAIT_S:
                asked = f"answers {response.status} and asks to wait {wait:.0f} s"
                raise HomeError(f"the server {asked}")
            if stop.wait(self.get_backoff_time() if wait is None else wait):
                raise HomeError("stopped")

    return Patience(
        TRIES - 1,
        backoff_factor=FIRST_WAIT_S,
        backoff_max=LONGEST_WAIT_S,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
    )


@contextmanager
def ask(
    transfer: Transfer, url: str, method: str = "GET", **headers: str
) -> Iterator[requests.Response]:
    """Open the answer of a server, whose body is still to be read."""
    begun = False
    try:
        with transfer.session.request(
            method, url, headers=headers, stream=True, timeout=_TIMEOUT_S
        ) as answer:
            begun = True
            if not answer.ok and answer.status_code != 416:
                raise HomeError(f"{url} answers {answer.status_code}")
            yield answer
    except requests.RequestException as error:
        kind = type(error).__name__
        if isinstance(error, requests.exceptions.SSLError):
            kind += "; REQUESTS_CA_BUNDLE may name the certificates that your network needs"
        broken = BreakError if begun else HomeError
        raise broken(f"{url} cannot be reached or breaks off ({kind})") from error
    except OSError as error:
        if begun:  # of the file that is written
            raise
        raise UserError(f"{error}: correct or unset REQUESTS_CA_BUNDLE") from error


def read(transfer: Transfer, url: str) -> bytes:
    """Return a list of files, or raise a HomeError if it cannot be had or has no end."""
    content = bytearray()
    with ask(transfer, url) as answer:
        for chunk in answer.iter_content(_PIECE):
            content += chunk
            if len(content) > MOST_LISTED:
                raise HomeError(f"{url} is longer than any list of files")
    return bytes(content)


def download(
    transfer: Transfer, entry: Entry, path: Path, advance: Callable[[int], object]
) -> None:
    """Download a file, or the rest of it, and put it at `path` when it is whole and verified.

    `advance` is told the number of bytes that were written, or, below zero, given up.
    """
    part = transfer.parts / entry.key
    part.parent.mkdir(parents=True, exist_ok=True)
    advance(most := _size(part))
    patience, wrong = transfer.patience, 0
    while wrong < 2:  # what went wrong on the way once may go right the second time
        try:
            _rest(transfer, entry, part, advance)
        except BreakError as error:
            if (size := _size(part)) > most:
                patience, most = transfer.patience, size
            try:
                patience = patience.increment("GET", entry.url, error=ProtocolError(error))
                patience.sleep()
            except MaxRetryError:
                raise error from None
            continue
        if is_whole(entry, part):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, path)
            return
        _give_up(part, advance)
        wrong += 1
    raise HomeError(f"{entry.url} is not what was announced: its checksum or its size is wrong")


def _rest(transfer: Transfer, entry: Entry, part: Path, advance: Callable[[int], object]) -> None:
    """Ask once for what is missing of a file, and append what comes."""
    have = _size(part)
    if have and have == entry.size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and entry.validator:
        headers["If-Range"] = entry.validator
    with ask(transfer, entry.url, **headers) as answer:
        continued = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status_code == 416 or (answer.status_code == 206 and not continued):
            _give_up(part, advance)
            raise BreakError(f"{entry.url} does not have the rest of the file")
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
        raise BreakError(f"{entry.url} ended too early")


def download_all(
    transfer: Transfer, entries: Iterable[Entry], folder: Path, bar: tqdm, *, bytes_known: bool
) -> None:
    """Download files into a folder; the bar counts files where their sizes are not known."""
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


def validator(answer: requests.Response) -> str:
    """Return what tells a file from a later one at the same address; "" if nothing does."""
    etag = answer.headers.get("ETag", "")
    # A weak tag may stay the same where bytes change, and is not allowed in a range request.
    return answer.headers.get("Last-Modified", "") if etag[:2] in ("", "W/") else etag


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _give_up(part: Path, advance: Callable[[int], object]) -> int:
    """Remove what was downloaded of a file; return 0, what is left of it."""
    advance(-_size(part))
    part.unlink(missing_ok=True)
    return 0
