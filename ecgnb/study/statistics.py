"""Whether one arm is better than another: intervals, verdicts and power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ecgnb.training.metrics import surplus

MARGIN = 0.01
"""Differences of macro AUROC smaller than this do not matter."""

LEVEL = 0.95
REPLICATES = 1000
VERDICTS = ("helps", "harms", "equivalent", "undecided")

POWER = 0.8
DETECTABLE = 0.02
"""The difference of macro AUROC that a comparison should find with probability `POWER`."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """One set of test patients, and the differences that several seeds found on it.

    Attributes
    ----------
    differences : ndarray, shape (seeds,)
        Of whatever is compared: two arms, or two gains.
    replicates : ndarray, shape (seeds, replicates)
        The same differences on test sets drawn again from its patients, the same drawn patients
        for every seed.
    """

    differences: Floats
    replicates: Floats


@dataclass(frozen=True)
class Difference:
    """A mean difference, and how far chance could have moved it.

    Attributes
    ----------
    mean, low, high : float
        Over all seeds, with its interval.
    error, freedom : float
        Standard error of the mean, and the degrees of freedom of its estimate.
    seeds, folds : int
    patient_deviation : float
        Standard deviation of the difference on one fold that comes from which patients it holds.
    seed_deviation : float
        Standard deviation of one seed's difference that comes from everything else: initial
        weights, training subset, order, pre-training.
    """

    mean: float
    low: float
    high: float
    error: float
    freedom: float
    seeds: int
    folds: int
    patient_deviation: float
    seed_deviation: float

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return verdict(self.low, self.high)

    @property
    def p(self) -> float:
        """Probability of a difference as large if there were none, on either side."""
        return float(2 * stats.t.sf(_ratio(abs(self.mean), self.error), self.freedom))

    @property
    def equivalence_p(self) -> float:
        """The larger p value of the two one-sided tests that the difference is over the margin."""
        distance = MARGIN - abs(self.mean)
        return float(stats.t.sf(_ratio(distance, self.error), self.freedom))


def _ratio(value: float, error: float) -> float:
    if error > 0:
        return value / error
    return float(np.sign(value)) * np.inf if value else 0.0


def verdict(low: float, high: float, margin: float = MARGIN) -> str:
    """Judge an interval by the rule that was fixed before the runs.

    A difference that lies wholly inside the margin is *equivalent*, even if it excludes zero: the
    two one-sided tests of equivalence (TOST), each at half of what `LEVEL` leaves.
    """
    if -margin < low and high < margin:
        return "equivalent"
    if low > 0:
        return "helps"
    return "harms" if high < 0 else "undecided"


def paired_difference(folds: Sequence[Fold]) -> Difference:
    """Average differences over seeds, with an interval for both kinds of chance.

    The difference of one seed varies with its test patients, by an amount that a bootstrap over
    patients measures within the fold, and with the luck of the training.

    With one seed a fold, the spread of the seeds' differences shows the sum of the two. The
    standard error takes the larger of that and of what the patients alone explain; where the
    spread rules it, Student's quantile allows for the few seeds.

    With several seeds a fold, the spread within folds shows the luck, which more seeds average
    out, and the bootstrap the patients, which they do not: what seeds of one fold have in common
    under the same drawn patients.

    The training sets of different folds share records. Simulated cross-validation shows no
    correlation between folds from that, and no need of a correction such as that of Nadeau &
    Bengio (2003), which makes intervals too wide here (``benchmarks/coverage.py``).

    Parameters
    ----------
    folds : sequence of Fold
        Sets of test patients that share none.
    """
    values = [fold.differences for fold in folds]
    everything = np.concatenate(values)
    seeds, count = len(everything), len(folds)
    together = np.array([_common_variance(fold.replicates) for fold in folds])
    freedom = np.inf
    if seeds == count:
        luck = max(float(everything.var(ddof=1)) - together.mean(), 0.0) if seeds > 1 else 0.0
        variance = (luck + together.mean()) / seeds
        if luck > 0:
            freedom = seeds - 1
    else:
        left = seeds - count
        luck = sum(float(((v - v.mean()) ** 2).sum()) for v in values) / left
        shares = np.array([len(v) for v in values]) / seeds
        variance = float((shares**2 * together).sum()) + luck / seeds
        if luck > 0:  # Satterthwaite's approximation; the bootstrap has many replicates
            freedom = variance**2 / ((luck / seeds) ** 2 / left)
    error = float(np.sqrt(variance))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    mean = float(everything.mean())
    return Difference(
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        error=error,
        freedom=float(freedom),
        seeds=seeds,
        folds=count,
        patient_deviation=float(np.sqrt(together.mean())),
        seed_deviation=float(np.sqrt(luck)),
    )


def _common_variance(replicates: Floats) -> float:
    """Return the variance that the drawn patients give to all seeds of a fold in common."""
    count = len(replicates)
    own = np.nanvar(replicates, axis=1, ddof=1)
    if count == 1:
        return float(own[0])
    of_mean = np.nanvar(replicates.mean(axis=0), ddof=1)
    return max(float((count**2 * of_mean - own.sum()) / (count * (count - 1))), 0.0)


def power(difference: Difference, seeds: int, true: float = DETECTABLE) -> float:
    """Return how likely an interval over so many seeds would exclude zero.

    Parameters
    ----------
    difference : Difference
        Where the variances are taken from.
    seeds : int
        At least as many as there are folds, spread evenly over them.
    true : float
        The difference that there is in truth.
    """
    if seeds < difference.folds:
        raise ValueError(f"{seeds} seeds do not reach {difference.folds} folds")
    luck = difference.seed_deviation**2 / seeds
    variance = difference.patient_deviation**2 / difference.folds + luck
    freedom = np.inf
    if luck > 0:
        left = seeds - difference.folds
        freedom = variance**2 / (luck**2 / left) if left else seeds - 1
    critical = stats.t.ppf((1 + LEVEL) / 2, freedom)
    shift = true / np.sqrt(variance)
    if not np.isfinite(freedom):
        return float(stats.norm.sf(critical - shift) + stats.norm.cdf(-critical - shift))
    found = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
    return float(found)


def seeds_needed(
    difference: Difference, true: float = DETECTABLE, wanted: float = POWER, most: int = 200
) -> int | None:
    """Return how many seeds find a true difference with the wanted power.

    None if `most` do not: then the test patients are too few, and no number of seeds helps.
    """
    for seeds in range(difference.folds, most + 1, difference.folds):
        if power(difference, seeds, true) >= wanted:
            return seeds
    return None


def draw_again(patients: npt.NDArray[np.int64]) -> Floats:
    """Draw test sets again from their patients.

    Parameters
    ----------
    patients : ndarray, shape (records,)
        Whom each record belongs to; patients are drawn, not records, and always the same ones.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`, records)
        How often each record stands in each replicate.
    """
    unique, member = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(0)
    share = np.full(len(unique), 1 / len(unique))
    return rng.multinomial(len(unique), share, size=REPLICATES)[:, member].astype(np.float64)


def bootstrap_auroc(
    truth: npt.NDArray[np.bool_], scores: Floats, patients: npt.NDArray[np.int64]
) -> Floats:
    """Return the macro AUROC on test sets drawn again from their patients.

    Parameters
    ----------
    truth : ndarray of bool, shape (records, classes)
    scores : ndarray of float, shape (records, classes)
    patients : ndarray, shape (records,)
        See `draw_again`.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`,)
        A class of which no positive was drawn does not count in that replicate.
    """
    weights = draw_again(patients)
    classes = [
        weighted_auroc(one, score, weights) for one, score in zip(truth.T, scores.T, strict=True)
    ]
    return np.nanmean(classes, axis=0)  # type: ignore[no-any-return]


def bootstrap_f1(
    truth: npt.NDArray[np.bool_],
    predicted: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.int64],
) -> Floats:
    """Return the macro F1 on test sets drawn again from their patients.

    Parameters
    ----------
    truth, predicted : ndarray of bool, shape (records, classes)
    patients : ndarray, shape (records,)
        See `draw_again`.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`,)
        A class that is neither there nor predicted counts 0, as in `ecgnb.training.metrics.f1`.
    """
    weights = draw_again(patients)
    hits = weights @ (truth & predicted)
    both = weights @ truth + weights @ predicted
    return np.mean(2 * hits / np.maximum(both, 1), axis=1)  # type: ignore[no-any-return]


def bootstrap_calibration_error(
    truth: npt.NDArray[np.bool_], scores: Floats, patients: npt.NDArray[np.int64]
) -> Floats:
    """Return the expected calibration error on test sets drawn again from their patients.

    Parameters
    ----------
    truth : ndarray of bool, shape (records, classes)
    scores : ndarray of float, shape (records, classes)
        Probabilities.
    patients : ndarray, shape (records,)
        See `draw_again`.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`,)
        See `ecgnb.training.metrics.calibration_error`.
    """
    weights = draw_again(patients)
    gaps = (weights @ surplus(truth, scores)) / truth.shape[1]
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=1)  # type: ignore[no-any-return]


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
