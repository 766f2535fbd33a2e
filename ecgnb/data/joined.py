"""Several datasets as one: their arrays one behind the other, their tables too.

It is named by their names, joined by a plus: ``ptb-xl+cpsc2018``. Records and patients carry the
name of their dataset, so that no two of them are mixed up, and keep their codes: labels are read
from each part in its own vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ecgnb.data.arrays import npy_header
from ecgnb.data.catalog import cache_root, card
from ecgnb.data.prepare import Prepared, alone, open_prepared, ready, writing

_CHUNK = 256  # records that are copied at a time

DATASET = "dataset"
"""The column of a joined table that names the part."""


def join_fingerprints(fingerprints: Mapping[str, str]) -> str:
    """Return the fingerprint of datasets that are joined, from those of its parts by name."""
    text = "\n".join(f"{name} {value}" for name, value in fingerprints.items())
    return hashlib.sha256(text.encode()).hexdigest()


def join_tables(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put tables of records one behind the other, from those of the parts by name."""
    return pd.concat(
        [
            table.assign(
                record=f"{name}/" + table["record"],
                patient=f"{name}/" + table["patient"],
                **{DATASET: name},
            )
            for name, table in tables.items()
        ],
        ignore_index=True,
    )


def join(name: str, parts: Sequence[Prepared]) -> Prepared:
    """Join prepared datasets into one, or open it where that was done before.

    Parameters
    ----------
    name : str
        Of the whole.
    parts : sequence of Prepared
        All prepared alike.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    fingerprint = join_fingerprints({part.card.name: part.fingerprint for part in parts})
    folder = cache_root() / "prepared" / f"joined-{fingerprint[:12]}"
    facts = card(name)
    if whole := ready(facts, folder):
        return whole
    with alone(folder):
        if not (whole := ready(facts, folder)):  # nobody else was faster
            with writing(folder) as partial:
                _write(partial, parts, fingerprint)
            whole = open_prepared(facts, folder)
    return whole


def _write(folder: Path, parts: Sequence[Prepared], fingerprint: str) -> None:
    with open(folder / "signals.npy", "wb") as file:
        npy_header(file, sum(len(part.signals) for part in parts), parts[0].signals.shape[2])
        for part in parts:
            for first in range(0, len(part.signals), _CHUNK):
                # Not through a memory map: there a full disk kills the program.
                file.write(part.signals[first : first + _CHUNK].data)
        file.flush()
        os.fsync(file.fileno())
    join_tables({part.card.name: part.table for part in parts}).to_parquet(
        folder / "records.parquet", index=False
    )
    manifest = {"fingerprint": fingerprint, "parts": {p.card.name: p.fingerprint for p in parts}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
