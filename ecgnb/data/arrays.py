"""Raw records to one array of signals and one table.

A record that cannot be used is dropped with its reason; what is odd but usable is kept and flagged.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgnb.data import records, splits
from ecgnb.data.catalog import DatasetCard
from ecgnb.data.convert import Options, convert
from ecgnb.data.labels import unknown_codes
from ecgnb.data.layouts import Listing
from ecgnb.data.windows import cut, name_windows
from ecgnb.errors import UserError

SELECTION = ("record", "patient", "fold", "age", "sex", "codes")
"""Columns of a table that names the records of a study, and of a prepared table."""

PREPARED_VERSION = 1
"""Raised by hand when the same raw files would give other arrays."""

_FOLD_SEED = 0


def canonical(table: pd.DataFrame) -> str:
    """Write a table as text that does not depend on the version of any library."""
    columns = _lists(table[list(SELECTION)])
    return "\n".join(
        "\t".join(_plain(value) for value in row) for row in zip(*columns, strict=True)
    )


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return str(value)


def write_arrays(
    facts: DatasetCard,
    source: Path,
    listing: Listing,
    options: Options,
    selection: pd.DataFrame | None,
    partial: Path,
    progress: bool,
) -> dict[str, Any]:
    """Write ``signals.npy`` and ``records.parquet`` into a folder, and return what is in them.

    Parameters
    ----------
    facts : DatasetCard
    source : Path
        The raw dataset.
    listing : Listing
        Its records.
    options : Options
    selection : DataFrame or None
        The records to use, with columns `SELECTION`; None for all.
    partial : Path
        Where to write.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    UserError
        If no record can be used.
    """
    if options.every_window:
        listing = cut(listing, source, options.seconds)
        selection = None if selection is None else name_windows(selection, listing)
    rows, dropped = _rows(listing, selection)
    kept: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    size = len(records.LEADS) * options.samples * np.dtype("<i2").itemsize
    with open(partial / "signals.npy", "w+b") as file:
        npy_header(file, 0, options.samples)
        file.flush()
        begin = file.tell()
        outcomes = convert(
            [row["path"] for row in rows], source, listing, options, file.name, begin
        )
        bar = tqdm(
            rows, desc=f"prepare {facts.name}", disable=not progress, leave=False, unit="record"
        )
        for index, (row, outcome) in enumerate(zip(bar, outcomes, strict=True)):
            if isinstance(outcome, str):
                dropped.append({"record": row["record"], "reason": outcome})
                continue
            content = _pull_up(file, begin + index * size, begin + len(kept) * size, size)
            digest.update(content)
            # What a study names of its records stands over what the files say.
            first, second = (row, outcome) if selection is None else (outcome, row)
            merged = {**first, **second}
            unlabelled = "" if merged["codes"] else "unlabelled"
            kept.append({**merged, "flags": f"{outcome['flags']} {unlabelled}".strip()})
        file.truncate(begin + len(kept) * size)
        file.seek(0)
        npy_header(file, len(kept), options.samples)
        file.flush()
        os.fsync(file.fileno())
    if not kept:
        raise UserError(
            f"no record of {facts.name} in {source} can be used; the first reason: "
            f"{dropped[0]['reason'] if dropped else 'none is named by the selection'}"
        )
    table = _with_folds(pd.DataFrame(kept), facts)
    table.to_parquet(partial / "records.parquet", index=False)
    digest.update(canonical(table).encode())
    return {
        "dataset": facts.name,
        "version": facts.version,
        "prepared_version": PREPARED_VERSION,
        "fingerprint": digest.hexdigest(),
        "options": asdict(options),
        "patients": "known" if facts.patients_known else "one record each, assumed",
        "filter": "Kaiser-windowed low-pass" if options.antialias else "none (every k-th sample)",
        "counts": {
            "listed": len(listing.table) + len(listing.absent),
            "absent": len(listing.absent),
            "kept": len(kept),
            "dropped": len(dropped),
            "flagged": int((table["flags"] != "").sum()),
        },
        "dropped": dropped,
        "unknown_codes": unknown_codes(table["codes"], facts.vocabulary),
    }


def _rows(
    listing: Listing, selection: pd.DataFrame | None
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Join what is listed with what is selected; the rest is dropped with its reason."""
    table = listing.table
    if selection is not None:
        table = table[table["record"].isin(selection["record"])]
    again = table["record"].duplicated()
    reason = "duplicate id: another file has the same record id"
    dropped = [{"record": name, "reason": reason} for name in table["record"][again]]
    table = table[~again]
    if selection is not None:
        paths = table.set_index("record")["path"]
        there = selection["record"].isin(paths.index)
        dropped += [
            {"record": name, "reason": "named by the study, but not here"}
            for name in selection["record"][~there]
        ]
        table = selection[there].assign(path=paths.loc[selection["record"][there]].to_numpy())
        table = table.sort_values("record")
    names, rows = list(table.columns), zip(*_lists(table), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows], dropped


def _lists(table: pd.DataFrame) -> list[list[Any]]:
    """Return the columns as Python's own values; pandas would hand out strings one by one."""
    return [table[name].to_numpy(object).tolist() for name in table.columns]


def _with_folds(table: pd.DataFrame, facts: DatasetCard) -> pd.DataFrame:
    table = table[[*SELECTION, "flags"]].reset_index(drop=True)
    if (table["fold"] == 0).any():
        labels = table["codes"].str.get_dummies(" ").to_numpy(dtype=bool)
        folds = splits.assign_folds(table["patient"], labels, splits.FOLDS, _FOLD_SEED)
        table["fold"] = folds
    return table.astype({"fold": "int64", "age": "float64"})


def _pull_up(file: BinaryIO, found: int, wanted: int, size: int) -> bytes:
    """Read a record's signals, and move them up where records before it were dropped."""
    file.seek(found)
    content = file.read(size)
    if wanted != found:
        file.seek(wanted)
        file.write(content)
    return content


def npy_header(file: BinaryIO, count: int, samples: int) -> None:
    """Write the header of ``signals.npy``, an array of shape (count, 12, samples)."""
    # NumPy leaves room for the first axis to grow, so the header's length does not change.
    shape = (count, len(records.LEADS), samples)
    facts = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
