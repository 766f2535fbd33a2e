"""Files of other kinds; those of MATLAB and HDF5 are read in a process of their own.

Some damaged files end the program that opens them with scipy or the HDF5 library, others claim
more memory than there is, or keep their reader busy for ever. There they cost one record.
"""

import functools
import math
import os
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib.externals.loky import ProcessPoolExecutor

from ecgnb.files import end_with

_PATIENCE_S = 120.0
_IDLE_S = 60.0
_MOST_MEMORY = 2**32
_GLANCES = 1000
_NUMBERS = {"double", "single", "logical"} | {
    f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)
}
_STARTS = {b"MATLAB": "a MATLAB", b"\x93NUMPY": "a NumPy", b"\x89HDF\r\n": "an HDF5"}
_STARTS |= {b"0       ": "an EDF", b"RIFF": "a WAV", b"PK\3\4": "a zip", b"\x1f\x8b\x08": "a gzip"}
_HDF5 = (b"MATLAB 7.3", b"\x89HDF\r\n\x1a\n")


class _UnreadableError(ValueError):
    """Not a file of this kind, or a damaged one."""


class _UnfitError(ValueError):
    """What is in the file is something else than was asked for."""


def kind(start: bytes, count: int) -> str:
    """Say which kind of file begins so; empty where it may be samples of so many signals."""
    if start.startswith((*_STARTS,)):
        return next(named for magic, named in _STARTS.items() if start.startswith(magic))
    if not start.strip(b"0123456789+-.,; \t\r\n"):
        return "a text" if start else ""
    # Level 4 has no magic: numbers of any type, one of two sizes that fits, a name.
    type_, rows, columns, imaginary, name = struct.unpack("<5i", start[:20].ljust(20, b"\0"))
    shape = count in (rows, columns) and type_ in range(0, 60, 10)
    return "a MATLAB" if shape and imaginary in (0, 1) and 0 < name <= 64 else ""


def room(size: int) -> int:
    """Return how many bytes a file of this size may unpack to."""
    return 2**24 + 64 * size


def matrix(path: Path, signals: int, samples: int, *, certain: bool) -> npt.NDArray | None:
    """Read the matrix of a MATLAB file, ``val`` or the only one that fits: (samples, signals).

    None where the file may, not being `certain`, hold plain samples under such a name.
    """
    try:
        return _ask(_matlab, str(path), signals, samples)
    except _UnreadableError:
        if certain:
            raise
        return None


@functools.lru_cache
def check_hdf5(path: str, name: str, state: str) -> None:
    """Refuse an array in an HDF5 file that would end this process, or claims what cannot be."""
    _ask(_hdf5, path, name)


_one_at_a_time = threading.Lock()


def _ask(read: Callable[..., npt.NDArray], *question: object) -> npt.NDArray:
    with _one_at_a_time:
        reader = _reader(os.getpid())
        try:
            return reader.submit(_answer, read, *question).result(_PATIENCE_S)
        except (_UnreadableError, _UnfitError):
            raise
        except BaseException as error:  # also where Ctrl-C came in between
            _reader.cache_clear()
            reader.shutdown(wait=False, kill_workers=True)
            if not isinstance(error, BrokenExecutor | TimeoutError):
                raise
            raise _UnreadableError("it is damaged: the program that reads it died") from error


@functools.cache
def _reader(asker: int) -> Any:
    return ProcessPoolExecutor(1, timeout=_IDLE_S, initializer=_confine, initargs=(asker,))


def _confine(asker: int) -> None:
    end_with(asker)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a library says when it dies
    with suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))


def _answer(read: Callable[..., npt.NDArray], *question: object) -> npt.NDArray:
    try:
        return read(*question)
    except _UnfitError:
        raise
    except Exception as error:  # scipy and h5py raise whatever their parsers stumble over
        what = str(error)[:200] or type(error).__name__
        raise _UnreadableError(f"it cannot be read ({what})") from None


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
