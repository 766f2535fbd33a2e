"""Results of runs: written once, visible at the moment they are whole, read by anyone.

A finished run is one ``.npz`` file in the cache (JSON and arrays, never pickle), put in place by
one `os.replace`. Runs of a published study are also recorded in one parquet table under
``results/``; reads look first at the cache, then there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute, parquet

import ecgnb
from ecgnb.data.catalog import cache_root
from ecgnb.files import locked, put, writable
from ecgnb.study.spec import RunSpec
from ecgnb.training.metrics import SCORES


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
        ``torch``, ``package``, ``code``). Where records were reconstructed, it is
        ``validation_explained``, and the test metrics are ``explained_variance`` and ``mse``.
        A linear probe has the scores of `ecgnb.training.transferability`.
    validation : ndarray of float16, shape (validation records, classes)
        Validation probabilities; empty for runs that were recorded without.
    """

    key: str
    spec: RunSpec
    classes: tuple[str, ...]
    records: tuple[str, ...]
    predictions: npt.NDArray[np.float16]
    history: dict[str, list[float]]
    facts: dict[str, Any]
    validation: npt.NDArray[np.float16] = field(
        default_factory=lambda: np.empty((0, 0), dtype=np.float16)
    )

    @property
    def score(self) -> float:
        """How good the chosen checkpoint is on validation."""
        found = (self.facts.get(name) for name in SCORES)
        return float(next(score for score in found if score is not None))


@functools.cache
def provenance() -> dict[str, str]:
    """Return the versions and the machine that make a result."""
    import torch  # takes most of a second, which who only reads results need not wait for

    return {
        "package": ecgnb.__version__,
        "code": code_digest(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def code_digest() -> str:
    """Hash of the source that a result depends on, to tell which code made it."""
    digest = hashlib.sha256()
    root = Path(ecgnb.__file__).parent
    rooms = ("data", "simulate", "models", "training")
    for path in sorted(path for room in rooms for path in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


_NAME = "scores.txt"


def read_scores(folder: Path) -> dict[str, float]:
    """Return the validation score of runs by their key, as far as a store's index has them."""
    try:
        text = (folder / _NAME).read_text()
    except OSError:
        return {}
    scores = {}
    # What stands behind the last line's end was cut off in the middle of being written.
    for line in text.split("\n")[:-1]:
        key, _, value = line.partition(" ")
        with suppress(ValueError):  # a line that begins in one that was cut off
            scores[key] = float(value)
    return scores


def add_score(folder: Path, key: str, score: float) -> None:
    """Note the score of a run; without it the run is as done as with it."""
    path = folder / _NAME
    with suppress(OSError), locked(folder / f".{_NAME}.claim"), open(path, "a") as file:
        file.write(f"{key} {score!r}\n")


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
        "validation": result.validation.astype("<f2").tobytes() or None,
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
        validation=np.frombuffer(row.get("validation") or b"", dtype="<f2").reshape(
            -1, max(len(classes), 1)
        ),
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

    def checkpoint(self, key: str) -> Path:
        """Return where a training that is not finished keeps what it has come to."""
        return self.folder / key[:2] / f"{key}.checkpoint"

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
            with locked(self._claim(name)):
                if not path.exists():
                    values = compute()
                    put(path, lambda place: _write_array(place, values))
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
        path = self._claim(key)
        with ExitStack() as held:
            with self._writable():
                path.parent.mkdir(parents=True, exist_ok=True)
                mine = held.enter_context(locked(path, wait=False))
            yield mine

    def _claim(self, name: str) -> Path:
        return self.folder / name[:2] / f".{name}.claim"

    def tidy(self) -> None:
        """Remove what killed programs left; what a living one is writing stays.

        Raises
        ------
        UserError
            If the folder cannot be written.
        """
        for left in [*self.folder.glob("??/.*"), *self.folder.glob("??/*.checkpoint")]:
            # A claim, a file that was being written, or the checkpoint of a run, by their names.
            name = left.name.removeprefix(".").partition(".")[0]
            if left.suffix == ".checkpoint" and not self.has(name):
                continue  # the run goes on from it
            with self.claim(name) as nobody_else:
                if nobody_else:
                    left.unlink(missing_ok=True)

    def scores(self) -> dict[str, float]:
        """Return the validation score of finished runs by their key, without opening each.

        A run may be missing here; `score` then looks at its result.
        """
        there = {path.stem for path in self.folder.glob("??/*.npz")}
        indexed = read_scores(self.folder)
        here = {key: score for key, score in indexed.items() if key in there}
        return {**recorded_scores(self.recorded), **here}

    def score(self, key: str) -> float | None:
        """Return the validation score of a run of the cache, or None if it has not been done."""
        path = self.path(key)
        if not path.exists():
            return None
        score = _read(path).score
        # Another program may have noted it meanwhile, and it then stands there twice.
        add_score(self.folder, key, score)
        return score

    def load(self, key: str) -> Result | None:
        """Return the result of a run, or None if it has not been done."""
        path = self.path(key)
        if path.exists():
            return _read(path)
        return read_recorded(self.recorded, key)

    def save(self, result: Result, write_weights: Callable[[Path], None] | None = None) -> None:
        """Make a result visible, its weights first.

        Raises
        ------
        UserError
            If it cannot be written, as on a full disk.
        """
        with self._writable():
            if write_weights:
                put(self.weights(result.key), write_weights)
            put(self.path(result.key), lambda path: _write(path, result))
            self.checkpoint(result.key).unlink(missing_ok=True)
        add_score(self.folder, result.key, result.score)

    def _writable(self) -> AbstractContextManager[None]:
        return writable(
            self.folder,
            "no finished run is lost: mend it or point ECGNB_CACHE elsewhere, and run again",
        )


def open_store(recorded: Path | None = None) -> Store:
    """Open the store of this computer's cache, beside a recorded table."""
    return Store(cache_root() / "runs", recorded if recorded and recorded.exists() else None)


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
        np.savez_compressed(
            file, facts=encoded, predictions=result.predictions, validation=result.validation
        )


def _write_array(path: Path, values: npt.NDArray[np.float32]) -> None:
    with open(path, "wb") as file:  # a name without a suffix, as `np.save` would not leave it
        np.save(file, values, allow_pickle=False)


def _read(path: Path) -> Result:
    with np.load(path, allow_pickle=False) as file:
        text = json.loads(file["facts"].tobytes())
        predictions = file["predictions"]
        none = np.empty((0, len(text["classes"])), np.float16)  # as older versions kept
        validation = file.get("validation", none)
    return Result(
        key=text["key"],
        spec=RunSpec(**text["spec"]),
        classes=tuple(text["classes"]),
        records=tuple(text["records"]),
        predictions=predictions,
        history=text["history"],
        facts=text["facts"],
        validation=validation,
    )
