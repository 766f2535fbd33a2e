"""Several datasets as one: their arrays one behind the other, their tables too.

It is named by their names, joined by a plus: ``ptb-xl+cpsc2018``. Records and patients carry the
name of their dataset, so that no two of them are mixed up, and keep their codes: labels are read
from each part in its own vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ecgnb.data.catalog import cache_root
from ecgnb.data.prepare import Prepared, alone, open_prepared, writing

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
    if not folder.is_dir():
        with alone(folder):
            if not folder.is_dir():
                with writing(folder) as partial:
                    _write(partial, parts, fingerprint)
    return open_prepared(name, folder)


def _write(folder: Path, parts: Sequence[Prepared], fingerprint: str) -> None:
    shape = (sum(len(part.signals) for part in parts), *parts[0].signals.shape[1:])
    signals = np.lib.format.open_memmap(folder / "signals.npy", "w+", np.dtype("<i2"), shape)
    begin = 0
    for part in parts:
        signals[begin : begin + len(part.signals)] = part.signals
        begin += len(part.signals)
    signals.flush()
    join_tables({part.card.name: part.table for part in parts}).to_parquet(
        folder / "records.parquet", index=False
    )
    manifest = {"fingerprint": fingerprint, "parts": {p.card.name: p.fingerprint for p in parts}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
