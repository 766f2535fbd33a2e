"""Downloads of public datasets into the folder of ``ECGNB_DATA``: resumed, verified, whole.

`fetch` asks the homes of a dataset in turn. Whatever stops it, what has arrived is kept, and
nothing half-written is ever taken for a dataset.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from ecgnb.data.catalog import CATALOG, DatasetCard, card, data_root, find, is_plain, parts
from ecgnb.data.download import Entry, HomeError, Transfer, download, download_all, is_whole, total
from ecgnb.data.homes import Offer, is_archive, list_members, look, unpack
from ecgnb.errors import UserError
from ecgnb.files import locked

_MARK = ".ecgnb-whole.json"
_SIGNALS = (".hea", ".mat", ".dat")


@dataclass(frozen=True)
class Place:
    """Where a dataset goes.

    Attributes
    ----------
    card : DatasetCard
    folder : Path
        Where it lies, or will lie.
    there : bool
        Whether there is something already.
    work : Path
        Where unfinished things are.
    left_out : tuple of str
        Folders of the download that are not wanted.
    """

    card: DatasetCard
    folder: Path
    there: bool
    work: Path
    left_out: tuple[str, ...]

    @property
    def tree(self) -> Path:
        """Where the files of the folder are gathered."""
        return self.work / "tree" / self.folder.relative_to(_first_to_make(self.folder))

    def wants(self, entry: Entry) -> bool:
        """Return whether a file of a download belongs here."""
        if entry.path.startswith(self.left_out):
            return False
        path = PurePosixPath(entry.path)
        if not self.card.record_range or path.suffix not in _SIGNALS or self._shared():
            return True
        first, last = self.card.record_range
        return first <= path.stem <= last

    def _shared(self) -> bool:
        """Return whether the folder is also that of the other dataset of the same download."""
        twins = (c for c in CATALOG.values() if c.homes == self.card.homes and c != self.card)
        ends = [folder for twin in twins for folder in twin.folders]
        return any(self.folder.as_posix().endswith(f"/{end}") for end in ends)

    def holds_another_copy(self, entries: Iterable[Entry]) -> bool:
        """Return whether what is there has none of the records where the download has them."""
        if not self.there or not any(self.folder.iterdir()):
            return False
        entries = list(entries)
        records = [entry for entry in entries if entry.path.endswith(".hea")] or entries
        return not any((self.folder / entry.path).exists() for entry in records)


def place_of(card: DatasetCard, root: Path, *, everything: bool) -> Place:
    """Find or choose the folder of a dataset under the data root.

    Raises
    ------
    UserError
        If a folder of the card does not lie below it: a card may come from somebody else, and what
        is fetched is written, and what is unfinished removed, below the data root only.
    """
    if strange := [folder for folder in card.folders if not is_plain(folder)]:
        raise UserError(
            f"the folder {strange[0]!r} of the dataset card '{card.name}' is not a plain name "
            "under the data root: correct 'folders' of the card"
        )
    found = find(card, root)
    work = root / ".ecgnb-fetch" / card.folders[0].replace("/", "-")
    left_out = () if everything else card.unread
    return Place(card, found or root / card.folders[0], found is not None, work, left_out)


def is_known_whole(place: Place) -> bool:
    """Return whether all was found whole before, and no file came, went or changed its size."""
    try:
        mark = json.loads((place.folder / _MARK).read_text())
        same = mark["files"] == _census(place.folder)
        return same and set(mark["left_out"]) <= set(place.left_out)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remember_whole(place: Place, folder: Path, home: str) -> None:
    """Write down that a folder is whole."""
    mark = {"from": home, "left_out": list(place.left_out), "files": _census(folder)}
    (folder / _MARK).write_text(json.dumps(mark, indent=1) + "\n")


def publish(place: Place, wanted: Iterable[Entry], home: str) -> None:
    """Put the gathered files, all of them whole, where they belong, and forget the work."""
    paths = {entry.path for entry in wanted}
    tree = place.tree
    for path in _files(tree):
        if path not in paths:  # of a download that was given up for another
            (tree / path).unlink()
    if place.there:
        for path in _files(tree):
            (place.folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(tree / path, place.folder / path)
        with suppress(OSError):  # a folder that may only be read can be whole all the same
            remember_whole(place, place.folder, home)
    else:
        remember_whole(place, tree, home)
        os.replace(place.work / "tree", _first_to_make(place.folder))
    shutil.rmtree(place.work, ignore_errors=True)


def _first_to_make(folder: Path) -> Path:
    """Return the uppermost folder that is not there yet: what one rename can bring."""
    while not folder.exists() and not folder.parent.exists():
        folder = folder.parent
    return folder


def _files(folder: Path) -> dict[str, int]:
    """List the files below a folder, but for dot-names, with their sizes."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not name.startswith("."):
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found


