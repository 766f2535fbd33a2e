"""What a raw dataset lists: one row a record, before any signal is read.

Where a dataset keeps age, sex and codes in its headers, `ecgnb.data.convert` fills them in later.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ecgnb.data.cards import OWN_LAYOUTS
from ecgnb.data.catalog import CATALOG, DatasetCard, data_root, find
from ecgnb.data.layouts import LAYOUTS, Listing
from ecgnb.errors import UserError


def list_records(card: DatasetCard, folder: Path) -> Listing:
    """List the records of a raw dataset, present and absent.

    Parameters
    ----------
    card : DatasetCard
        What the dataset is.
    folder : Path
        Where its files are.

    Raises
    ------
    UserError
        If a table is missing or cannot be read, or no record is there.
    """
    try:
        listing = LAYOUTS[card.layout](folder, card)
    except FileNotFoundError as error:
        raise UserError(f"{card.name} is incomplete: {error.filename} is missing") from error
    except (OSError, KeyError, TypeError, ValueError, SyntaxError) as error:  # and those of pandas
        way = "correct that file" if card.layout in OWN_LAYOUTS else "get that file again"
        raise UserError(
            f"a table of {card.name} in {folder} cannot be read "
            f"({type(error).__name__}: {error}); {way}"
        ) from error
    if card.record_range:
        first, last = card.record_range
        inside = listing.table["record"].between(first, last)
        listing = replace(
            listing,
            table=listing.table[inside].reset_index(drop=True),
            absent=tuple(p for p in listing.absent if first <= p.rpartition("/")[2] <= last),
        )
    for name in card.also:
        listing = _joined(listing, folder, CATALOG[name])
    if listing.table.empty:
        raise UserError(f"{folder} holds no record of {card.name}; look at `ecgnb datasets`")
    return listing


def _joined(listing: Listing, folder: Path, other: DatasetCard) -> Listing:
    """Add the records of another dataset, under paths that lead to them from `folder`."""
    there = find(other, data_root())
    assert there is not None  # else `find` would not have found the first
    added = list_records(other, there)
    way = posixpath.relpath(there.as_posix(), folder.as_posix())
    table = added.table.assign(path=[f"{way}/{path}" for path in added.table["path"]])
    # What one of them has and the other lacks is not absent.
    present = set(table["record"]) | set(listing.table["record"])
    absent = tuple(
        path for path in listing.absent if posixpath.basename(path).partition("_")[0] not in present
    )
    whole = pd.concat([listing.table, table], ignore_index=True).sort_values("record")
    return Listing(whole.reset_index(drop=True), absent, listing.in_headers)
