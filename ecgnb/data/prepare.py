"""A raw dataset to one memory-mapped int16 array, one table and one manifest: whole, or nothing."""

import functools
import hashlib
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb import simulate
from ecgnb.data import arrays, checks, layouts, resample, splits
from ecgnb.data.arrays import SELECTION, Options, canonical, write_arrays
from ecgnb.data.catalog import DatasetCard, cache_root, card, data_root, find
from ecgnb.data.labels import default_label_set, encode
from ecgnb.data.layouts import Listing
from ecgnb.data.own import check_file
from ecgnb.data.records import LEADS
from ecgnb.errors import UserError, look_up
from ecgnb.files import locked, writable
from ecgnb.simulate import hospital

DATASET = "dataset"
"""The column of a joined table that names the part."""

_FILES = ("signals.npy", "records.parquet", "manifest.json")
_CHUNK = 256  # records that are copied at a time
_MOST = 8  # codes that a summary counts
_ADVICE = "point ECGNB_CACHE at a folder that you can write to and that has room"


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset.

    `signals`, (records, 12, samples) in microvolts, are memory-mapped, with the leads in the order
    of `ecgnb.data.records.LEADS`. `table` has one row a record: `SELECTION`, ``flags``
    (``flat:V1``, ``padded``, ``clipped``), the ``seconds`` that the file holds from where a window
    begins, without ends that fill up, and the ``site`` or device, as far as a table names it.
    `manifest` says where it came from, what was kept, what was dropped and why.
    """

    card: DatasetCard
    folder: Path
    signals: npt.NDArray[np.int16]
    table: pd.DataFrame
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the signals and the table, the same wherever the same records were prepared."""
        return str(self.manifest["fingerprint"])


def prepare(
    dataset: str | DatasetCard,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    selection: pd.DataFrame | None = None,
    progress: bool = False,
) -> Prepared:
    """Prepare a dataset, by its name or its card, or open it where that was done before.

    A `selection`, with columns `SELECTION`, names the records to use; its patients, folds and codes
    replace those of the raw files. Without it, all records that are there are used. Raises
    UserError if the dataset is unknown or several, is not where ``ECGNB_DATA`` points, holds no
    readable record, cannot be written, or if the options or the selection make no sense.
    """
    facts = card(dataset) if isinstance(dataset, str) else dataset
    if facts.layout == "joined":
        raise UserError(
            f"{facts.name} is several datasets; prepare each of them, and a study that names them "
            f"so joins them: {' '.join(facts.also)}"
        )
    _check(options, selection)
    counted = options.simulated_records if facts.simulated else Options().simulated_records
    plain = {"rate": float(options.rate), "simulated_records": counted}
    asked = json.dumps([arrays.PREPARED_VERSION, asdict(options) | plain], sort_keys=True)
    asked += "" if selection is None else canonical(selection)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:12]
    folder = cache_root() / "prepared" / f"{facts.name}-{digest}"
    found = _ready(facts, folder)
    try:
        source = _simulated(facts.name, options) if facts.simulated else _raw_folder(facts)
    except UserError:
        if found is None or facts.simulated:
            raise
        return found  # what it was made of is no longer here
    listing = layouts.list_records(facts, source)
    mark = {"files_fingerprint": _files_fingerprint(facts, source, listing)}
    if found is not None and mark.items() <= found.manifest.items():
        return found
    write = functools.partial(write_arrays, facts, source, listing, options, selection, progress)
    return _make(facts, folder, mark, write)


def _make(
    facts: DatasetCard, folder: Path, mark: dict[str, str], write: Callable[[Path], dict[str, Any]]
) -> Prepared:
    """Write a folder whose manifest has the mark, unless another program was faster."""
    with _alone(folder):
        whole = _ready(facts, folder)
        if whole is not None and mark.items() <= whole.manifest.items():
            return whole
        try:
            with tempfile.TemporaryDirectory(
                prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
            ) as aside:
                new = Path(aside, "new")
                new.mkdir()
                new.chmod(0o755)  # a cache may be shared
                made = write(new) | mark
                manifest = json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False)
                (new / "manifest.json").write_text(manifest + "\n", encoding="utf-8")
                _same_time(new)
                with suppress(FileNotFoundError):
                    os.replace(folder, Path(aside, "old"))
                os.replace(new, folder)
        except OSError as error:
            raise UserError(
                f"preparing stopped while writing to {folder.parent} ({error.strerror}); nothing "
                "half-written was kept: free some space, or point ECGNB_CACHE elsewhere, and run "
                "again"
            ) from error
        whole = _ready(facts, folder)
        assert whole is not None  # it was so a moment ago
        return whole


