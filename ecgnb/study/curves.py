"""Learning curves: how errors fall with training records, and how many pre-training is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Scores
from ecgnb.study.statistics import LEVEL, MARGIN, Floats

_REPLICATES = 500
_FEWEST = 3  # sizes for a curve of three parameters
_FURTHEST = 100  # times the largest training set: no curve is believed beyond
_STEEPEST = 2.0


@dataclass(frozen=True)
class Curve:
    """The error (1 - macro AUROC) after training on n records: floor + scale * n ** -steepness.

    The power law with a floor of Hestness et al. (2017) and Rosenfeld et al. (2020).
    """

    floor: float
    scale: float
    steepness: float

    def error(self, records: Floats | float) -> Floats:
        """Return the error at some numbers of records."""
        return self.floor + self.scale * np.power(np.asarray(records, dtype=float), -self.steepness)

    def records(self, error: float) -> float:
        """Return how many records give an error; infinity where none do."""
        if error <= self.floor or self.steepness == 0:
            return np.inf
        return float((self.scale / (error - self.floor)) ** (1 / self.steepness))


def fit_curve(records: Floats, errors: Floats) -> Curve:
    """Fit a curve by least squares; its floor and its scale are not negative.

    Parameters
    ----------
    records, errors : ndarray, shape (sizes,)
        At least as many as the curve has parameters.
    """
    if len(records) < _FEWEST:
        raise ValueError(f"a curve needs {_FEWEST} sizes, not {len(records)}")
    smallest = float(records.min())

    def missed(parameters: Floats) -> Floats:
        floor, start, steepness = parameters
        return floor + start * (records / smallest) ** -steepness - errors  # type: ignore[no-any-return]

    start = [0.5 * errors.min(), float(np.ptp(errors)) + 0.5 * errors.min(), 0.5]
    bounds = ([0, 0, 0.01], [1, 1, _STEEPEST])
    found = least_squares(missed, np.clip(start, 1e-6, [0.9, 0.9, 1.9]), bounds=bounds)
    floor, scale, steepness = (float(value) for value in found.x)
    return Curve(floor, scale * smallest**steepness, steepness)


@dataclass(frozen=True)
class Worth:
    """What pre-training is worth to one network.

    Attributes
    ----------
    model, head, source, target : str
    scratch, finetune : Curve
    records : ndarray, shape (sizes,)
    errors : ndarray, shape (2, sizes)
        Mean errors from scratch and fine-tuned.
    multiples : ndarray, shape (3, sizes)
        How many times as many records training from scratch needs for the error of the fine-tuned
        network: the value and its interval.
    vanishes : tuple of float
        The number of records from which on the gain stays under the margin, with its interval;
        infinity where the curves never come so near.
    """

    model: str
    head: str
    source: str
    target: str
    scratch: Curve
    finetune: Curve
    records: Floats
    errors: Floats
    multiples: Floats
    vanishes: tuple[float, float, float]


def worth(study: Study, results: Sequence[Result]) -> list[Worth]:
    """Fit both learning curves of every network that was trained at three sizes or more.

    Intervals come from a bootstrap over seeds: each replicate draws seeds, averages their errors
    and fits both curves again.
    """
    scores = Scores(study, results)
    rows: dict[tuple[str, str, str, str], list[tuple[float, Floats]]] = {}
    for cell in scores.cells:
        one, other = scores.of(cell, "scratch"), scores.of(cell, "finetune")
        seeds = sorted(one.keys() & other.keys())
        if not cell.source or not seeds:
            continue
        errors = np.array(
            [[1 - runs[seed].facts["auroc"] for seed in seeds] for runs in (one, other)]
        )
        records = float(np.mean([one[seed].facts["train_records"] for seed in seeds]))
        name = (cell.model, cell.head, cell.source, cell.target)
        rows.setdefault(name, []).append((records, errors))
    return [
        _worth(name, sorted(sizes, key=lambda row: row[0]))
        for name, sizes in rows.items()
        if len(sizes) >= _FEWEST
    ]


def _worth(name: tuple[str, str, str, str], rows: list[tuple[float, Floats]]) -> Worth:
    records = np.array([count for count, _ in rows])
    means = np.array([errors.mean(axis=1) for _, errors in rows]).T
    rng = np.random.default_rng(0)
    fits = [_fit_both(records, means)]
    for _ in range(_REPLICATES):
        drawn = [errors[:, rng.integers(0, errors.shape[1], errors.shape[1])] for _, errors in rows]
        fits.append(_fit_both(records, np.array([errors.mean(axis=1) for errors in drawn]).T))
    multiples = np.array(
        [[scratch.records(float(e)) for e in tuned.error(records)] for scratch, tuned in fits]
    )
    multiples /= records
    ends = np.array([_vanishes(scratch, tuned, records) for scratch, tuned in fits])
    low, high = _interval(ends[1:])
    return Worth(
        *name,
        *fits[0],
        records=records,
        errors=means,
        multiples=np.array([multiples[0], *_interval(multiples[1:])]),
        vanishes=(float(ends[0]), float(low), float(high)),
    )


def _fit_both(records: Floats, errors: Floats) -> tuple[Curve, Curve]:
    return fit_curve(records, errors[0]), fit_curve(records, errors[1])


def _vanishes(scratch: Curve, tuned: Curve, records: Floats) -> float:
    sizes = np.geomspace(records.min(), records.max() * _FURTHEST, 400)
    large = np.flatnonzero(scratch.error(sizes) - tuned.error(sizes) >= MARGIN)
    if not len(large):
        return float(sizes[0])
    return float(sizes[large[-1] + 1]) if large[-1] + 1 < len(sizes) else np.inf


def _interval(values: Floats) -> Floats:
    # Of the values themselves: between a number and infinity there is nothing to interpolate.
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    return np.quantile(values, tails, axis=0, method="nearest")


def worth_table(found: Sequence[Worth]) -> pd.DataFrame:
    """Put what pre-training is worth into one table, a row a network and a size."""
    rows = [
        {
            "model": one.model,
            "head": one.head,
            "source": one.source,
            "target": one.target,
            "records": round(records),
            "multiple": one.multiples[0, place],
            "low": one.multiples[1, place],
            "high": one.multiples[2, place],
        }
        for one in found
        for place, records in enumerate(one.records)
    ]
    return pd.DataFrame(rows)
