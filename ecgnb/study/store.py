"""Results of runs: written once, visible at the moment they are whole, read by anyone.

A finished run is one ``.npz`` file in the cache (JSON and arrays, never pickle), put in place by
one `os.replace`. Runs of a published study are also recorded in one parquet table under
``results/``; reads look first at the cache, then there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from filelock import FileLock, Timeout
from pyarrow import parquet

import ecgnb
from ecgnb.data.catalog import cache_root
from ecgnb.errors import UserError
from ecgnb.study.spec import RunSpec


@dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Attributes
    ----------
    key : str
    spec : RunSpec
    classes : tuple of str
        Columns of `predictions`.
    records : tuple of str
        Test records, the rows of `predictions`; empty for runs that saw no test set.
    predictions : ndarray of float16, shape (records, classes)
        Test probabilities.
    history : dict of list
        See `ecgnb.training.fit.Fitted`.
    facts : dict
        ``train_records``, ``validation_records``, ``validation_auroc``, ``best_update``, the test
        metrics (``auroc``, ``auprc``, ``f1``, ``weighted_f1``, ``classes``), and where it was made
        (``seconds``, of which ``training_seconds`` in training itself, ``device``, ``precision``,
        ``torch``, ``package``, ``code``).
    """

    key: str
    spec: RunSpec
    classes: tuple[str, ...]
    records: tuple[str, ...]
    predictions: npt.NDArray[np.float16]
    history: dict[str, list[float]]
    facts: dict[str, Any]


@functools.cache
def provenance() -> dict[str, str]:
    """Return the versions and the machine that make a result."""
    return {
        "package": ecgnb.__version__,
        "code": code_digest(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def code_digest() -> str:
    """Hash of the package's source, to tell which code made a result."""
    digest = hashlib.sha256()
    root = Path(ecgnb.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Store:
    """Where results are.

    Attributes
    ----------
    folder : Path
        The cache of finished runs.
    recorded : Path or None
        A recorded table, read where the cache has nothing.
    """

    folder: Path
    recorded: Path | None = None

    def path(self, key: str) -> Path:
        """Return where the result of a run stands in the cache."""
        return self.folder / key[:2] / f"{key}.npz"

    def weights(self, key: str) -> Path:
        """Return where the weights of a pre-training stand in the cache."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Tell whether the result of a run is in the cache."""
        return self.path(key).exists()

    def has_weights(self, key: str) -> bool:
        """Tell whether a pre-training can be used: its result and its weights are there."""
        return self.path(key).exists() and self.weights(key).exists()

    def shared(
        self, name: str, compute: Callable[[], npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """Return an array that several runs use, memory-mapped; whoever comes first computes it.

        Raises
        ------
        UserError
            If it cannot be written.
        """
        path = self.folder / name[:2] / f"{name}.npy"
        with self._writable():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # let go of when its process dies
                if not path.exists():
                    values = compute()
                    _put(path, lambda place: _write_array(place, values))
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Take a run, so that no other process on this folder does it too; False if one does.

        Whoever has taken it must see whether it has been done meanwhile. A process that dies lets
        go of what it took.

        Raises
        ------
        UserError
            If the folder cannot be written.
        """
        path = self.folder / key[:2] / f".{key}.claim"
        lock = FileLock(path)
        with self._writable():
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                lock.acquire(timeout=0)
        try:
            yield lock.is_locked
        finally:
            if lock.is_locked:
                path.unlink(missing_ok=True)
                lock.release()

    def load(self, key: str) -> Result | None:
        """Return the result of a run, or None if it has not been done."""
        path = self.path(key)
        if path.exists():
            return _read(path)
        row = _recorded(self.recorded).get(key)
        return None if row is None else _from_row(row)

    def save(self, result: Result, write_weights: Callable[[Path], None] | None = None) -> None:
        """Make a result visible, its weights first.

        Raises
        ------
        UserError
            If it cannot be written, as on a full disk.
        """
        with self._writable():
            if write_weights:
                _put(self.weights(result.key), write_weights)
            _put(self.path(result.key), lambda path: _write(path, result))

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write results to {self.folder} ({error.strerror or error}); no finished "
                "run is lost: free some space, or point ECGNB_CACHE elsewhere, and run again"
            ) from error


def open_store(recorded: Path | None = None) -> Store:
    """Open the store of this computer's cache, beside a recorded table."""
    return Store(cache_root() / "runs", recorded if recorded and recorded.exists() else None)


def _put(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name has no suffix that any reader looks for.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # a temporary file is its owner's alone; results are for all
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _write(path: Path, result: Result) -> None:
    text = {
        "key": result.key,
        "spec": asdict(result.spec),
        "classes": result.classes,
        "records": result.records,
        "history": result.history,
        "facts": result.facts,
    }
    encoded = np.frombuffer(json.dumps(text).encode(), dtype=np.uint8)
    with open(path, "wb") as file:
        np.savez_compressed(file, facts=encoded, predictions=result.predictions)


def _write_array(path: Path, values: npt.NDArray[np.float32]) -> None:
    with open(path, "wb") as file:  # a name without a suffix, as `np.save` would not leave it
        np.save(file, values, allow_pickle=False)


def _read(path: Path) -> Result:
    with np.load(path, allow_pickle=False) as file:
        text = json.loads(file["facts"].tobytes())
        predictions = file["predictions"]
    return Result(
        key=text["key"],
        spec=RunSpec(**text["spec"]),
        classes=tuple(text["classes"]),
        records=tuple(text["records"]),
        predictions=predictions,
        history=text["history"],
        facts=text["facts"],
    )


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
    _put(path, lambda name: parquet.write_table(table, name, compression="zstd"))


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
        predictions=values.reshape(len(records), len(classes) if records else 0),
        history=_with_prefix(row, "history_"),
        facts=_with_prefix(row, "fact_"),
    )


def _with_prefix(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in row.items()
        if name.startswith(prefix) and value is not None
    }


def _recorded(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    return _recorded_at(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _recorded_at(path: Path, changed: int) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in parquet.read_table(path).to_pylist()}
