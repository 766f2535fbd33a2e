"""The runs of a published study in one table, which is kept with the code."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from ecgnb.data.files import put
from ecgnb.study.result import Result
from ecgnb.study.spec import RunSpec
from ecgnb.training.metrics import SCORES

_SMALLEST: dict[str, Any] = {"compression": "brotli", "compression_level": 11}


def write_table(results: Iterable[Result], path: Path) -> None:
    """Record results in one parquet table.

    One row a run, sorted by key: the fields of the spec and of the facts as columns, the history
    as lists, ``classes`` and ``records`` as lists of names, and ``predictions`` as the bytes of a
    float16 array of shape (records, classes).
    """
    rows = [_to_row(result) for result in sorted(results, key=lambda result: result.key)]
    # Runs of different stages have different facts; a fact that a run lacks stays empty.
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    path.parent.mkdir(parents=True, exist_ok=True)
    # The table is kept with the code and nine tenths of it are predictions, which this packs
    # closer than any level of zstd. It is written slowly for that, but once; reading is quick.
    put(path, lambda name: parquet.write_table(table, name, **_SMALLEST))


def _to_row(result: Result) -> dict[str, Any]:
    return {
        "key": result.key,
        **asdict(result.spec),
        **{f"fact_{name}": value for name, value in result.facts.items()},
        **{f"history_{name}": values for name, values in result.history.items()},
        "classes": list(result.classes),
        "records": list(result.records),
        "predictions": result.predictions.astype("<f2").tobytes(),
    }


def _from_row(row: Mapping[str, Any]) -> Result:
    classes, records = tuple(row["classes"]), tuple(row["records"])
    # What was recorded before a field was added has its default.
    names = [entry.name for entry in fields(RunSpec) if entry.name in row]
    values = np.frombuffer(row["predictions"], dtype="<f2")
    return Result(
        key=row["key"],
        spec=RunSpec(**{name: row[name] for name in names}),
        classes=classes,
        records=records,
        predictions=values.reshape(len(records), -1 if records else 0),
        history=_with_prefix(row, "history_"),
        facts=_with_prefix(row, "fact_"),
    )


def _with_prefix(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in row.items()
        if name.startswith(prefix) and value is not None
    }


def read_recorded(path: Path | None, key: str) -> Result | None:
    """Return a run of a recorded table, or None if it is not there."""
    if path is None or not path.exists():
        return None
    table, rows = _recorded_at(path, path.stat().st_mtime_ns)
    return _from_row(table.slice(rows[key], 1).to_pylist()[0]) if key in rows else None


def recorded_scores(path: Path | None) -> dict[str, float]:
    """Return the validation score of the runs of a recorded table by their key."""
    if path is None or not path.exists():
        return {}
    names = [f"fact_{score}" for score in SCORES]
    there = [name for name in names if name in parquet.read_schema(path).names]
    table = parquet.read_table(path, columns=["key", *there])
    scores = compute.coalesce(*(table[name] for name in there))
    return dict(zip(table["key"].to_pylist(), scores.to_pylist(), strict=True))


# The table stays as it was read: thousands of runs as Python's own values would fill the memory.
@functools.lru_cache(maxsize=4)
def _recorded_at(path: Path, changed: int) -> tuple[pa.Table, dict[str, int]]:
    table = parquet.read_table(path).combine_chunks()
    return table, {key: row for row, key in enumerate(table["key"].to_pylist())}
