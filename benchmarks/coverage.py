"""How often intervals cover the truth: the reasons for `paired_difference`.

Run as ``python benchmarks/coverage.py``, or with the names of its parts (``coverage``,
``cross_validation``, ``classes``); writes ``results/coverage.json`` beside this file.

Few seeds: the difference of each seed is drawn as the sum of what its test patients add (variance
1) and what the luck of its training adds (variance `ratio`), and the patients' variance is known,
as a bootstrap within the seed would find it. Two intervals for the mean over seeds are compared: a
bootstrap that draws seeds and patients in turn, and the rule of the package.

Shared training records: linear classifiers are trained by cross-validation on simulated records,
from a prior near the truth (as after pre-training) and from none, with a ridge chosen on the
validation fifth. Training sets of different folds share records, the larger the more. Compared
are the rule of the package and the correction of Nadeau & Bengio (2003) for shared records.

Classes that count: records with as many of each class as Chapman-Shaoxing has are split into five
fifths, each tested by two networks of its own. Compared are which classes stand in the macro AUROC,
and whether AUROC is taken within each fifth and averaged, or as the share of rightly ordered pairs
within fifths, summed over the five. The truth is the mean difference of the classes that count.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from ecgnb.analysis.bootstrap import weighted_auroc
from ecgnb.analysis.statistics import Fold, paired_difference
from ecgnb.training.metrics import auroc

SEEDS, REPETITIONS, REPLICATES = 5, 4000, 1000
RATIOS = (0, 0.25, 1, 2, 4, 16)

RECORDS, FEATURES, WORLDS, DRAWN = 1200, 30, 600, 100
RIDGES = (2.0, 20.0, 200.0)
# Training records, luck of the initial weights, seeds a fold.
DESIGNS = (
    (50, 0.05, 1),
    (50, 0.05, 4),
    (200, 0.05, 1),
    (720, 0.0, 1),
    (720, 0.05, 1),
    (720, 0.05, 2),
)

# Records of each class in Chapman-Shaoxing, of `PATIENTS` with one record each.
POSITIVES = (
    *(547, 213, 212, 209, 171, 153, 125, 53, 45, 43, 41, 39, 37, 26, 26, 26, 25, 23, 21),
    *(17, 16, 15),
)
PATIENTS, STUDIES, AGAIN = 1193, 1000, 200
GAIN, TRAINING = 0.15, 0.15  # mean and spread of what one network is better by, in deviations
RULES = ("10 in a fifth", "3 in a fifth", "10 in all, ordered pairs")

Floats = NDArray[np.float64]


def covered(ratio: float, rng: np.random.Generator) -> dict[str, float]:
    """Return the share of repetitions in which each interval holds the true difference, 0."""
    hits = {"hierarchical bootstrap": 0, "larger of two estimates": 0}
    for _ in range(REPETITIONS):
        differences = rng.normal(0, np.sqrt(ratio), SEEDS) + rng.normal(0, 1, SEEDS)
        drawn = differences[rng.integers(0, SEEDS, (REPLICATES, SEEDS))]
        means = (drawn + rng.normal(0, 1, drawn.shape)).mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        hits["hierarchical bootstrap"] += low < 0 < high
        spread = differences.var(ddof=1)
        quantile = stats.t.ppf(0.975, SEEDS - 1) if spread > 1 else stats.norm.ppf(0.975)
        error = quantile * np.sqrt(max(spread, 1) / SEEDS)
        hits["larger of two estimates"] += abs(differences.mean()) < error
    return {name: count / REPETITIONS for name, count in hits.items()}


class World:
    """A population of records with a finding, and somebody else's weights that nearly fit it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.weights = 1.5 * rng.normal(size=FEATURES) / np.sqrt(FEATURES)
        self.prior = 0.2 * (self.weights + 1.2 * rng.normal(size=FEATURES) / np.sqrt(FEATURES))

    def folds(self, size: int, luck: float, seeds: int) -> list[Fold]:
        """Draw records, and compare the two ways to train on five folds of them."""
        rng = self.rng
        x = rng.normal(size=(RECORDS, FEATURES))
        y = rng.random(RECORDS) < 1 / (1 + np.exp(1.5 - x @ self.weights))
        fifth = np.arange(RECORDS) % 5
        folds = []
        for k in range(5):
            test, validation = fifth == k, fifth == (k + 1) % 5
            pool = np.flatnonzero(~test & ~validation)
            patients = int(test.sum())
            share = np.full(patients, 1 / patients)
            weights = rng.multinomial(patients, share, size=DRAWN).T.astype(np.float32)
            plain, drawn = [], []
            for _ in range(seeds):
                train = rng.permutation(pool)[:size]
                fitted = [
                    self.fit(x[train], y[train], prior, luck, x[validation], y[validation])
                    for prior in (self.prior, 0 * self.prior)
                ]
                scores = x[test] @ np.transpose(fitted)
                reached = _auroc(y[test], scores)
                plain.append(reached[0] - reached[1])
                again = [weighted_auroc(y[test], side, weights) for side in scores.T]
                drawn.append(again[0] - again[1])
            folds.append(Fold(np.array(plain), np.array(drawn)))
        return folds

    def fit(
        self,
        x: Floats,
        y: NDArray[np.bool_],
        prior: Floats,
        luck: float,
        xv: Floats,
        yv: NDArray[np.bool_],
    ) -> Floats:
        """Fit weights by ridge regression towards a prior; the ridge that validates best."""
        noise = luck * self.rng.normal(size=FEATURES) / np.sqrt(FEATURES)
        square, wanted = x.T @ x, x.T @ (y - y.mean())
        ridges = np.array(RIDGES)[:, None]
        tried = noise + np.linalg.solve(
            square + ridges[..., None] * np.eye(FEATURES), (wanted + ridges * prior)[..., None]
        ).squeeze(-1)
        return np.asarray(tried[_auroc(yv, xv @ tried.T).argmax()])


