"""A few real ECGs that come with the recorded results, so that pages can show them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.data import records, resample
from ecgnb.study.data import open_dataset, results_root
from ecgnb.study.grid import Study


def example_headers(study: Study, dataset: str) -> dict[str, Path]:
    """Return the headers of a dataset's example records by record; none if the study is live."""
    folder = results_root() / "examples" / dataset
    if not study.recorded:
        return {}
    return {path.stem.split("_")[0]: path for path in sorted(folder.glob("*.hea"))}


def read_example(study: Study, header: Path) -> npt.NDArray[np.float64]:
    """Read an example as a study prepares it, microvolts of shape (12, samples)."""
    found = records.read_header(header)
    values = records.microvolts(found, records.read_digital(found))
    values = resample.resample(
        values, found.sampling_rate, study.data.rate, antialias=study.data.antialias
    )
    return values[: study.data.samples].T


def read_record(study: Study, name: str) -> npt.NDArray[np.float64]:
    """Read a record named ``dataset/record``: an example, or one of a dataset that is here.

    Returns
    -------
    ndarray of float64, shape (12, samples)
        In microvolts.
    """
    dataset, _, record = name.partition("/")
    if header := example_headers(study, dataset).get(record):
        return read_example(study, header)
    prepared = open_dataset(study, dataset)
    (row,) = np.flatnonzero(prepared.table["record"] == record)
    return prepared.signals[row].astype(np.float64)


def finding_of(name: str) -> str:
    """Say what an example named ``dataset/record`` shows; empty for any other record."""
    dataset, _, record = name.partition("/")
    return _findings().get((dataset, record), "")


@cache
def _findings() -> dict[tuple[str, str], str]:
    path = results_root() / "examples" / "examples.csv"
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype=str)
    names = zip(table["dataset"], table["record"], strict=True)
    return dict(zip(names, table["finding"], strict=True))


@dataclass(frozen=True)
class Drawn:
    """A record and its reconstruction.

    Attributes
    ----------
    name, finding : str
        ``dataset/record``, and what it shows, where that is known.
    wanted, found : ndarray, shape (samples,)
        Lead II less its mean, and what the autoencoder made of it, in microvolts.
    """

    name: str
    finding: str
    wanted: npt.NDArray[np.float64]
    found: npt.NDArray[np.float64]

    @property
    def explained(self) -> float:
        """Share of the variance that is explained."""
        left = np.square(self.found - self.wanted).sum()
        return float(1 - left / np.square(self.wanted).sum())
