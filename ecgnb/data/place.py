"""Where a download goes: the folder of a dataset, and the work beside it until it is whole.

All that is unfinished lies in ``.ecgnb-fetch`` under the data root. A dataset that was not there
appears in one `os.replace`; to one that was there in part, whole files are added one by one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ecgnb.data.cards import is_plain
from ecgnb.data.catalog import CATALOG, DatasetCard, find
from ecgnb.data.entries import Entry
from ecgnb.errors import UserError

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
