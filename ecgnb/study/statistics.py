"""Whether one arm is better than another: paired differences, intervals and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ecgnb.study.data import read_labels, read_table
from ecgnb.study.declare import Study
from ecgnb.study.spec import RunSpec
from ecgnb.study.store import Result
from ecgnb.training.metrics import auroc, eligible
from ecgnb.training.transfer import ARMS

MARGIN = 0.01
"""Differences of macro AUROC smaller than this do not matter."""

LEVEL = 0.95
REPLICATES = 1000
VERDICTS = ("helps", "harms", "equivalent", "undecided")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """The test set of one seed, with the scores of two arms.

    Attributes
    ----------
    truth : ndarray of bool, shape (records, classes)
        The classes with enough positives only.
    first, second : ndarray of float, shape (records, classes)
        The scores that are compared.
    patients : ndarray, shape (records,)
        Whom each record belongs to; patients are drawn, not records.
    """

    truth: npt.NDArray[np.bool_]
    first: Floats
    second: Floats
    patients: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """Macro AUROC of the first arm less that of the second.

    Attributes
    ----------
    mean, low, high : float
        Over all seeds, with its interval.
    by_seed : tuple of float
        One difference a seed.
    patient_deviation, seed_deviation : float
        Standard deviation of one seed's difference that comes from its test patients, and from
        everything else: initial weights, training subset, order, pre-training.
    verdict : str
        One of `VERDICTS`.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    patient_deviation: float
    seed_deviation: float
    verdict: str


def verdict(low: float, high: float, margin: float = MARGIN) -> str:
    """Judge an interval by the rule that was fixed before the runs.

    A difference that lies wholly inside the margin is *equivalent*, even if it excludes zero.
    """
    if -margin < low and high < margin:
        return "equivalent"
    if low > 0:
        return "helps"
    return "harms" if high < 0 else "undecided"


