"""How often intervals cover the truth: the reasons for `paired_difference`.

Run as ``python benchmarks/coverage.py``; writes ``results/coverage.json`` beside this file.

Few seeds: the difference of each seed is drawn as the sum of what its test patients add (variance
1) and what the luck of its training adds (variance `ratio`), and the patients' variance is known,
as a bootstrap within the seed would find it. Two intervals for the mean over seeds are compared: a
bootstrap that draws seeds and patients in turn, and the rule of the package.

Shared training records: linear classifiers are trained by cross-validation on simulated records,
from a prior near the truth (as after pre-training) and from none, with a ridge chosen on the
validation fifth. Training sets of different folds share records, the larger the more. Compared
are the rule of the package and the correction of Nadeau & Bengio (2003) for shared records.
"""

from __future__ import annotations

import json
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
        self, x: Floats, y: NDArray[np.bool_], prior: Floats, luck: float, xv: Floats, yv: Floats
    ) -> Floats:
        """Fit weights by ridge regression towards a prior; the ridge that validates best."""
        noise = luck * self.rng.normal(size=FEATURES) / np.sqrt(FEATURES)
        square, wanted = x.T @ x, x.T @ (y - y.mean())
        ridges = np.array(RIDGES)[:, None]
        tried = noise + np.linalg.solve(
            square + ridges[..., None] * np.eye(FEATURES), (wanted + ridges * prior)[..., None]
        ).squeeze(-1)
        return tried[_auroc(yv, xv @ tried.T).argmax()]  # type: ignore[no-any-return]


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


def main() -> None:
    """Print the tables and write them beside the other results."""
    rng = np.random.default_rng(0)
    table = {str(ratio): covered(ratio, rng) for ratio in RATIOS}
    for ratio, row in table.items():
        print(f"luck/patients {ratio:>5}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
    rows = []
    for number, design in enumerate(DESIGNS):
        rows.append(cross_validated(*design, np.random.default_rng(number)))
        print(rows[-1], flush=True)
    facts = {"seeds": SEEDS, "repetitions": REPETITIONS, "replicates": REPLICATES, "level": 0.95}
    facts |= {"worlds": WORLDS}
    versions = {"numpy": np.__version__, "scipy": scipy.__version__}
    path = Path(__file__).parent / "results" / "coverage.json"
    path.parent.mkdir(exist_ok=True)
    content = {**facts, "versions": versions, "coverage": table, "cross_validation": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
