"""Results of runs: written once, visible at the moment they are whole, read by anyone.

A finished run is one ``.npz`` file in the cache (JSON and arrays, never pickle), put in place by
one `os.replace`. Runs of a published study are also recorded in parquet tables under ``results/``;
reads look first at the cache, then there. What is damaged is named; in the cache it is made again.
"""

import functools
import hashlib
import json
import os
import platform
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute, parquet

import ecgnb
from ecgnb.data.catalog import cache_root
from ecgnb.data.own import check_file
from ecgnb.errors import UserError
from ecgnb.files import locked, put, writable
from ecgnb.study.spec import RunSpec
from ecgnb.training.metrics import SCORES


@dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    `predictions` are test probabilities, float16 of shape (records, classes), without the classes
    of a label set that no record of the dataset shows; `records` name their rows, and are empty for
    runs that saw no test set. `validation` has those of validation, `short`; it is empty where a
    frozen encoder is asked, and for runs that were recorded without. On `history` see
    `ecgnb.training.fit.Fitted`.

    The `facts` are ``train_records``, ``validation_records``, ``validation_auroc``,
    ``best_update``, the test metrics (``auroc``, ``auprc``, ``f1``, ``weighted_f1``, ``classes``),
    and where it was made (``seconds``, of which ``training_seconds`` in training itself,
    ``device``, ``precision``, ``torch``, ``package``, ``code``). Where records were reconstructed,
    it is ``validation_explained``, and the test metrics are ``explained_variance`` and ``mse``. A
    linear probe has the scores of `ecgnb.training.transferability`.
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
        return float(next(self.facts[name] for name in SCORES if name in self.facts))


_ARRAYS = ("predictions", "validation")
_INDEX = "scores.txt"
_FACTS = "ecgnb"
_WEIGHTS = "weights_sha256"


