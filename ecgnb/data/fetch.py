"""Downloads of public datasets into the folder of ``ECGNB_DATA``: resumed, verified, whole."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from ecgnb.data import catalog
from ecgnb.data.catalog import CATALOG, DatasetCard, card, find, is_plain, overlap, own_cards
from ecgnb.data.download import Entry, HomeError, Transfer, download, download_all, is_whole, total
from ecgnb.data.homes import is_archive, list_members, look, unpack
from ecgnb.data.own import check_file
from ecgnb.errors import UserError
from ecgnb.files import locked, put, reason

_MARK = ".ecgnb-whole.json"
_ANOTHER_COPY = (
    " lies there in another layout than its home has, and is left as it is; move it away to fetch "
    "this one"
)
Bring = Callable[[Sequence[Entry], tqdm], None]
_LONGEST_NAME = 200  # of the 255 that a file system takes, as a folder to work in is called so too
_SIGNALS = (".hea", ".mat", ".dat")
_MARGIN_BYTES = 50_000_000  # a disk should not be filled to the last byte


@dataclass(frozen=True)
class Place:
    """Where a dataset goes."""

    card: DatasetCard
    folder: Path  # where it lies, or will lie,
    there: bool  # and whether there is something already
    work: Path  # where unfinished things are: the only folder in which anything is removed
    left_out: tuple[str, ...]  # folders of the download that are not wanted

    @property
    def tree(self) -> Path:
        """Where the files of the folder are gathered."""
        return self.work / "tree" / self.folder.relative_to(_first_to_make(self.folder))

    @cached_property
    def mark(self) -> dict[str, Any]:
        """What was written down when all was there; what is damaged vouches for nothing."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            path = check_file(self.folder / _MARK)
            mark = json.loads(path.read_text(encoding="utf-8"))
            lists = {key: [*map(str, mark[key])] for key in ("left_out", "kept")}
            others, made = {*mark["others"]}, path.stat().st_mtime_ns
            return {**lists, "others": others, "files": mark["files"], "made": made}
        return {"left_out": [], "kept": [], "others": set(), "files": "", "made": 0}

    def wants(self, entry: Entry) -> bool:
        """Return whether a file of a download belongs here; hidden ones never do."""
        path = PurePosixPath(entry.path)
        if entry.path.startswith(self.left_out) or any(part[0] == "." for part in path.parts):
            return False
        if not self.card.record_range or path.suffix not in _SIGNALS:
            return True
        # The folder may also be that of the other dataset of the same download.
        twins = (c for c in CATALOG.values() if c.homes == self.card.homes and c != self.card)
        ends = tuple(f"/{folder}" for twin in twins for folder in twin.folders)
        first, last = self.card.record_range
        return first <= path.stem <= last or self.folder.as_posix().endswith(ends)

    def holds_another_copy(self, entries: Sequence[Entry]) -> bool:
        """Return whether what is there has none of the records where the download has them."""
        if not self.there or not any(self.folder.iterdir()):
            return False
        records = [entry for entry in entries if entry.path.endswith(".hea")] or entries
        return not any((self.folder / entry.path).exists() for entry in records)

    def is_whole(self) -> bool:
        """Return whether all was found whole before, and no file came, went or changed its size."""
        same = self.mark["files"] == _census(self.folder)
        return same and set(self.mark["left_out"]) <= set(self.left_out)

    def keeps(self, path: str) -> bool:
        """Return whether a file that is not as published may be the user's own work."""
        try:
            facts = (self.folder / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        touched = max(facts.st_mtime_ns, facts.st_ctime_ns) > self.mark["made"]
        mine = touched or path in self.mark["others"]
        return not stat.S_ISREG(facts.st_mode) or (facts.st_size > 0 and mine)

    def publish(self, wanted: Iterable[Entry], kept: list[str], home: str) -> None:
        """Put the gathered files, all of them whole, where they belong, and forget the work."""
        top, tree = self.work / "tree", self.tree
        gathered = {tree / entry.path for entry in wanted if entry.path not in kept}
        for path in {top / name for name in _files(top)} - gathered:  # of a download given up
            path.unlink()
        if self.there:
            new = {self.folder / path: tree / path for path in _files(tree)}
            inside = _real(self.folder)
            for parent in {path.parent for path in new}:
                if not _real(parent).is_relative_to(inside):
                    raise UserError(f"{parent} leads elsewhere by a link, and nothing is put there")
            for place in new:
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(new[place], place)
        folder = self.folder if self.there else tree
        others = filter(self.keeps, _files(folder).keys() - {entry.path for entry in wanted})
        mark = {"from": home, "left_out": self.left_out, "files": _census(folder), "kept": kept}
        mark["others"] = sorted({*kept, *others})
        with suppress(OSError):  # a folder that may only be read can be whole all the same
            put(folder / _MARK, lambda path: path.write_text(json.dumps(mark, indent=1) + "\n"))
        if not self.there:
            os.replace(top, _first_to_make(self.folder))
        shutil.rmtree(self.work, ignore_errors=True)


def place_of(facts: DatasetCard, root: Path, *, everything: bool) -> Place:
    """Find or choose the folder of a dataset; a card may come from somebody else."""
    ours = facts in CATALOG.values()
    others = () if ours else (*CATALOG.values(), *own_cards().values())
    for folder in facts.folders:
        taken = [c.name for c in others if c.name != facts.name and overlap([folder], c.folders)]
        if not is_plain(folder):
            wrong = "is not a plain name under the data root"
        elif taken:
            wrong = f"is that of {taken[0]}"
        elif len(quote(folder)) > _LONGEST_NAME:
            wrong = "is too long"
        elif not ours and _real(root / folder) != _real(root) / folder.casefold():
            wrong = "leads elsewhere by a link"
        else:
            continue
        raise UserError(
            f"the folder {folder!r} of the dataset card '{facts.name}' {wrong}: correct 'folders' "
            "of the card"
        )
    found = find(facts, root)
    work = root / ".ecgnb-fetch" / quote(facts.folders[0], safe="")
    for path in (work.parent, work, work / "tree", work / "parts"):
        if path.is_symlink():
            raise UserError(f"{path} is a link, through which nothing is removed: remove the link")
    left_out = () if everything else facts.unread
    return Place(facts, found or root / facts.folders[0], found is not None, work, left_out)


def _real(path: Path) -> Path:
    """Return where a path leads, on any system; a loop of links leads to itself."""
    return Path(os.path.realpath(path).casefold())


def _first_to_make(folder: Path) -> Path:
    """Return the uppermost folder that is not there yet: what one rename can bring."""
    while not folder.exists() and not folder.parent.exists():
        folder = folder.parent
    return folder


def _files(folder: Path) -> dict[str, int]:
    """List the regular files below a folder, but for dot-names, with their sizes."""
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _census(folder: Path) -> str:
    lines = sorted(f"{path} {size}\n" for path, size in _files(folder).items())
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def fetch(
    dataset: str | DatasetCard,
    *,
    everything: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Download a dataset, or what is missing of it, to where ``ECGNB_DATA`` points.

    With `everything` also what ecgnb does not read, such as the 500 Hz records of PTB-XL. A file
    that is not as published and that fetch did not leave so is kept, and said. `say` is told the
    licence, and what happens, a sentence at a time. There are no progress bars where
    ``TQDM_DISABLE`` is set.

    Returns the folder of the dataset. Raises UserError if it has no public home, ``ECGNB_DATA`` is
    not set or not writable, there is not enough room, or no home serves it whole.
    """
    place = _place(dataset, everything)
    if place.is_whole():
        say(_is_whole(place))
        return place.folder
    lock = place.work.with_name(f".{place.work.name}.lock")  # no folder is called so
    try:
        place.work.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            if not held.enter_context(locked(lock, wait=False)):
                say(f"{place.card.title} is being fetched by another process: waiting for it")
                held.enter_context(locked(lock))
            place = _place(dataset, everything)  # another fetch may have brought it meanwhile
            if not place.is_whole():
                _fetch(place, progress and "TQDM_DISABLE" not in os.environ, say)
    except OSError as error:
        raise UserError(
            f"cannot read or write in {reason(error, place.folder)}; what has arrived is kept: "
            "correct that and fetch again"
        ) from error
    return place.folder


def _place(dataset: str | DatasetCard, everything: bool) -> Place:
    facts = card(dataset) if isinstance(dataset, str) else dataset
    if why := no_home(facts):
        raise UserError(why)
    return place_of(facts, catalog.data_root(), everything=everything)


def _is_whole(place: Place) -> str:
    return f"{place.card.title} is here, whole: {place.folder}{_kept(place.mark['kept'])}"


def _kept(names: list[str]) -> str:
    """Name the files that were kept as they are; "" if there are none."""
    if not names:
        return ""
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
    return f"; not as published but kept: {some} (remove a file to fetch it)"


def no_home(facts: DatasetCard) -> str:
    """Say why a dataset cannot be fetched; "" if it can."""
    if facts.homes:
        return ""
    if facts.simulated:
        return f"{facts.title} is simulated by ecgnb: nothing has to be fetched"
    if facts.also:
        names = " and ".join(part.name for part in catalog.parts(facts))
        return f"{facts.title} is no download of its own but joined of {names}: get those"
    return (
        f"{facts.title} has no public home known to ecgnb: put its files into the folder "
        f"{facts.folders[0]} where ECGNB_DATA points"
    )


def describe(dataset: str | DatasetCard, *, everything: bool = False) -> str:
    """Say what `fetch` would do: what, how much, from where, under which licence, where to."""
    place = _place(dataset, everything)
    if place.is_whole():
        return _is_whole(place)

    def way(home: str, transfer: Transfer) -> str:
        lines = [*_terms(place.card), f"  from: {home}"]
        entries, what = look(transfer, home), "one archive"
        if not is_archive(home):
            entries = [entry for entry in entries if place.wants(entry)]
            if place.holds_another_copy(entries):
                return "\n".join([*lines, f"  nothing: {place.card.title}{_ANOTHER_COPY}"])
            entries, _ = _sort(place, entries, progress=False)
            what = f"{len(entries):,} files"
        size = total(entries)
        lines += [f"  what: {what}, {'size not announced' if size is None else _megabytes(size)}"]
        if place.left_out:
            lines += [f"  kept: all but {', '.join(place.left_out)}, which ecgnb does not read"]
        there = ", to complete what is there" if place.there else ""
        return "\n".join([*lines, f"  to: {place.folder}{there}"])

    return _first_that_serves(place, way, lambda _: None)


def _terms(facts: DatasetCard) -> list[str]:
    """List licence and citation, which come before the first byte."""
    version = f", version {facts.version}" if facts.version else ""
    lines = [f"{facts.title}{version}", f"  licence: {facts.licence}"]
    cited = f"{facts.citation} in the references of the book, and see " if facts.citation else ""
    return [*lines, f"  cite: {cited}{facts.url}"] if facts.url else lines


def _first_that_serves(
    place: Place, way: Callable[[str, Transfer], str], say: Callable[[str], None]
) -> str:
    """Ask the homes in turn; what is there in part is completed file by file, if it can be."""
    failures: list[str] = []
    for home in sorted(place.card.homes, key=is_archive) if place.there else place.card.homes:
        if failures:
            say(f"{failures[-1]}; going on with {home}")
        try:
            with (transfer := Transfer(place.work / "parts")).session:
                return way(home, transfer)
        except HomeError as error:
            failures.append(str(error))
    raise UserError(
        f"{place.card.title} could not be fetched: {'; '.join(failures)}. What has arrived is kept:"
        f" run it again later, or put the files from {place.card.url or 'its home'} into "
        f"{place.card.folders[0]} yourself"
    )


def _fetch(place: Place, progress: bool, say: Callable[[str], None]) -> None:
    """Fetch from the first home that serves all of it."""
    for line in _terms(place.card):
        say(line)

    def way(home: str, transfer: Transfer) -> str:
        entries = look(transfer, home)
        if is_archive(home):
            return _from_archive(place, transfer, home, entries[0], progress)

        def bring(missing: Sequence[Entry], bar: tqdm) -> None:
            bytes_known = total(missing) is not None
            download_all(transfer, missing, place.tree, bar, bytes_known=bytes_known)

        return _complete(place, home, entries, bring, progress)

    say(f"  {_first_that_serves(place, way, say)}: {place.folder}")


def _complete(
    place: Place, home: str, entries: Iterable[Entry], bring: Bring, progress: bool
) -> str:
    """Let `bring` gather the wanted files that are not there yet, and put them in place."""
    if not (wanted := [entry for entry in entries if place.wants(entry)]):
        raise HomeError("it holds no file of the dataset")
    if place.holds_another_copy(wanted):
        return place.card.title + _ANOTHER_COPY
    missing, kept = _sort(place, wanted, progress)
    size = total(missing)
    _check_room(place, size or 0)
    what = "unpacking" if is_archive(home) else "fetching"
    with _bar(place, what, size, len(missing), progress) as bar:
        bring(missing, bar)
    place.publish(wanted, kept, home)
    fetched = "" if is_archive(home) else f"{len(missing):,} of "
    return f"whole, {fetched}{len(wanted):,} files{' fetched' if fetched else ''}{_kept(kept)}"


def _from_archive(place: Place, transfer: Transfer, home: str, entry: Entry, progress: bool) -> str:
    archive = place.work / f"{entry.key}.zip"
    size = entry.size or 0
    if not (earlier := is_whole(entry, archive)):
        # Unpacked it is at least as large again; how large is known once it is here.
        _check_room(place, size if place.left_out else 2 * size)
        with _bar(place, "fetching", size, 1, progress) as bar:
            download(transfer, entry, archive, bar.update)
    try:
        members = list_members(archive)

        def bring(missing: Sequence[Entry], bar: tqdm) -> None:
            chosen = set(missing)
            left = {name: entry for name, entry in members.items() if entry in chosen}
            unpack(archive, left, place.tree, bar.update)

        said = _complete(place, home, members.values(), bring, progress)
        archive.unlink(missing_ok=True)
        return said
    except HomeError as error:
        archive.unlink()
        if earlier:  # it may have been damaged here
            return _from_archive(place, transfer, home, entry, progress)
        raise HomeError(f"{home} is refused: {error}") from error


def _sort(place: Place, wanted: Iterable[Entry], progress: bool) -> tuple[list[Entry], list[str]]:
    """List the files that are whole nowhere yet, and name those that are kept as they are."""
    missing, kept = [], []
    with tqdm(wanted, f"{place.card.name}: checking", disable=not progress, leave=False) as bar:
        for entry in bar:
            if is_whole(entry, place.folder / entry.path):
                continue
            if place.keeps(entry.path):
                kept.append(entry.path)
            elif not is_whole(entry, place.tree / entry.path):
                missing.append(entry)
    return missing, kept


def _bar(place: Place, what: str, size: int | None, files: int, progress: bool) -> tqdm:
    """Show megabytes and the time left; files where no size is announced."""
    unit = {"total": files, "unit": "file"} if size is None else {"total": size, "unit": "B"}
    scale = size is not None
    return tqdm(desc=f"{place.card.name}: {what}", unit_scale=scale, disable=not progress, **unit)


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
    return f"{size / 1e6:,.1f} MB"