def summary(prepared: Prepared) -> str:
    """Say what is there, what is not, what was dropped, and what is odd; a line each."""
    counts, table = prepared.manifest["counts"], prepared.table
    patients = table["patient"].nunique()
    known = prepared.manifest["patients"] == "known"
    who = f"of {patients:,} patients" if known else "each taken for another patient"
    parts = [f"{prepared.card.title}: {counts['kept']:,} records prepared, {who}"]
    if counts["absent"]:
        parts.append(f"{counts['listed']:,} listed, {counts['absent']:,} of them not here")
    if counts["dropped"]:
        first = prepared.manifest["dropped"][0]
        parts.append(f"{counts['dropped']} dropped (first: {first['record']}, {first['reason']})")
    if unknown := prepared.manifest["unknown_codes"]:
        names = ", ".join(list(unknown)[:5])
        parts.append(f"{len(unknown)} codes not in any label set ({names})")
    with suppress(UserError):  # no label set reads its codes
        names = default_label_set(prepared.card.vocabulary)
        labels = encode(table["codes"], prepared.card.vocabulary, names)
        parts += [*_counted("classes", labels.sum()), *checks.of_confounders(table, labels)]
    kinds = table["flags"].str.replace(r":\S+", "", regex=True).str.get_dummies(" ").sum()
    parts += _counted("flags", kinds.drop("", errors="ignore"))
    return "\n  ".join([*parts, *prepared.manifest["notes"]])


def _counted(what: str, counts: pd.Series) -> list[str]:
    counts = counts.sort_values(ascending=False, kind="stable")
    most = ", ".join(f"{name} {count:,}" for name, count in counts.head(_MOST).items())
    more = f" and {len(counts) - _MOST} others" if len(counts) > _MOST else ""
    return [f"{what}: {most}{more}"] if most else []


def _check(options: Options, selection: pd.DataFrame | None) -> None:
    look_up("rule for short records", dict.fromkeys(resample.SHORT_RULES), options.short)
    whole = options.rate > 0 and 0 < options.rate * options.seconds < 1e9
    if not whole or options.samples < 2:
        raise UserError(
            f"a window of {options.seconds:g} s at {options.rate:g} Hz holds no signal; give both "
            "a value above 0"
        )
    if selection is None:
        return
    if absent := [name for name in SELECTION if name not in selection]:
        raise UserError(f"the table of selected records has no column {', '.join(absent)}")
    texts = selection[["record", "patient"]].map(lambda one: isinstance(one, str))
    if not (texts.all(axis=None) and selection["fold"].isin(range(1, splits.FOLDS + 1)).all()):
        raise UserError(
            "in the table of selected records, 'record' and 'patient' must be text, 'fold' 1 to 10"
        )
    again = selection["record"][selection["record"].duplicated()]
    if len(again):
        raise UserError(f"the table of selected records names {again.iloc[0]} twice; name it once")


