"""Learning curves: how errors fall with training records, and the data multiplier of transfer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ecgnb.analysis.compare import CELL, full_rounds, pair, runs_table
from ecgnb.analysis.statistics import LEVEL, Floats
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

PARAMETERS = 3  # of a curve; the fewest sizes that it is fitted to
_REPLICATES = 500
_CURVE = ["model", "head", "source", "target"]
_CURVE += [name for name in CELL if name not in (*_CURVE, "size")]
_FLATTEST, _STEEPEST = 0.01, 2.0
_TRIED, _ROUNDS = 41, 4  # steepnesses at once, and how often they are looked at more closely


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


def fit_curves(records: Floats, errors: Floats) -> list[Curve]:
    """Fit curves by least squares, weighted or not; their floors and scales are not negative.

    Given the steepness, the best floor and scale are those of a straight line; the best steepness
    is looked for among some over the whole range, then among some around the best of these. The
    errors, shape (curves, sizes), are at as many sizes as a curve has parameters, or more.
    """
    if len(records) < PARAMETERS:
        raise ValueError(f"a curve needs {PARAMETERS} sizes, not {len(records)}")
    smallest = float(records.min())
    best = np.full((len(errors), 1), (_FLATTEST + _STEEPEST) / 2)
    reach = (_STEEPEST - _FLATTEST) / 2
    for _ in range(_ROUNDS):
        tried = np.clip(best + np.linspace(-reach, reach, _TRIED), _FLATTEST, _STEEPEST)
        powers = (records / smallest) ** -tried[..., None]
        floors, starts = _fit_lines(powers, errors[:, None])
        fitted = floors[..., None] + starts[..., None] * powers
        place = ((fitted - errors[:, None]) ** 2).sum(axis=-1).argmin(axis=1)[:, None]
        best = np.take_along_axis(tried, place, axis=1)
        reach *= 2 / (_TRIED - 1)
    floors, starts = (np.take_along_axis(one, place, axis=1)[:, 0] for one in (floors, starts))
    scales = starts * smallest ** best[:, 0]
    return [Curve(*map(float, one)) for one in zip(floors, scales, best[:, 0], strict=True)]


def _fit_lines(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Fit straight lines along the last axis; neither intercept nor slope is negative."""
    middle, height = (one.mean(axis=-1, keepdims=True) for one in (x, y))
    slope = ((x - middle) * y).sum(axis=-1) / ((x - middle) ** 2).sum(axis=-1)
    slope = np.maximum(slope, 0)
    intercept = height[..., 0] - slope * middle[..., 0]
    through_zero = (x * y).sum(axis=-1) / (x**2).sum(axis=-1)
    return np.maximum(intercept, 0), np.where(intercept < 0, through_zero, slope)


@dataclass(frozen=True)
class DataMultiplier:
    """How many times the training records pre-training stands for, with one network."""

    model: str
    head: str
    source: str
    target: str
    scratch: Curve
    finetune: Curve
    records: Floats  # shape (sizes,)
    errors: Floats  # mean errors from scratch and fine-tuned, shape (2, sizes)
    # How many times as many records training from scratch needs for the error of the fine-tuned
    # network: the value and its interval, which is missing with one seed; shape (3, sizes). Over
    # `most`, it is known only that there are not so many.
    multiples: Floats

    @property
    def most(self) -> Floats:
        """How many times as many records there are: the largest training set, at each size."""
        return self.records.max() / self.records


@dataclass(frozen=True)
class _Size:
    """The runs of one network with so many training records."""

    records: float
    seeds: npt.NDArray[np.int64]  # shape (fifths, rounds)
    errors: Floats  # from scratch and fine-tuned, shape (2, fifths, rounds)
    # Mean errors of the seeds of a fifth, on test sets drawn again from its patients, shape (2,
    # fifths, replicates).
    replicates: Floats


