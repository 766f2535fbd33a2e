"""Datasets whose signals are one array instead of a file a record."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgnb.data.records import LEADS, RecordError

_LEADS = len(LEADS)


@dataclass(frozen=True)
class Tensor:
    """One array of signals: floating-point values are millivolts, whole numbers microvolts.

    Attributes
    ----------
    path : str
        A NumPy or an HDF5 file.
    name : str
        The array in an HDF5 file; empty for NumPy.
    records : int
        How many there are, on the first axis.
    leads_first : bool
        Whether the shape is (records, 12, samples) rather than (records, samples, 12).
    rate : float
        Sampling rate in Hz.
    leads : tuple of str
        Their order.
    """

    path: str
    name: str
    records: int
    leads_first: bool
    rate: float
    leads: tuple[str, ...]


def open_tensor(path: Path, name: str, rate: float, leads: tuple[str, ...]) -> Tensor:
    """Look at an array.

    Raises
    ------
    OSError
        If it is not there or cannot be read.
    ValueError
        If it is not an array of 12-lead signals.
    """
    array = _opened(str(path), name)
    shape = tuple(array.shape)
    twelve = [axis for axis in range(1, len(shape)) if shape[axis] == _LEADS]
    if len(shape) != 3 or len(twelve) != 1 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{path.name} holds {array.dtype} values of shape {shape}; it must hold numbers of "
            "shape (records, 12, samples) or (records, samples, 12)"
        )
    return Tensor(str(path), name, shape[0], twelve == [1], rate, leads)


# A process reads many records of one file.
@functools.lru_cache(maxsize=2)
def _opened(path: str, name: str) -> Any:
    if not name:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    import h5py  # for one dataset

    return h5py.File(path, "r")[name]


def read_microvolts(tensor: Tensor, record: int) -> npt.NDArray[np.float64]:
    """Read one record in the standard lead order; what it was filled up with is left out.

    Returns
    -------
    ndarray of float64, shape (samples, 12)
        Without samples at both ends that are 0, or missing, in all leads.

    Raises
    ------
    RecordError
        If nothing is left.
    """
    values = np.asarray(_opened(tensor.path, tensor.name)[record])
    scale = 1000.0 if values.dtype.kind == "f" else 1.0
    values = (values.T if tensor.leads_first else values).astype(np.float64) * scale
    used = np.flatnonzero(((values != 0) & ~np.isnan(values)).any(axis=1))
    if used.size == 0:
        raise RecordError("every sample is 0 or missing")
    order = [tensor.leads.index(lead) for lead in LEADS]
    return values[used[0] : used[-1] + 1, order]
