"""How often intervals over few seeds cover the truth: the reason for `paired_difference`.

Run as ``python benchmarks/coverage.py``. The difference of each seed is drawn as the sum of what
its test patients add (variance 1) and what the luck of its training adds (variance `ratio`), and
the patients' variance is known, as a bootstrap within the seed would find it. Two intervals for
the mean over seeds are compared: a bootstrap that draws seeds and patients in turn, and the rule
of `ecgnb.study.statistics.paired_difference`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy
from scipy import stats

SEEDS, REPETITIONS, REPLICATES = 5, 4000, 1000
RATIOS = (0, 0.25, 1, 2, 4, 16)


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


def main() -> None:
    """Print the table and write it beside the other results."""
    rng = np.random.default_rng(0)
    table = {str(ratio): covered(ratio, rng) for ratio in RATIOS}
    for ratio, row in table.items():
        print(f"luck/patients {ratio:>5}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
    facts = {"seeds": SEEDS, "repetitions": REPETITIONS, "replicates": REPLICATES, "level": 0.95}
    versions = {"numpy": np.__version__, "scipy": scipy.__version__}
    path = Path(__file__).parent / "results" / "coverage.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**facts, "versions": versions, "coverage": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