def _census(folder: Path) -> str:
    lines = sorted(f"{path} {size}\n" for path, size in _files(folder).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


_MB = 1e6
_MARGIN_BYTES = 50_000_000  # a disk should not be filled to the last byte


def fetch(
    dataset: str | DatasetCard,
    *,
    everything: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Download a dataset, or what is missing of it, to where ``ECGNB_DATA`` points.

    Parameters
    ----------
    dataset : str or DatasetCard
        A name of the catalog, or a card of one's own.
    everything : bool
        Whether to fetch also what ecgnb does not read, such as the 500 Hz records of PTB-XL.
    progress : bool
        Whether to show progress bars; never where ``TQDM_DISABLE`` is set.
    say : callable
        Told the licence, and what happens, a sentence at a time.

    Returns
    -------
    Path
        The folder of the dataset.

    Raises
    ------
    UserError
        If the dataset has no public home, ``ECGNB_DATA`` is not set or not writable, there is not
        enough room, or no home serves it whole.
    """
    facts = card(dataset) if isinstance(dataset, str) else dataset
    if reason := no_home(facts):
        raise UserError(reason)
    root = data_root()
    if is_known_whole(place := place_of(facts, root, everything=everything)):
        say(f"{facts.title} is here, whole: {place.folder}")
        return place.folder
    try:
        with _alone(place, say):
            # Another fetch may have brought it meanwhile.
            place = place_of(facts, root, everything=everything)
            if not is_known_whole(place):
                _fetch(place, progress and "TQDM_DISABLE" not in os.environ, say)
    except OSError as error:
        raise UserError(
            f"cannot read or write in {root} ({error.strerror or error}); what has arrived is "
            "kept: free some space or correct the folder, and fetch again"
        ) from error
    return place.folder


def no_home(facts: DatasetCard) -> str:
    """Say why a dataset cannot be fetched; "" if it can."""
    if facts.homes:
        return ""
    if facts.simulated:
        return f"{facts.title} is simulated by ecgnb: nothing has to be fetched"
    if facts.also:
        names = " and ".join(part.name for part in parts(facts))
        return f"{facts.title} is no download of its own but joined of {names}: get those"
    return (
        f"{facts.title} has no public home known to ecgnb: put its files into the folder "
        f"{facts.folders[0]} where ECGNB_DATA points"
    )


def describe(dataset: str | DatasetCard, *, everything: bool = False) -> str:
    """Say what `fetch` would do: what, how much, from where, under which licence, where to.

    Raises
    ------
    UserError
        As `fetch` does.
    """
    facts = card(dataset) if isinstance(dataset, str) else dataset
    if reason := no_home(facts):
        raise UserError(reason)
    place = place_of(facts, data_root(), everything=everything)
    if is_known_whole(place):
        return f"{facts.title} is here, whole: {place.folder}"
    failures = []
    for home in _homes(place):
        try:
            with (transfer := Transfer(place.work)).session:
                offer = look(transfer, home)
        except HomeError as error:
            failures.append(str(error))
            continue
        return "\n".join([*_terms(facts), f"  from: {home}", *_amount(place, offer)])
    raise _no_home_left(facts, failures)


def _amount(place: Place, offer: Offer) -> Iterator[str]:
    entries = offer.entries
    if not offer.archive:
        entries = tuple(entry for entry in entries if place.wants(entry))
        if place.holds_another_copy(entries):
            yield f"  nothing: {_another_copy(place)}"
            return
        entries = tuple(_missing(entries, place.folder))
    size = total(entries)
    what = "one archive" if offer.archive else f"{len(entries):,} files"
    yield f"  what: {what}, {'size not announced' if size is None else _megabytes(size)}"
    if place.left_out:
        yield f"  kept: all but {', '.join(place.left_out)}, which ecgnb does not read"
    yield f"  to: {place.folder}{', to complete what is there' if place.there else ''}"


def _terms(facts: DatasetCard) -> list[str]:
    """List licence and citation, which come before the first byte."""
    version = f", version {facts.version}" if facts.version else ""
    lines = [f"{facts.title}{version}", f"  licence: {facts.licence}"]
    cited = f"{facts.citation} in the references of the book, and see " if facts.citation else ""
    return [*lines, f"  cite: {cited}{facts.url}"] if facts.url else lines


def _homes(place: Place) -> list[str]:
    """Order the homes: what is there in part is completed file by file, if that can be done."""
    return sorted(place.card.homes, key=is_archive) if place.there else list(place.card.homes)


def _no_home_left(facts: DatasetCard, failures: list[str]) -> UserError:
    return UserError(
        f"{facts.title} could not be fetched: {'; '.join(failures)}. What has arrived is kept: "
        f"run it again later, or put the files from {facts.url} into {facts.folders[0]} yourself"
    )


@contextmanager
def _alone(place: Place, say: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time fetch a dataset; a process that dies lets go of it."""
    place.work.mkdir(parents=True, exist_ok=True)
    lock = place.work.with_name(f"{place.work.name}.lock")
    with locked(lock, wait=False) as alone:
        if alone:
            yield
            return
    say(f"{place.card.title} is being fetched by another process: waiting for it")
    with locked(lock):
        yield


def _fetch(place: Place, progress: bool, say: Callable[[str], None]) -> None:
    """Fetch from the first home that serves all of it."""
    for line in _terms(place.card):
        say(line)
    failures: list[str] = []
    for home in _homes(place):
        if failures:
            say(f"{failures[-1]}; going on with {home}")
        try:
            with (transfer := Transfer(place.work / "parts")).session:
                offer = look(transfer, home)
                way = _from_archive if offer.archive else _from_files
                say(f"  {way(place, transfer, offer, progress)}: {place.folder}")
            return
        except HomeError as error:
            failures.append(str(error))
    raise _no_home_left(place.card, failures)


def _from_files(place: Place, transfer: Transfer, offer: Offer, progress: bool) -> str:
    wanted = tuple(entry for entry in offer.entries if place.wants(entry))
    if place.holds_another_copy(wanted):
        return _another_copy(place)
    missing = _still_missing(place, wanted, progress)
    size = total(missing)
    _check_room(place, size or 0)
    with _bar(place, "fetching", size, len(missing), progress) as bar:
        download_all(transfer, missing, place.tree, bar, bytes_known=size is not None)
    publish(place, wanted, offer.home)
    return f"whole, {len(missing):,} of {len(wanted):,} files fetched"


def _from_archive(place: Place, transfer: Transfer, offer: Offer, progress: bool) -> str:
    entry = offer.entries[0]
    archive = place.work / entry.path
    size = entry.size or 0
    if not is_whole(entry, archive):
        # Unpacked it is at least as large again; how large is known once it is here.
        _check_room(place, size if place.left_out else 2 * size)
        with _bar(place, "fetching", size, 1, progress) as bar:
            download(transfer, entry, archive, bar.update)
    try:
        members = {n: e for n, e in list_members(archive).items() if place.wants(e)}
        wanted = tuple(members.values())
        if place.holds_another_copy(wanted):
            archive.unlink()
            return _another_copy(place)
        missing = set(_still_missing(place, wanted, progress))
        size = total(tuple(missing)) or 0
        _check_room(place, size)
        with _bar(place, "unpacking", size, len(missing), progress) as bar:
            left = {name: entry for name, entry in members.items() if entry in missing}
            unpack(archive, left, place.tree, bar.update)
    except HomeError as error:
        archive.unlink()
        raise HomeError(f"{offer.home} is refused: {error}") from error
    publish(place, wanted, offer.home)
    return f"whole, {len(wanted):,} files"


def _another_copy(place: Place) -> str:
    return (
        f"{place.card.title} lies there in another layout than its home has, and is left as it "
        "is; move it away to fetch this one"
    )


def _still_missing(place: Place, wanted: tuple[Entry, ...], progress: bool) -> tuple[Entry, ...]:
    """List the files that are whole neither in the folder nor in the work of an earlier call."""
    if not place.there and not place.tree.exists():
        return wanted
    with tqdm(wanted, f"{place.card.name}: checking", disable=not progress, leave=False) as bar:
        return tuple(_missing(_missing(bar, place.folder), place.tree))


def _missing(entries: Iterable[Entry], folder: Path) -> Iterator[Entry]:
    return (entry for entry in entries if not is_whole(entry, folder / entry.path))


def _bar(place: Place, what: str, size: int | None, files: int, progress: bool) -> tqdm:
    """Show megabytes and the time left; files where no size is announced."""
    title = f"{place.card.name}: {what}"
    if size is None:
        return tqdm(total=files, desc=title, unit="file", disable=not progress)
    return tqdm(total=size, desc=title, unit="B", unit_scale=True, disable=not progress)


def _check_room(place: Place, size: int) -> None:
    here = [path.stat().st_size for path in (place.work / "parts").glob("*")]
    needed = max(0, size - sum(here)) + _MARGIN_BYTES
    free = shutil.disk_usage(place.work).free
    if needed > free:
        raise UserError(
            f"{place.card.title} needs {_megabytes(needed)} and {place.work.parents[1]} has "
            f"{_megabytes(free)} free: free some space, or point ECGNB_DATA at another disk"
        )


def _megabytes(size: float) -> str:
    return f"{size / _MB:,.1f} MB"
