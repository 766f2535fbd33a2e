"""Results of runs: written once, visible at the moment they are whole, read by anyone.

A finished run is one ``.npz`` file in the cache (JSON and arrays, never pickle), put in place by
one `os.replace`. Runs of a published study are also recorded in one parquet table under
``results/``; reads look first at the cache, then there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from ecgnb.data.catalog import cache_root
from ecgnb.data.files import put
from ecgnb.errors import UserError
from ecgnb.study.recorded import read_recorded
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
            with FileLock(path.with_suffix(".lock")):  # let go of when its process dies
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
