"""MATLAB and HDF5 files, read in a process of their own.

Some damaged files end the program that opens them with scipy or the HDF5 library, others claim
more memory than there is, or keep their reader busy for ever. There they cost one record.
"""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

_PATIENCE_S = 120.0
_MOST_MEMORY = 2**32
_GLANCES = 1000
_NUMBERS = {"double", "single", "logical"} | {
    f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)
}
_HDF5 = (b"MATLAB 7.3", b"\x89HDF\r\n\x1a\n")


class _UnreadableError(ValueError):
    """Not a file of this kind, or a damaged one."""


def room(size: int) -> int:
    """Return how many bytes a file of this size may unpack to."""
    return 2**24 + 64 * size


def matrix(path: Path, signals: int, samples: int, *, certain: bool) -> npt.NDArray | None:
    """Read the matrix of a MATLAB file: ``val``, or the only one of the right shape.

    Parameters
    ----------
    path : Path
    signals, samples : int
        What it must hold; more samples are left out.
    certain : bool
        Whether it can be nothing else. None is returned of plain samples under such a name.

    Returns
    -------
    ndarray, shape (samples, signals)

    Raises
    ------
    ValueError
        If it cannot be read, or holds something else.
    """
    try:
        return _ask("matlab", str(path), signals, samples)
    except _UnreadableError:
        if certain:
            raise
        return None


@functools.lru_cache
def check_hdf5(path: str, name: str, state: str) -> None:
    """See whether an array in an HDF5 file can be read by this process too.

    Parameters
    ----------
    path, name : str
        The file, and the array in it, whose first axis are the records.
    state : str
        Changes when the file does.

    Raises
    ------
    ValueError
        If it ends the process that reads it, or a record claims to be larger than the file can be.
    """
    _ask("hdf5", path, name)


_running: dict[int, subprocess.Popen[bytes]] = {}  # by the process that asks
_one_at_a_time = threading.Lock()


def _ask(*question: object) -> npt.NDArray:
    with _one_at_a_time:
        child = _running.get(os.getpid()) or _start()
        assert child.stdin
        assert child.stdout
        timer = threading.Timer(_PATIENCE_S, child.kill)
        timer.start()
        answer, content = {}, b""
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline() or "{}")
            content = child.stdout.read(answer.get("bytes", 0))
        except OSError:
            answer = {}
        finally:
            timer.cancel()
            if len(content) != answer.get("bytes"):  # also where Ctrl-C came in between
                _stop()
    if not answer:
        raise _UnreadableError("it is damaged: the program that reads it died")
    if "unreadable" in answer:
        raise _UnreadableError(f"it cannot be read ({answer['unreadable']})")
    if "unfit" in answer:
        raise ValueError(answer["unfit"])
    return np.frombuffer(content, answer["dtype"]).reshape(answer["shape"])


def _start() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,  # it ends when this program does
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    _running[os.getpid()] = child
    return child


@atexit.register
def _stop() -> None:
    if child := _running.pop(os.getpid(), None):
        child.kill()
        with suppress(OSError):
            child.communicate()


def _serve() -> None:
    """Answer questions, one a line, until there are no more."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    for line in sys.stdin.buffer:
        kind, *rest = json.loads(line)
        content = b""
        try:
            values = (_matlab if kind == "matlab" else _hdf5)(*rest)
            content = values.tobytes()
            answer = {"shape": values.shape, "dtype": values.dtype.str}
        except _UnfitError as error:
            answer = {"unfit": str(error)}
        except Exception as error:  # scipy and h5py raise whatever their parsers stumble over
            answer = {"unreadable": str(error)[:200] or type(error).__name__}
        sys.stdout.buffer.write(json.dumps(answer | {"bytes": len(content)}).encode() + b"\n")
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


class _UnfitError(Exception):
    """What is in the file is something else than was asked for."""


def _matlab(path: str, signals: int, samples: int) -> npt.NDArray:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        new = file.read(16).startswith(_HDF5)
    if new:
        import h5py

        with h5py.File(path, "r") as stored:
            arrays = {k: v for k, v in stored.items() if isinstance(v, h5py.Dataset)}
            shapes = {name: array.shape[::-1] for name, array in arrays.items()}
            values = arrays[_choose(shapes, signals, samples, size)][()].T
    else:
        from scipy.io import loadmat, whosmat

        shapes = {name: shape for name, shape, kind in whosmat(path) if kind in _NUMBERS}
        name = _choose(shapes, signals, samples, size)
        values = loadmat(path, variable_names=[name])[name]
    whole = values.shape[0] == signals and values.shape[1] >= samples
    return np.ascontiguousarray((values.T if whole else values)[:samples])


def _choose(shapes: Mapping[str, tuple[int, ...]], signals: int, samples: int, size: int) -> str:
    fits = [
        name
        for name, shape in shapes.items()
        if len(shape) == 2 and signals in shape and max(shape) >= samples
    ]
    fits = ["val"] if "val" in fits else fits
    if len(fits) > 1:
        raise _UnfitError(f"which matrix is meant, {' or '.join(fits)}? Call it val")
    if not fits:
        has = ", ".join(" x ".join(map(str, shape)) for shape in shapes.values()) or "absent"
        raise _UnfitError(f"the header says {signals} x {samples}, the matrix is {has}")
    _check_room(shapes[fits[0]], size)
    return fits[0]


def _check_room(shape: tuple[int, ...], size: int) -> None:
    if 8 * math.prod(shape) > room(size):
        raise _UnfitError(f"{size} bytes cannot hold {' x '.join(map(str, shape))} samples")


def _hdf5(path: str, name: str) -> npt.NDArray:
    import h5py

    with h5py.File(path, "r") as stored:
        array = stored[name]
        _check_room(array.shape[1:], os.path.getsize(path))
        for record in range(0, len(array), 1 + len(array) // _GLANCES):
            with suppress(OSError):  # one damaged record is no reason to refuse the others
                array[record]
    return np.empty(0)
