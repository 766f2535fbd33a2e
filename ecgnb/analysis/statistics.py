"""Whether one arm is better than another: intervals, verdicts and power."""

import bisect
import gc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.multitest import multipletests

MARGIN = 0.01  # differences of macro AUROC smaller than this do not matter
LEVEL = 0.95
POWER = 0.8
DETECTABLE = 0.02  # the difference that a comparison should find with probability `POWER`
MOST_SEEDS = 200  # more are not asked for
_ENOUGH = 5  # seeds, from which on a spread that the patients explain is believed

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """One set of test patients, and the differences that several seeds found on it."""

    differences: Floats  # of two arms, or of two gains, shape (seeds,)
    # The same on test sets drawn again from its patients, the same drawn patients for every seed,
    # shape (seeds, replicates).
    replicates: Floats


@dataclass(frozen=True)
class Difference:
    """A mean difference over all seeds, with its interval: how far chance could have moved it."""

    mean: float
    low: float
    high: float
    error: float  # standard error of the mean
    freedom: float  # degrees of freedom of its estimate
    seeds: int
    folds: int
    # Standard deviation of the difference on one fold that comes from which patients it holds.
    patient_deviation: float
    # Standard deviation of one seed's difference that comes from everything else: initial weights,
    # training subset, order, pre-training.
    seed_deviation: float
    margin: float = MARGIN

    @property
    def verdict(self) -> str:
        """``helps``, ``harms``, ``equivalent`` or ``undecided``."""
        return verdict(self.low, self.high, self.margin)

    @property
    def p(self) -> float:
        """Probability of a difference as large if there were none, on either side."""
        return float(2 * stats.t.sf(_ratio(abs(self.mean), self.error), self.freedom))

    @property
    def equivalence_p(self) -> float:
        """The larger p value of the two one-sided tests that the difference is over the margin."""
        distance = self.margin - abs(self.mean)
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
    if low > -margin and high < margin:
        return "equivalent"
    if low > 0:
        return "helps"
    return "harms" if high < 0 else "undecided"


def paired_difference(folds: Sequence[Fold], margin: float = MARGIN) -> Difference:
    """Average differences over seeds, with an interval for both kinds of chance.

    The difference of one seed varies with its test patients, by an amount that a bootstrap over
    patients measures within the fold, and with the seed variance of the training. The folds share
    no patients, and have equally many seeds.

    With one seed a fold, the spread of the seeds' differences shows the sum of the two. The
    standard error takes the larger of that and of what the patients alone explain; where the spread
    rules it, or there are fewer than five seeds, Student's quantile allows for the few. One seed
    alone shows nothing of its variance: its interval has no ends.

    With several seeds a fold, the spread within folds shows the seed variance, which more seeds
    average out, and the bootstrap the patients, which they do not: what seeds of one fold have in
    common under the same drawn patients.

    The training sets of different folds share records. Simulated cross-validation shows no
    correlation between folds from that, and no need of a correction such as that of Nadeau & Bengio
    (2003), which makes intervals too wide here (``benchmarks/coverage.py``).
    """
    values = [fold.differences for fold in folds]
    if len({len(one) for one in values}) > 1:
        raise ValueError("the folds have unequal numbers of seeds")
    everything = np.concatenate(values)
    seeds, count = len(everything), len(folds)
    together = np.array([_common_variance(fold.replicates) for fold in folds])
    freedom = np.inf
    if seeds == 1:
        seed_variance = variance = freedom = np.inf
    elif seeds == count:
        seed_variance = max(float(everything.var(ddof=1)) - together.mean(), 0.0)
        variance = (seed_variance + together.mean()) / seeds
        if seed_variance > 0 or seeds < _ENOUGH:
            freedom = seeds - 1
    else:
        left = seeds - count
        seed_variance = sum(float(((v - v.mean()) ** 2).sum()) for v in values) / left
        variance = float(together.mean()) / count + seed_variance / seeds
        if seed_variance > 0:  # Satterthwaite's approximation; the bootstrap has many replicates
            freedom = variance**2 / ((seed_variance / seeds) ** 2 / left)
    error = float(np.sqrt(variance))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    mean = float(everything.mean())
    patients, rest = float(np.sqrt(together.mean())), float(np.sqrt(seed_variance))
    found = mean, mean - reach, mean + reach, error, float(freedom)
    return Difference(*found, seeds, count, patients, rest, margin)


def _common_variance(replicates: Floats) -> float:
    """Return the variance that the drawn patients give to all seeds of a fold in common."""
    count = len(replicates)
    own = np.nanvar(replicates, axis=1, ddof=1)
    if count == 1:
        return float(own[0])
    of_mean = np.nanvar(replicates.mean(axis=0), ddof=1)
    return max(float((count**2 * of_mean - own.sum()) / (count * (count - 1))), 0.0)


def holm(p: npt.ArrayLike, method: str = "holm") -> Floats:
    """Correct the p values of a family, if any, by Holm's method, or another of statsmodels.

    ``fdr_bh`` is that of Benjamini & Hochberg.
    """
    values = np.asarray(p, dtype=np.float64)
    if not len(values):
        return values
    gc.freeze()  # multipletests collects garbage, and would look through everything there is
    try:
        return np.asarray(multipletests(values, method=method)[1])
    finally:
        gc.unfreeze()


def power(difference: Difference, seeds: int) -> float:
    """Return how likely an interval over so many seeds would exclude zero, were `DETECTABLE` true.

    The variances are those of a difference; there are at least as many seeds as its folds, spread
    evenly over them. NaN if the variances are those of one seed.
    """
    if seeds < difference.folds:
        raise ValueError(f"{seeds} seeds do not reach {difference.folds} folds")
    if difference.seeds == 1:
        return float("nan")
    seed_variance = difference.seed_deviation**2 / seeds
    variance = difference.patient_deviation**2 / difference.folds + seed_variance
    freedom = np.inf
    if seed_variance > 0:
        left = seeds - difference.folds
        freedom = variance**2 / (seed_variance**2 / left) if left else seeds - 1
    critical = stats.t.ppf((1 + LEVEL) / 2, freedom)
    shift = DETECTABLE * (difference.margin / MARGIN) / max(np.sqrt(variance), 1e-300)
    if not np.isfinite(freedom):
        return float(stats.norm.sf(critical - shift) + stats.norm.cdf(-critical - shift))
    # Far from zero the other tail is less than scipy can tell, and comes as NaN.
    other = np.nan_to_num(stats.nct.cdf(-critical, freedom, shift))
    return float(stats.nct.sf(critical, freedom, shift) + other)


def seeds_needed(difference: Difference) -> float:
    """Return how many seeds find a difference of `DETECTABLE` with probability `POWER`.

    Infinity if `MOST_SEEDS` do not: then the test patients are too few. NaN if it cannot be known:
    with one seed a fold, what a network does on some patients only counts as the patients' part,
    though more seeds would average it out.
    """
    if power(difference, difference.seeds) >= POWER:
        return difference.seeds
    if difference.seeds == difference.folds:
        return float("nan")
    tried = range(difference.folds, MOST_SEEDS + 1, difference.folds)
    place = bisect.bisect_left(tried, POWER, key=lambda seeds: power(difference, seeds))
    return tried[place] if place < len(tried) else float("inf")