@functools.cache
def provenance() -> dict[str, str]:
    """Return the versions that make a result, and a hash of the source that it depends on."""
    import torch  # takes most of a second, which who only reads results need not wait for

    digest = hashlib.sha256()
    root = Path(ecgnb.__file__).parent
    rooms = ("data", "simulate", "models", "training")
    for path in sorted(path for room in rooms for path in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return {
        "package": ecgnb.__version__,
        "code": digest.hexdigest()[:12],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def short(values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Round to three binary digits: the others are noise of a seed, which packs badly.

    Not for what is ranked: many would become equal.
    """
    mantissa, exponent = np.frexp(values.astype(np.float16))
    return np.ldexp(np.round(8 * mantissa), exponent - 3).astype(np.float16)


def write_table(
    results: Iterable[Result], path: Path, facts: Mapping[str, object] | None = None
) -> None:
    """Record results in one parquet table, with facts about all of them as JSON inside.

    One row a run, sorted by key: the fields of the spec and of the facts as columns, the history
    as lists, ``classes`` and ``records`` as lists of names, and ``predictions`` as the bytes of a
    float16 array of shape (records, classes).
    """
    rows = [_to_row(result) for result in sorted(results, key=lambda result: result.key)]
    # Runs of different stages have different facts; a fact that a run lacks stays empty.
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    if facts:
        table = table.replace_schema_metadata({_FACTS: json.dumps(facts)})
    # The table is kept with the code and nine tenths of it are predictions, which this packs
    # closer than any level of zstd. It is written slowly for that, but once; reading is quick.
    packed = {"compression": "brotli", "compression_level": 11}
    put(path, lambda name: parquet.write_table(table, name, **packed))


def read_part(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Return what a recorded table says of itself, and all its runs; UserError if it is damaged."""
    with _readable(path):
        table = parquet.read_table(path)
        facts = json.loads((table.schema.metadata or {}).get(_FACTS.encode(), b"{}"))
        return facts, [_from_row(row) for row in table.to_pylist()]


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
    # What was recorded before a field was added has its default.
    spec = {entry.name: row[entry.name] for entry in fields(RunSpec) if entry.name in row}
    told = {"key": row["key"], "spec": spec, "classes": row["classes"], "records": row["records"]}
    for name, prefix in (("history", "history_"), ("facts", "fact_")):
        told[name] = {
            column.removeprefix(prefix): value
            for column, value in row.items()
            if column.startswith(prefix) and value is not None
        }
    count, classes = len(row["records"]), len(row["classes"])
    predictions = np.frombuffer(row["predictions"], dtype="<f2")
    validation = np.frombuffer(row.get("validation") or b"", dtype="<f2")
    return _result(
        told,
        predictions=predictions.reshape(count, -1 if count else 0),
        validation=validation.reshape(-1, max(classes, 1)),
    )


def _result(told: dict[str, Any], **arrays: Any) -> Result:
    told["spec"] = RunSpec(**told["spec"])
    told |= {name: tuple(told[name]) for name in ("classes", "records")}
    return Result(**told, **arrays)


def recorded_scores(parts: Sequence[Path]) -> dict[str, float]:
    """Return the validation score of recorded runs by key; UserError if one is there twice."""
    scores: dict[str, float] = {}
    for path in parts:
        with _readable(path):
            names = [f"fact_{score}" for score in SCORES]
            there = [name for name in names if name in parquet.read_schema(path).names]
            table = parquet.read_table(path, columns=["key", *there])
            column = compute.coalesce(*(table[name] for name in there))
        keys = table["key"].to_pylist()
        if len({*keys}) < len(keys) or scores.keys() & {*keys}:
            raise UserError(f"{path} records a run twice; get the tables of results/ again")
        scores.update(zip(keys, column.to_pylist(), strict=True))
    return scores


_UNREADABLE = (OSError, ValueError, KeyError, TypeError)  # of Arrow, numpy, and what is in a file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one sentence that a recorded table is not what was recorded."""
    damaged = UserError(
        f"the recorded runs in {path} are damaged; get that file again from where you got it"
    )
    try:
        if not _is_whole(path, path.stat().st_mtime_ns):
            raise damaged
        yield
    except _UNREADABLE as error:
        raise damaged from error


@functools.lru_cache(maxsize=64)
def _is_whole(path: Path, changed: int) -> bool:
    """Compare a table with its hash, which is its name."""
    return not re.fullmatch(r"[0-9a-f]{16}", path.stem) or hash_of(path).startswith(path.stem)


# The table stays as it was read: thousands of runs as Python's own values would fill the memory.
@functools.lru_cache(maxsize=16)
def _recorded_at(path: Path, changed: int) -> tuple[pa.Table, dict[str, int]]:
    table = parquet.read_table(path).combine_chunks()
    return table, {key: row for row, key in enumerate(table["key"].to_pylist())}


@dataclass(frozen=True)
class Store:
    """Where results are: in a folder, and in recorded tables, read where that has nothing."""

    folder: Path
    recorded: tuple[Path, ...] = ()

    def path(self, key: str, suffix: str = "npz") -> Path:
        """Return where the result of a run stands in the cache, or what else is kept of it."""
        return self.folder / key[:2] / f"{key}.{suffix}"

    def weights(self, key: str) -> Path:
        """Return where the weights of a pre-training stand in the cache."""
        return self.path(key, "safetensors")

    def checkpoint(self, key: str) -> Path:
        """Return where a training that is not finished keeps what it has come to."""
        return self.path(key, "checkpoint")

    def has(self, key: str) -> bool:
        """Tell whether the result of a run is in the cache."""
        return self.path(key).exists()

    def has_weights(self, key: str) -> bool:
        """Tell whether a pre-training can be used: its result and its weights are there."""
        return self.has(key) and self.weights(key).is_file()

    def sound_weights(self, key: str) -> bool:
        """Tell whether weights are those that their pre-training wrote; remove others."""
        if not self.has_weights(key) or not (result := self._read(key)):
            return False
        noted = result.facts.get(_WEIGHTS)
        if noted in (None, hash_of(self.weights(key))):  # none was noted in earlier versions
            return True
        self._damaged(self.weights(key))
        return False

    def _damaged(self, path: Path) -> None:
        warnings.warn(f"{path} was damaged; it is removed, and made again", stacklevel=3)
        with self._writable():
            path.unlink(missing_ok=True)

    def _read(self, key: str) -> Result | None:
        """Read a result of the cache; None, and away with it, if it is damaged."""
        path = self.path(key)
        try:
            with np.load(check_file(path), allow_pickle=False) as file:
                told = json.loads(file["facts"].tobytes())
                # Older versions kept no probabilities of validation.
                result = _result(told, **{name: file[name] for name in _ARRAYS if name in file})
            if len(result.records) == len(result.predictions):
                return result
        except (*_UNREADABLE, EOFError, zipfile.BadZipFile, zlib.error, RecursionError):
            if not os.path.lexists(path):
                return None
        self._damaged(path)
        return None

    def shared(
        self, name: str, compute: Callable[[], npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """Return an array that several runs use, memory-mapped; whoever comes first computes it."""
        path, noted = self.path(name, "npy"), self.path(name, "sha256")
        with self._writable():
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._claim(name)):
                for _ in range(2):
                    if not path.exists():
                        put(path, partial(_write_array, values=compute()))
                        put(noted, lambda to: to.write_text(hash_of(path)))
                    with suppress(OSError, ValueError, EOFError):
                        if noted.read_text() == hash_of(path):
                            return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
                    self._damaged(path)
        raise UserError(f"{path} cannot be read back; point ECGNB_CACHE at another disk")

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Take a run, so that no other process on this folder does it too; False if one does.

        Whoever has taken it must see whether it has been done meanwhile. A process that dies lets
        go of what it took.
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
        """Remove what killed programs left; what a living one is writing stays."""
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

        They are read from an index, of which a line counts if its check sum is right: others were
        cut off, or are damaged. A run may be missing here; `score` then looks at its result.
        """
        there = {path.stem for path in self.folder.glob("??/*.npz")}
        lines: list[str] = []
        with suppress(OSError):
            lines = check_file(self.folder / _INDEX).read_text(errors="replace").split("\n")
        parts = (line.rpartition(" ") for line in lines)
        notes = (note.split(" ") for note, _, check in parts if check == _check(note))
        here = {key: float(score) for key, score in notes if key in there and score != "nan"}
        return {**recorded_scores(self.recorded), **here}

    def _note(self, key: str, score: float) -> None:
        """Put the score of a run into the index; without it the run is as done as with it."""
        path, note = self.folder / _INDEX, f"{key} {score!r}"
        with suppress(OSError), locked(path.with_name(f".{_INDEX}.claim")):
            if path.exists():
                check_file(path)
            with open(path, "a") as file:
                file.write(f"{note} {_check(note)}\n")

    def score(self, key: str) -> float | None:
        """Return the validation score of a run of the cache, or None if it has not been done."""
        if not (result := self._read(key)):
            return None
        # Another program may have noted it meanwhile, and it then stands there twice.
        self._note(key, result.score)
        return result.score

    def load(self, key: str, spec: RunSpec | None = None) -> Result | None:
        """Return the result of a run, or None if it has not been done.

        Raises a UserError if what is recorded under the key is another run than `spec`, or damaged.
        """
        if result := self._read(key):
            if (result.key, result.spec) == (key, spec or result.spec):
                return result
            self._damaged(self.path(key))
        for path in self.recorded:
            with _readable(path):
                table, rows = _recorded_at(path, path.stat().st_mtime_ns)
                if key not in rows:
                    continue
                result = _from_row(table.slice(rows[key], 1).to_pylist()[0])
            if result.spec != (spec or result.spec):
                raise UserError(f"{path} has another run under the key {key}; get that file again")
            return result
        return None

    def save(self, result: Result, write_weights: Callable[[Path], None] | None = None) -> None:
        """Make a result visible, its weights first.

        Raises a UserError if it cannot be written, as on a full disk.
        """
        with self._writable():
            if write_weights:
                put(self.weights(result.key), write_weights)
                result.facts[_WEIGHTS] = hash_of(self.weights(result.key))
            put(self.path(result.key), partial(_write, result=result))
            self.checkpoint(result.key).unlink(missing_ok=True)
        self._note(result.key, result.score)

    def _writable(self) -> AbstractContextManager[None]:
        return writable(
            self.folder,
            "no finished run is lost: mend it or point ECGNB_CACHE elsewhere, and run again",
        )


def open_store(recorded: tuple[Path, ...] = ()) -> Store:
    """Open the store of this computer's cache, beside recorded tables."""
    return Store(cache_root() / "runs", recorded)


def spare_room() -> tempfile.TemporaryDirectory[str]:
    """Make a folder beside the cache for runs that nobody keeps; it goes when it is left."""
    with writable(cache_root(), "point ECGNB_CACHE at a folder that you can write to"):
        cache_root().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=cache_root(), prefix=".spare-")


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(note: str) -> str:
    return f"{zlib.crc32(note.encode()):08x}"


def _write(path: Path, result: Result) -> None:
    told = {name: value for name, value in vars(result).items() if name not in _ARRAYS}
    facts = np.frombuffer(json.dumps(told, default=asdict).encode(), dtype=np.uint8)
    with open(path, "wb") as file:
        np.savez_compressed(
            file, facts=facts, predictions=result.predictions, validation=result.validation
        )


def _write_array(path: Path, values: npt.NDArray[np.float32]) -> None:
    with open(path, "wb") as file:  # a name without a suffix, as `np.save` would not leave it
        np.save(file, values, allow_pickle=False)
