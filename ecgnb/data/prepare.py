"""A raw dataset to one memory-mapped int16 array, one table and one manifest.

The prepared folder is written under a temporary name and renamed when it is whole, so that
whatever stops the work, nothing half-written is ever taken for whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.data import hospitals, raw, resample, simulate
from ecgnb.data.arrays import PREPARED_VERSION, Options, canonical, write_arrays
from ecgnb.data.catalog import DatasetCard, cache_root, card, data_root, find
from ecgnb.errors import UserError


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset.

    Attributes
    ----------
    card : DatasetCard
    folder : Path
    signals : ndarray of int16, shape (records, 12, samples), memory-mapped
        In microvolts, leads in the order of `ecgnb.data.records.LEADS`.
    table : DataFrame
        One row a record: `SELECTION` and ``flags`` (``flat:V1``, ``padded``, ``clipped``).
    manifest : dict
        Where it came from, what was kept, what was dropped and why.
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
    """Prepare a dataset, or open it where that was done before.

    Parameters
    ----------
    dataset : str or DatasetCard
        A name of the catalog, or a card of one's own.
    options : Options
        Sampling rate, window and rules.
    selection : DataFrame, optional
        The records to use, with columns `SELECTION`; its patients, folds and codes replace those
        of the raw files. Without it, all records that are there.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Prepared

    Raises
    ------
    UserError
        If the dataset is unknown, is not where ``ECGNB_DATA`` points, holds no readable record,
        or cannot be written.
    """
    facts = card(dataset) if isinstance(dataset, str) else dataset
    if options.short not in resample.SHORT_RULES:
        raise UserError(
            f"unknown rule for short records: {options.short!r}; choose one of "
            f"{', '.join(resample.SHORT_RULES)}"
        )
    folder = cache_root() / "prepared" / f"{facts.name}-{_digest(options, selection)}"
    if facts.simulated:
        source: Path | None = _simulated(facts.name, options)
    else:
        source = _raw_folder(facts, needed=not (folder / "manifest.json").exists())
    if source is None:
        return open_prepared(facts, folder)
    listing = raw.list_records(facts, source)
    fingerprint = _files_fingerprint(source, listing)
    if (folder / "manifest.json").exists():
        ready = open_prepared(facts, folder)
        if ready.manifest["files_fingerprint"] == fingerprint:
            return ready
    with _writing(folder) as partial:
        manifest = write_arrays(facts, source, listing, options, selection, partial, progress)
        manifest["files_fingerprint"] = fingerprint
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        (partial / "manifest.json").write_text(text + "\n")
    return open_prepared(facts, folder)


def open_prepared(facts: DatasetCard, folder: Path) -> Prepared:
    """Open a prepared folder; its signals stay on disk until they are touched."""
    signals = np.load(folder / "signals.npy", mmap_mode="r", allow_pickle=False)
    table = pd.read_parquet(folder / "records.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    return Prepared(facts, folder, signals, table, manifest)


def summary(prepared: Prepared) -> str:
    """Say in one line what is there, what is not and what was dropped."""
    counts = prepared.manifest["counts"]
    parts = [f"{prepared.card.title}: {counts['kept']:,} records prepared"]
    if counts["absent"]:
        parts.append(f"{counts['listed']:,} listed, {counts['absent']:,} of them not here")
    if counts["dropped"]:
        first = prepared.manifest["dropped"][0]
        parts.append(f"{counts['dropped']} dropped (first: {first['record']}, {first['reason']})")
    if unknown := prepared.manifest["unknown_codes"]:
        names = ", ".join(list(unknown)[:5])
        parts.append(f"{len(unknown)} codes not in any label set ({names})")
    return "; ".join(parts)


def _raw_folder(facts: DatasetCard, *, needed: bool) -> Path | None:
    try:
        root = data_root()
    except UserError:
        if needed:
            raise
        return None
    source = find(facts, root)
    if source is None and needed:
        raise UserError(
            f"{facts.title} is not in {root}; looked for {', '.join(facts.folders)}. Put it there "
            f"(from {facts.url}), or point ECGNB_DATA at the folder that holds it"
        )
    return source


def _simulated(name: str, options: Options) -> Path:
    count = options.simulated_records
    # The code is the dataset: another simulator writes into another folder.
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (simulate, hospitals))
    digest = hashlib.sha256(code).hexdigest()[:12]
    folder = cache_root() / "simulated" / f"{name}-{count}-{digest}"
    if not folder.is_dir():
        hospitals.write_hospital(folder, name, count, seed=0)
    return folder


def _digest(options: Options, selection: pd.DataFrame | None) -> str:
    text = json.dumps([PREPARED_VERSION, asdict(options)], sort_keys=True)
    if selection is not None:
        text += canonical(selection)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _files_fingerprint(source: Path, listing: raw.Listing) -> str:
    """Hash names and sizes of the headers, which tell whether the raw files are still the same."""
    digest = hashlib.sha256()
    for path in listing.table["path"]:
        digest.update(f"{path} {os.stat(source / path).st_size}\n".encode())
    if not listing.in_headers:
        digest.update(canonical(listing.table).encode())
    return digest.hexdigest()


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.parent} ({error.strerror}); point ECGNB_CACHE at a folder "
            "that you can write to"
        ) from error
    try:
        yield partial
        # A rename replaces an empty folder only: an older one moves aside first.
        if folder.exists():
            os.replace(folder, partial.with_name(f"{partial.name}-old"))
        os.replace(partial, folder)
    except OSError as error:
        raise UserError(
            f"preparing stopped while writing to {folder.parent} ({error.strerror}); nothing "
            "half-written was kept: free some space, or point ECGNB_CACHE elsewhere, and run again"
        ) from error
    finally:
        for left in (partial, partial.with_name(f"{partial.name}-old")):
            shutil.rmtree(left, ignore_errors=True)
