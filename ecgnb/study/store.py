"""Results of runs: written once, visible at the moment they are whole, read by anyone.

A finished run is one ``.npz`` file in the cache (JSON and arrays, never pickle), put in place by
one `os.replace`. Runs of a published study are also recorded in one parquet table under
``results/``; reads look first at the cache, then there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgnb.data.catalog import cache_root
from ecgnb.data.files import locked, put, writable
from ecgnb.study.index import add_score, read_scores
from ecgnb.study.recorded import read_recorded, recorded_scores
from ecgnb.study.result import Result
from ecgnb.study.spec import RunSpec


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
            "no finished run is lost: free some space, or point ECGNB_CACHE elsewhere, and run "
            "again",
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