def _auroc(truth: NDArray[np.bool_], scores: Floats) -> Floats:
    """Return the AUROC of each column of `scores`, all of them for one class."""
    return auroc(np.broadcast_to(truth[:, None], scores.shape), scores)


def cross_validated(
    size: int, luck: float, seeds: int, rng: np.random.Generator, worlds: int = WORLDS
) -> dict[str, float]:
    """Return how often each interval covers the mean difference, and how wide it is."""
    world = World(rng)
    found = [
        paired_difference(world.folds(size, luck, seeds)) for _ in tqdm(range(worlds), leave=False)
    ]
    means = np.array([one.mean for one in found])
    reach = np.array([one.high - one.mean for one in found])
    # A fifth tests and three fifths train: a third of one seed's variance comes on top of its
    # share, and less of it where training sets are smaller and share fewer records.
    corrected = reach * np.sqrt(1 + 5 * seeds / 3 * size / (0.6 * RECORDS))
    missed = np.abs(means - means.mean())
    return {
        "training records": size,
        "luck": luck,
        "seeds": 5 * seeds,
        "covered": round(float((missed < reach).mean()), 3),
        "half-width": round(float(reach.mean()), 4),
        "covered, Nadeau and Bengio": round(float((missed < corrected).mean()), 3),
        "half-width, Nadeau and Bengio": round(float(corrected.mean()), 4),
    }