def _ready(facts: DatasetCard, folder: Path) -> Prepared | None:
    """Open a prepared folder; None where it has to be made, or made again."""
    try:
        for name in _FILES:
            check_file(folder / name)
        began = folder.stat().st_ino
        signals = np.load(folder / "signals.npy", mmap_mode="r", allow_pickle=False)
        table = pd.read_parquet(folder / "records.parquet")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        kept = manifest["counts"]["kept"]
        here = signals.dtype, signals.shape[:2], len(table), signals.flags.c_contiguous
        if here != (np.int16, (kept, len(LEADS)), kept, True) or signals.ndim != 3:
            return None
        if len({(folder / name).stat().st_mtime_ns for name in _FILES}) > 1:  # one was touched
            digest = hashlib.sha256(signals.data)
            digest.update(canonical(table).encode())
            stored = hashlib.sha256((folder / "records.parquet").read_bytes())
            now = digest.hexdigest(), stored.hexdigest()
            if now != (manifest["fingerprint"], manifest["records"]):
                return None
            with suppress(OSError):  # another's cache
                _same_time(folder)
        # Another program may have put a new folder in its place between two files.
        same = folder.stat().st_ino == began
        return Prepared(facts, folder, signals, table, manifest) if same else _ready(facts, folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _same_time(folder: Path) -> None:
    time = (folder / _FILES[-1]).stat().st_mtime_ns
    for name in _FILES:
        os.utime(folder / name, ns=(time, time))


def _raw_folder(facts: DatasetCard) -> Path:
    root = data_root()
    if source := find(facts, root):
        return source
    way = f"Run `ecgnb fetch {facts.name}`" if facts.homes else "Put it there"
    raise UserError(
        f"{facts.title} is not in {root}; looked for {', '.join(facts.folders)}. {way}, or "
        "point ECGNB_DATA at the folder that holds it"
    )


def _simulated(name: str, options: Options) -> Path:
    count = options.simulated_records
    # The code is the dataset: another simulator writes into another folder.
    files = sorted(Path(str(simulate.__file__)).parent.glob("*.[pt]*"))  # and its tables
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    folder = cache_root() / "simulated" / f"{name}-{count}-{digest}"
    if not folder.is_dir():
        with _alone(folder), writable(folder.parent, _ADVICE):
            if not folder.is_dir():
                hospital.write_hospital(folder, name, count, seed=0)
    return folder


def _files_fingerprint(facts: DatasetCard, source: Path, listing: Listing) -> str:
    """Hash names, sizes and times of the raw files, which tell whether they are still the same."""
    # The folder of a simulated hospital is named by its code; a real one may lie anywhere.
    digest = hashlib.sha256(source.name.encode() if facts.simulated else b"")
    if listing.tensor is not None:
        digest.update(f"{listing.tensor.sampling_rate} {listing.tensor.state}\n".encode())
    else:
        # Signal files lie beside their header, under any name, and may arrive long after it.
        for part in sorted({posixpath.dirname(path) for path in listing.table["path"]}):
            with os.scandir(source / part) as entries:
                states = [
                    (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                    for entry in entries
                    if entry.is_file() and entry.name != "records.csv"
                ]
            digest.update(f"{part} {sorted(states)}\n".encode())
    if not listing.in_headers:
        digest.update(canonical(listing.table).encode())
    told = facts.vocabulary, facts.patients_known, listing.patients_known, facts.amplitude
    seen = listing.absent, listing.dropped, listing.notes, [*listing.table["site"]]
    digest.update(repr((*told, *seen)).encode())
    return digest.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one program at a time make a folder, and remove what a killed one left of it."""
    with ExitStack() as held:
        with writable(folder.parent, _ADVICE):
            folder.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder.with_name(f".{folder.name}.lock")))
            for left in folder.parent.glob(f".{folder.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def join_fingerprints(fingerprints: Mapping[str, str]) -> str:
    """Return the fingerprint of datasets that are joined, from those of its parts by name."""
    text = "\n".join(f"{name} {value}" for name, value in fingerprints.items())
    return hashlib.sha256(text.encode()).hexdigest()


def join_tables(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put tables of records one behind the other, from those of the parts by name."""
    parts = []
    for name, table in tables.items():
        ids = {key: f"{name}/" + table[key] for key in ("record", "patient")}
        parts.append(table.assign(**ids, **{DATASET: name}))
    return pd.concat(parts, ignore_index=True)


def join(name: str, parts: Sequence[Prepared]) -> Prepared:
    """Join datasets that were prepared alike, or open them where that was done before."""
    prints = {part.card.name: part.fingerprint for part in parts}
    fingerprint = join_fingerprints(prints)
    tables = join_fingerprints({part.card.name: part.manifest["records"] for part in parts})
    folder = cache_root() / "prepared" / f"joined-{fingerprint[:6]}{tables[:6]}"
    facts = card(name)

    def write(partial: Path) -> dict[str, Any]:
        with open(partial / "signals.npy", "wb") as file:
            count = sum(len(part.signals) for part in parts)
            arrays.npy_header(file, count, parts[0].signals.shape[2])
            for part in parts:
                for first in range(0, len(part.signals), _CHUNK):
                    # Not into a memory map: there a full disk kills the program.
                    file.write(part.signals[first : first + _CHUNK].data)
            file.flush()
            os.fsync(file.fileno())
        table = join_tables({part.card.name: part.table for part in parts})
        table.to_parquet(partial / "records.parquet", index=False)
        return {"parts": prints, "counts": {"kept": len(table)}}

    return _ready(facts, folder) or _make(facts, folder, {"fingerprint": fingerprint}, write)