def data_multipliers(study: Study, results: Iterable[Result]) -> list[DataMultiplier]:
    """Fit both learning curves of every network that was trained at three sizes or more.

    For the intervals, mean errors are drawn again and both curves fitted to them, many times. Test
    sets are drawn again from their patients, the same at all sizes. The seeds' own variance is
    drawn by a wild bootstrap (Wu, 1986): what a seed's errors add to the mean of its fifth is
    multiplied by a random number, the same at all sizes, so that what the sizes share stays shared.

    With one seed a fifth the patients cannot be told from the seeds: what a seed's errors add to
    the mean of all seeds holds both, and no patients are drawn.
    """
    runs = runs_table(study, [run for run in results if run.spec.arm in ("finetune", "scratch")])
    gains = pair(runs[runs["arm"] == "finetune"], runs[runs["arm"] == "scratch"])
    found = []
    for name, rows in gains.groupby(_CURVE, sort=False):
        sizes = [full_rounds(one) for _, one in rows.groupby("records")]
        known = [_size(one) for one in sizes if one["score"].notna().all()]
        if len(known) >= PARAMETERS:
            found.append(_multiplier(name[:4], known))
    return found


def _size(rows: pd.DataFrame) -> _Size:
    folds = [one for _, one in rows.groupby("fold")]
    other = np.array([np.stack(list(one["boot_other"])).mean(axis=0) for one in folds])
    gain = np.array([np.stack(list(one["boot"])).mean(axis=0) for one in folds])
    errors = [[one[side].to_numpy() for one in folds] for side in ("second", "first")]
    return _Size(
        records=float(rows["records"].iloc[0]),
        seeds=np.array([one["seed"] for one in folds]),
        errors=1 - np.array(errors),
        replicates=1 - np.stack([other, other + gain]),
    )


def _multiplier(name: Iterable[Any], sizes: list[_Size]) -> DataMultiplier:
    model, head, source, target = name
    records = np.array([size.records for size in sizes])
    means = np.array([size.errors.mean(axis=(1, 2)) for size in sizes]).T
    drawn = _draw_again(sizes)
    scratch, tuned = (fit_curves(records, np.vstack([means[arm], drawn[arm]])) for arm in (0, 1))
    fits = list(zip(scratch, tuned, strict=True))
    multiples = np.array([[one.records(e) for e in other.error(records)] for one, other in fits])
    multiples /= records
    interval = np.full((2, len(records)), np.nan)
    if len(fits) > 1:
        # Of the values themselves: between a number and infinity there is nothing to interpolate.
        tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
        interval = np.quantile(multiples[1:], tails, axis=0, method="nearest")
    return DataMultiplier(
        *(model, head, source, target),
        *fits[0],
        records=records,
        errors=means,
        multiples=np.array([multiples[0], *interval]),
    )


def _draw_again(sizes: Sequence[_Size]) -> Floats:
    """Draw mean errors again, shape (2, replicates, sizes); see `data_multipliers`.

    No replicates where a size has one seed, whose variance nobody knows.
    """
    if min(size.seeds.size for size in sizes) < 2:
        return np.empty((2, 0, len(sizes)))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((max(size.seeds.max() for size in sizes) + 1, _REPLICATES))
    fifths = max(len(size.seeds) for size in sizes)
    patients = rng.integers(0, sizes[0].replicates.shape[-1], (1, fifths, _REPLICATES))
    chance = rng.random(_REPLICATES)
    drawn = []
    for size in sizes:
        seeds, errors, groups = size.seeds, size.errors, len(size.seeds)
        if seeds.shape[1] == 1:
            seeds, errors, groups = seeds.T, errors.transpose(0, 2, 1), 1
            means = errors.mean(axis=(1, 2))[:, None]
        else:
            means = np.take_along_axis(size.replicates, patients, axis=2).mean(axis=1)
        added = (errors - errors.mean(axis=2, keepdims=True)).reshape(2, -1)
        # As Student's t does, a spread that is drawn itself allows for the few seeds.
        spread = np.sqrt(stats.chi2.ppf(chance, seeds.size - groups) / seeds.size)
        drawn.append(means + added @ noise[seeds.ravel()] / seeds.size / spread)
    return np.clip(np.stack(drawn, axis=-1), 0, 1)