def classes_that_count(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return how often each rule's interval covers the mean difference, and how wide it is."""
    hits: dict[str, list[tuple[bool, float, float, int]]] = {rule: [] for rule in RULES}
    for _ in tqdm(range(STUDIES), leave=False):
        truth = rng.random((PATIENTS, len(POSITIVES))) < np.array(POSITIVES) / PATIENTS
        apart = rng.uniform(1.0, 2.5, len(POSITIVES))  # of those with and without, in deviations
        gain = rng.normal(GAIN, 0.1, len(POSITIVES))
        scale = np.sqrt(2 + TRAINING**2)
        true = stats.norm.cdf((apart + gain) / scale) - stats.norm.cdf(apart / scale)
        fifths = [_tested(truth[fifth::5], apart, gain, rng) for fifth in range(5)]
        for rule in RULES:
            folds, expected, classes = _by_rule(rule, fifths, true)
            one = paired_difference(folds)
            covered = one.low < expected < one.high
            hits[rule].append((covered, one.high - one.low, one.mean - expected, classes))
    return {
        rule: {
            "covered": round(float(np.mean([one[0] for one in rows])), 3),
            "median width": round(float(np.median([one[1] for one in rows])), 4),
            "standard error": round(float(np.std([one[2] for one in rows])), 4),
            "classes": float(np.median([one[3] for one in rows])),
        }
        for rule, rows in hits.items()
    }


Tested = tuple[Floats, Floats, Floats]


def _tested(
    truth: NDArray[np.bool_], apart: Floats, gain: Floats, rng: np.random.Generator
) -> Tested:
    """Test two networks: positives of each class, ordered pairs and differences of AUROC.

    Returns
    -------
    tuple of ndarray
        Positives, pairs, and differences of AUROC, each of shape (1 + AGAIN, classes), the first
        row as tested and the others on bootstrap test sets.
    """
    count = len(truth)
    own = rng.normal(0, TRAINING, (2, truth.shape[1]))
    common = rng.normal(size=truth.shape) * np.sqrt(0.8)  # both see the same records
    sides = [
        common + rng.normal(size=truth.shape) * np.sqrt(0.2) + truth * (apart + better + luck)
        for better, luck in zip((gain, 0 * gain), own, strict=True)
    ]
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=AGAIN).T
    weights = np.column_stack([np.ones(count), drawn]).astype(np.float32)
    positives = (weights.T @ truth).astype(np.float64)
    aurocs = [
        [weighted_auroc(*one, weights) for one in zip(truth.T, side.T, strict=True)]
        for side in sides
    ]
    return positives, positives * (count - positives), np.subtract(*np.array(aurocs)).T


def _by_rule(rule: str, fifths: list[Tested], true: Floats) -> tuple[list[Fold], float, int]:
    """Return the difference of each fifth by a rule, the truth, and how many classes count."""
    positives = np.array([one[0][0] for one in fifths])
    if rule != RULES[-1]:
        least = int(rule.split()[0])
        folds, expected = [], []
        for counts, _, differences in fifths:
            use = counts[0] >= least
            values = np.nanmean(differences[:, use], axis=1)
            folds.append(Fold(values[:1], values[1:][None]))
            expected.append(true[use].mean())
        return folds, float(np.mean(expected)), int((positives >= least).sum(axis=1).mean())
    use = positives.sum(axis=0) >= 10
    pairs = np.array([one[1] for one in fifths])[..., use]
    differences = np.nan_to_num(np.array([one[2] for one in fifths])[..., use])
    total = pairs[:, 0].sum(axis=0)
    whole = (pairs[:, 0] * differences[:, 0]).sum(axis=0) / total
    # What a fifth adds, as a ratio estimator is linearised: the fifths' mean is the whole.
    added = 5 * (pairs / total * (differences - whole)).mean(axis=-1) + whole.mean()
    folds = [Fold(one[:1], one[1:][None]) for one in added]
    return folds, float(true[use].mean()), int(use.sum())


def main() -> None:
    """Print the tables and write them beside the other results, all of them or the parts named."""
    path = Path(__file__).parent / "results" / "coverage.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content["versions"] = {"numpy": np.__version__, "scipy": scipy.__version__}
    parts = sys.argv[1:] or ["coverage", "cross_validation", "classes"]
    if "coverage" in parts:
        rng = np.random.default_rng(0)
        content |= {"seeds": SEEDS, "repetitions": REPETITIONS, "replicates": REPLICATES}
        content["coverage"] = {str(ratio): covered(ratio, rng) for ratio in RATIOS}
    if "cross_validation" in parts:
        content["worlds"] = WORLDS
        content["cross_validation"] = [
            cross_validated(*design, np.random.default_rng(number))
            for number, design in enumerate(DESIGNS)
        ]
    if "classes" in parts:
        content["classes"] = {"studies": STUDIES, **classes_that_count(np.random.default_rng(0))}
    for part in parts:
        print(json.dumps({part: content[part]}, indent=1))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
