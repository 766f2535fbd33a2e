"""Signal files that are not plain 16-bit samples, read by the packages that know them: slowly."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

_MISSING = {"80": -(2**7), "508": -(2**7), "310": -(2**9), "311": -(2**9), "212": -(2**11)}
_MISSING |= {"24": -(2**23), "524": -(2**23), "32": -(2**31), "8": -(2**63)}  # 8 has no such value

Digital = npt.NDArray[np.signedinteger]


def missing_value(format_: str) -> int:
    """Return the digital value that a WFDB format, such as ``212x2``, reserves for "no sample"."""
    number = re.match(r"\d*", format_)
    return _MISSING.get(number[0] if number else "", -(2**15))


def read(path: Path, files: tuple[str, ...], samples: int) -> Digital:
    """Read the samples of a record in digital units, whatever the format.

    Parameters
    ----------
    path : Path
        The header.
    files : tuple of str
        The file of each signal, in the header's folder.
    samples : int
        Samples per signal.

    Returns
    -------
    ndarray of int, shape (samples, signals)

    Raises
    ------
    OSError
        If a file is absent or cannot be read.
    ValueError
        If a file holds something else than the header says.
    """
    for name in dict.fromkeys(files):
        with open(path.parent / name, "rb"):
            pass  # absent or unreadable: the system says it better than wfdb
    if len(set(files)) == 1 and files[0].lower().endswith(".mat"):
        found = _read_matlab(path.parent / files[0], len(files), samples)
        if found is not None:
            return found
    return _read_wfdb(path, len(files), samples)


def _read_matlab(path: Path, signals: int, samples: int) -> Digital | None:
    """Read the one whole-number matrix of a MATLAB file; None from what is no such file.

    A header says ``16+24`` of a file of MATLAB 5 too, whose samples are compressed or lie
    elsewhere: read by that offset, as wfdb does, it gives noise without an error.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises whatever its parsers stumble over
        if path.read_bytes()[:6] == b"MATLAB":
            raise ValueError(f"scipy cannot read it ({error})") from error
        return None  # plain samples under this name
    arrays = [value for value in content.values() if isinstance(value, np.ndarray)]
    for value in arrays:
        for array in (value.T, value):
            if array.ndim == 2 and array.shape[0] >= samples and array.shape[1] == signals:
                return _whole(array[:samples])
    shapes = ", ".join(" x ".join(map(str, value.shape)) for value in arrays)
    raise ValueError(f"the header says {signals} x {samples}, the matrix is {shapes or 'absent'}")


def _read_wfdb(path: Path, signals: int, samples: int) -> Digital:
    import wfdb  # takes a second to import, and few datasets need it

    try:
        record = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
    except Exception as error:  # wfdb raises whatever its parsers stumble over
        raise ValueError(f"wfdb cannot read it ({error})") from error
    if record.d_signal is None or record.d_signal.shape != (samples, signals):
        raise ValueError("wfdb returns signals of another shape than the header says")
    return _whole(record.d_signal)


def _whole(values: npt.NDArray) -> Digital:
    """Put samples into int16 where they fit, else into int64."""
    if values.dtype.kind not in "iuf" or (values != np.rint(values)).any():
        raise ValueError("the samples are not whole numbers")
    wide = np.ascontiguousarray(values).astype(np.int64)
    narrow = wide.astype(np.int16)
    return narrow if (narrow == wide).all() else wide
