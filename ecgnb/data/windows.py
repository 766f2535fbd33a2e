"""Long records as several windows, each of them a record of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ecgnb.data import records
from ecgnb.data.layouts import Listing

_MARK = "#"
_WINDOW = re.compile(r"\.hea#\d+$")  # a name of a file may hold the mark too, but not behind this


def cut(listing: Listing, source: Path, seconds: float) -> Listing:
    """List as many windows of a record as it holds; the rest is left out, as of a long record.

    A record of less than two windows stays as it is. Windows are named ``RECORD#0`` and so on, and
    have the patient, the fold and the labels of their record.

    Parameters
    ----------
    listing : Listing
    source : Path
        The raw dataset.
    seconds : float
        Length of a window.
    """
    if listing.tensor is not None:
        return listing
    whole = listing.table.to_dict("records")
    rows = [window for row in whole for window in _windows(row, source, seconds)]
    return replace(listing, table=pd.DataFrame(rows, columns=listing.table.columns))


def _windows(row: dict[Any, Any], source: Path, seconds: float) -> Iterator[dict[Any, Any]]:
    try:
        header = records.read_header(source / row["path"])
        count = int(header.samples / header.sampling_rate / seconds)
    except records.RecordError:  # it is dropped, with this reason, when it is read
        count = 1
    if count < 2:
        yield row
        return
    for number in range(count):
        yield {
            **row,
            "record": f"{row['record']}{_MARK}{number}",
            "path": f"{row['path']}{_MARK}{number}",
        }


def name_windows(selection: pd.DataFrame, listing: Listing) -> pd.DataFrame:
    """Let a table that names records name each of their windows; others stay as they are.

    Parameters
    ----------
    selection : DataFrame
        With a column ``record``.
    listing : Listing
        What `cut` returned.
    """
    windows = listing.table["record"][listing.table["path"].str.contains(_WINDOW)]
    whole = windows.str.rpartition(_MARK)[0] if len(windows) else windows
    several = pd.DataFrame({"record": whole, "window": windows})
    named = selection.merge(several, on="record", how="left")
    return named.assign(record=named["window"].fillna(named["record"])).drop(columns="window")


def window_of(path: str) -> tuple[str, int]:
    """Return the header of a window, and which window of the record it is."""
    if not _WINDOW.search(path):
        return path, 0
    header, _, number = path.rpartition(_MARK)
    return header, int(number)