def paired_difference(folds: Sequence[Fold], seed: int = 0) -> Difference:
    """Compare two arms over the test sets of several seeds.

    The difference of one seed varies with its test patients, by an amount that a bootstrap over
    patients measures within the seed, and with the luck of the training, of which the spread of
    the seeds' differences shows the sum. The standard error of the mean takes the larger of the
    two estimates; where the spread rules it, Student's quantile allows for the few seeds. A plain
    bootstrap that draws seeds and patients in turn covers the truth too rarely where luck rules
    and seeds are few.

    Parameters
    ----------
    folds : sequence of Fold
        One a seed.
    seed : int
        Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    differences = np.array(
        [(auroc(fold.truth, fold.first) - auroc(fold.truth, fold.second)).mean() for fold in folds]
    )
    within = np.array([_bootstrap_variance(fold, rng) for fold in folds]).mean()
    count = len(folds)
    spread = differences.var(ddof=1) if count > 1 else 0.0
    tail = (1 + LEVEL) / 2
    quantile = stats.t.ppf(tail, count - 1) if spread > within else stats.norm.ppf(tail)
    error = quantile * np.sqrt(max(spread, within) / count)
    mean = float(differences.mean())
    low, high = mean - float(error), mean + float(error)
    return Difference(
        mean=mean,
        low=low,
        high=high,
        by_seed=tuple(float(value) for value in differences),
        patient_deviation=float(np.sqrt(within)),
        seed_deviation=float(np.sqrt(max(spread - within, 0))),
        verdict=verdict(low, high),
    )


def _bootstrap_variance(fold: Fold, rng: np.random.Generator) -> float:
    patients, member = np.unique(fold.patients, return_inverse=True)
    share = np.full(len(patients), 1 / len(patients))
    weights = rng.multinomial(len(patients), share, size=REPLICATES)[:, member].astype(float)
    replicates = np.zeros(REPLICATES)
    for truth, first, second in zip(fold.truth.T, fold.first.T, fold.second.T, strict=True):
        replicates += weighted_auroc(truth, first, weights) - weighted_auroc(truth, second, weights)
    return float(np.nanvar(replicates / fold.truth.shape[1], ddof=1))


def weighted_auroc(truth: npt.NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """AUROC of one class under many weightings of the records at once; ties count half.

    Parameters
    ----------
    truth : ndarray of bool, shape (records,)
    scores : ndarray of float, shape (records,)
    weights : ndarray of float, shape (replicates, records)

    Returns
    -------
    ndarray of float, shape (replicates,)
        NaN where all weight is on one side.
    """
    order = np.argsort(scores, kind="stable")
    ranked, positive = scores[order], truth[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * positive, starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    wins = (positives * below).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def compare_arms(
    study: Study, results: Sequence[Result], first: str = "finetune", second: str = "scratch"
) -> pd.DataFrame:
    """Compare two arms in every cell of a study that has both.

    Returns
    -------
    DataFrame
        One row for each pair of datasets, model, head and size: the fields of `Cell`, ``records``
        (training records), ``first`` and ``second`` (mean macro AUROC of each arm),
        ``difference``, ``low``, ``high``, ``verdict``, ``seeds``, ``tested`` (test records over
        all seeds), ``classes`` (fewest scored in a fold), ``seed_deviation`` and
        ``patient_deviation``.
    """
    arms = (first, second)
    found = {(_cell(result.spec), result.spec.arm, result.spec.seed): result for result in results}
    rows = []
    for cell in dict.fromkeys(_cell(result.spec) for result in results):
        # An arm that starts at random has no source, and stands beside every source of its target.
        sides = [replace(cell, source=cell.source if ARMS[arm].pretrained else "") for arm in arms]
        if cell.source != max(side.source for side in sides):
            continue
        pairs = []
        for seed in sorted({result.spec.seed for result in results}):
            one, other = ((side, arm, seed) for side, arm in zip(sides, arms, strict=True))
            if one in found and other in found:
                pairs.append((found[one], found[other]))
        if pairs:
            rows.append(_row(study, cell, pairs))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Cell:
    """What the runs of one row of a comparison have in common."""

    source: str
    target: str
    label_set: str
    min_positives: int
    model: str
    head: str
    size: int


def _cell(spec: RunSpec) -> Cell:
    return Cell(
        source=spec.source,
        target=spec.dataset,
        label_set=spec.label_set,
        min_positives=spec.min_positives,
        model=spec.model,
        head=spec.head,
        size=spec.size,
    )


def _row(study: Study, cell: Cell, pairs: list[tuple[Result, Result]]) -> dict[str, object]:
    folds = [_fold(study, cell, one, other) for one, other in pairs]
    difference = paired_difference(folds)
    return {
        **asdict(cell),
        "records": round(np.mean([one.facts["train_records"] for one, _ in pairs])),
        "first": np.mean([one.facts["auroc"] for one, _ in pairs]),
        "second": np.mean([other.facts["auroc"] for _, other in pairs]),
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "verdict": difference.verdict,
        "seeds": len(pairs),
        "tested": sum(len(fold.truth) for fold in folds),
        "classes": min(fold.truth.shape[1] for fold in folds),
        "seed_deviation": difference.seed_deviation,
        "patient_deviation": difference.patient_deviation,
    }


def _fold(study: Study, cell: Cell, one: Result, other: Result) -> Fold:
    if one.records != other.records or one.classes != other.classes:
        raise ValueError(f"runs {one.key} and {other.key} were not tested on the same records")
    labels, patients = _truth(study, cell.target, cell.label_set, cell.min_positives)
    truth = labels.loc[list(one.records), list(one.classes)].to_numpy()
    use = eligible(truth, one.spec.min_test_positives)
    return Fold(
        truth=truth[:, use],
        first=one.predictions[:, use].astype(np.float64),
        second=other.predictions[:, use].astype(np.float64),
        patients=patients.loc[list(one.records)].to_numpy(),
    )


@lru_cache(maxsize=32)
def _truth(
    study: Study, dataset: str, label_set: str, min_positives: int
) -> tuple[pd.DataFrame, pd.Series]:
    table = read_table(study, dataset).set_index("record", drop=False)
    codes, _ = pd.factorize(table["patient"])
    labels = read_labels(table, dataset, label_set, min_positives)
    return labels, pd.Series(codes, index=table.index)
