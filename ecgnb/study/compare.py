"""Comparing the arms of a study: from the predictions of its runs to differences and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from ecgnb.study.data import read_labels, read_table
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.spec import RunSpec
from ecgnb.study.statistics import (
    LEVEL,
    REPLICATES,
    Difference,
    Floats,
    Fold,
    bootstrap_auroc,
    bootstrap_calibration_error,
    bootstrap_f1,
    paired_difference,
    power,
    seeds_needed,
)
from ecgnb.training.arms import ARMS
from ecgnb.training.metrics import auroc, calibration_error, eligible, f1

_FIFTHS = 5  # the seeds s and s + 5 test on the same patients


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
    budget: int  # updates on the target
    taught: str  # the label set of the source


def cell_of(spec: RunSpec) -> Cell:
    """Return the cell of a run."""
    return Cell(
        source=spec.source,
        target=spec.dataset,
        label_set=spec.label_set,
        min_positives=spec.min_positives,
        model=spec.model,
        head=spec.head,
        size=spec.size,
        budget=spec.updates,
        taught=spec.source_label_set,
    )


class Scores:
    """The test scores of the runs of a study: by cell, arm and seed.

    Parameters
    ----------
    study : Study
    results : sequence of Result
        Final runs.
    metric : str
        ``auroc`` or ``f1``, macro averages over the classes that can be scored, F1 at the
        thresholds that were chosen on validation; or ``ece``, the expected calibration error.
    only : tuple of str
        Score no other classes than these.
    """

    def __init__(
        self,
        study: Study,
        results: Sequence[Result],
        metric: str = "auroc",
        only: tuple[str, ...] = (),
    ) -> None:
        self.study = study
        self.metric = metric
        self.only = only
        self.runs = {
            (cell_of(result.spec), result.spec.arm, result.spec.seed): result for result in results
        }
        self.cells = list(dict.fromkeys(cell_of(result.spec) for result in results))

    def of(self, cell: Cell, arm: str) -> dict[int, Result]:
        """Return the runs of an arm by seed; one that starts at random stands at any source."""
        side = cell if ARMS[arm].pretrained else replace(cell, source="", taught="")
        seeds = sorted({seed for _, _, seed in self.runs})
        return {
            seed: self.runs[side, arm, seed] for seed in seeds if (side, arm, seed) in self.runs
        }

    def contrast(self, terms: Sequence[tuple[float, Mapping[int, Result]]]) -> Difference | None:
        """Average a weighted sum of test scores over the seeds that all its terms have.

        Parameters
        ----------
        terms : sequence of (float, mapping)
            Weight, and a run for each seed. Runs of one seed were tested on the same records.

        Returns
        -------
        Difference or None
            None if no seed is in all terms, or nothing can be scored in one of the fifths.
        """
        seeds = sorted(set.intersection(*(set(runs) for _, runs in terms)))
        fifths = [[seed for seed in seeds if seed % _FIFTHS == fifth] for fifth in range(_FIFTHS)]
        folds = [
            self._fold([[(weight, runs[seed]) for weight, runs in terms] for seed in fifth])
            for fifth in fifths
            if fifth
        ]
        found = [fold for fold in folds if fold]
        return paired_difference(found) if found and len(found) == len(folds) else None

    def _fold(self, rows: Sequence[Sequence[tuple[float, Result]]]) -> Fold | None:
        first = rows[0][0][1]
        differences, replicates = np.zeros(len(rows)), np.zeros((len(rows), REPLICATES))
        for place, row in enumerate(rows):
            for weight, run in row:
                if run.records != first.records or run.classes != first.classes:
                    raise ValueError(f"runs {first.key} and {run.key} were not tested alike")
                score = _scored(self.study, run, self.metric, self.only)
                if score is None:
                    return None
                differences[place] += weight * score[0]
                replicates[place] += weight * score[1]
        return Fold(differences, replicates)


def arm_means(study: Study, results: Sequence[Result], metric: str = "auroc") -> pd.DataFrame:
    """Average a test score of every arm in every cell, with its interval.

    Parameters
    ----------
    study : Study
    results : sequence of Result
        Final runs.
    metric : str
        See `Scores`.

    Returns
    -------
    DataFrame
        One row a cell and arm: the fields of `Cell`, ``arm``, ``records`` (training records),
        ``mean``, ``low``, ``high`` and ``seeds``.
    """
    scores = Scores(study, results, metric)
    rows = []
    for cell, arm in dict.fromkeys((cell_of(run.spec), run.spec.arm) for run in results):
        runs = scores.of(cell, arm)
        found = scores.contrast([(1.0, runs)])
        if found:
            records = round(np.mean([run.facts["train_records"] for run in runs.values()]))
            values = {"mean": found.mean, "low": found.low, "high": found.high}
            rows.append(
                {**asdict(cell), "arm": arm, "records": records, **values, "seeds": found.seeds}
            )
    return pd.DataFrame(rows)


def compare_arms(
    study: Study,
    results: Sequence[Result],
    first: str = "finetune",
    second: str = "scratch",
    metric: str = "auroc",
) -> pd.DataFrame:
    """Compare two arms in every cell of a study that has both.

    Parameters
    ----------
    study : Study
    results : sequence of Result
        Final runs.
    first, second : str
        Names of `ARMS`; a difference is the first less the second.
    metric : str
        See `Scores`.

    Returns
    -------
    DataFrame
        One row a cell: the fields of `Cell`, ``records`` (training records), ``first`` and
        ``second`` (mean score of each arm), ``tested`` (different test records over all
        seeds), ``classes`` (fewest scored in a fold), and the columns of `with_tests`.
    """
    scores = Scores(study, results, metric)
    rows, found = [], []
    for cell in scores.cells:
        # An arm that starts at random has no source, and stands beside every source of its target.
        if bool(cell.source) != (ARMS[first].pretrained or ARMS[second].pretrained):
            continue
        one, other = scores.of(cell, first), scores.of(cell, second)
        difference = scores.contrast([(1.0, one), (-1.0, other)])
        if difference is None:
            continue
        seeds = one.keys() & other.keys()
        runs = [one[seed] for seed in seeds]
        rows.append(
            {
                **asdict(cell),
                "records": round(np.mean([run.facts["train_records"] for run in runs])),
                "first": np.mean([one[seed].facts[metric] for seed in seeds]),
                "second": np.mean([other[seed].facts[metric] for seed in seeds]),
                "tested": len({record for run in runs for record in run.records}),
                "classes": min(run.facts["classes"] for run in runs),
            }
        )
        found.append(difference)
    return with_tests(pd.DataFrame(rows), found)


def with_tests(rows: pd.DataFrame, found: Sequence[Difference]) -> pd.DataFrame:
    """Add to each row its difference, and what a family of so many comparisons leaves of it.

    Returns
    -------
    DataFrame
        With ``difference``, ``low``, ``high``, ``verdict``, ``seeds``, ``seed_deviation``,
        ``patient_deviation``; ``p`` and ``equivalence_p``, and the same after Holm's correction
        over all rows, ``p_holm`` and ``equivalence_p_holm``; ``holds``, whether the verdict stands
        after it; ``power`` to find a difference of `DETECTABLE`, and ``seeds_needed`` for that,
        missing where no number of seeds is enough.
    """
    if not len(rows):
        return rows
    p = np.array([one.p for one in found])
    equivalence_p = np.array([one.equivalence_p for one in found])
    corrected, equivalence_corrected = _holm(p), _holm(equivalence_p)
    holds = [
        _holds(one.verdict, *tests)
        for one, *tests in zip(found, corrected, equivalence_corrected, strict=True)
    ]
    needed = pd.array([seeds_needed(one) for one in found], dtype="Int64")
    return rows.assign(
        difference=[one.mean for one in found],
        low=[one.low for one in found],
        high=[one.high for one in found],
        verdict=[one.verdict for one in found],
        seeds=[one.seeds for one in found],
        seed_deviation=[one.seed_deviation for one in found],
        patient_deviation=[one.patient_deviation for one in found],
        p=p,
        p_holm=corrected,
        equivalence_p=equivalence_p,
        equivalence_p_holm=equivalence_corrected,
        holds=holds,
        power=[power(one, one.seeds) for one in found],
        seeds_needed=needed,
    )


def _holds(verdict: str, p: float, equivalence_p: float) -> bool:
    alpha = 1 - LEVEL
    if verdict == "equivalent":
        return equivalence_p < alpha / 2
    return verdict == "undecided" or p < alpha


def _holm(p: Floats) -> Floats:
    return np.asarray(multipletests(p, method="holm")[1])


def compare_gains(
    study: Study, results: Sequence[Result], pairs: Iterable[tuple[Cell, Cell]]
) -> pd.DataFrame:
    """Compare the gains from fine-tuning of two cells, to see whether one profits more.

    Parameters
    ----------
    study : Study
    results : sequence of Result
    pairs : iterable of (Cell, Cell)
        Cells with the same target and size.

    Returns
    -------
    DataFrame
        One row a pair: ``model``, ``head``, ``other_model``, ``other_head``, ``size``, and the
        columns of `with_tests` for the first gain less the second.
    """
    scores = Scores(study, results)
    rows, found = [], []
    for cell, other in pairs:
        difference = scores.contrast(
            [
                (1.0, scores.of(cell, "finetune")),
                (-1.0, scores.of(cell, "scratch")),
                (-1.0, scores.of(other, "finetune")),
                (1.0, scores.of(other, "scratch")),
            ]
        )
        if difference is not None:
            names = {"other_model": other.model, "other_head": other.head}
            rows.append({"model": cell.model, "head": cell.head, "size": cell.size, **names})
            found.append(difference)
    return with_tests(pd.DataFrame(rows), found)


_CACHE: dict[tuple[object, ...], tuple[float, Floats] | None] = {}


def _scored(
    study: Study, run: Result, metric: str, only: tuple[str, ...]
) -> tuple[float, Floats] | None:
    """Return the macro average of a run's scores, and the same on test sets drawn again."""
    name = (study.digest, run.key, metric, only)
    if name not in _CACHE:
        _CACHE[name] = _score(study, run, metric, only)
    return _CACHE[name]


def _score(
    study: Study, run: Result, metric: str, only: tuple[str, ...]
) -> tuple[float, Floats] | None:
    spec, rows = run.spec, list(run.records)
    labels, patients = _truth(study, spec.dataset, spec.label_set, spec.min_positives)
    truth, whom = labels.loc[rows, list(run.classes)].to_numpy(), patients.loc[rows].to_numpy()
    use = eligible(truth, spec.min_test_positives)
    if only:
        use &= np.isin(run.classes, only)
    if not use.any():
        return None
    truth, scores = truth[:, use], run.predictions[:, use].astype(np.float64)
    if metric == "f1":
        named = scores >= np.array(run.facts["thresholds"])[use]
        return float(f1(truth, named).mean()), bootstrap_f1(truth, named, whom)
    if metric == "ece":
        return calibration_error(truth, scores), bootstrap_calibration_error(truth, scores, whom)
    return float(auroc(truth, scores).mean()), bootstrap_auroc(truth, scores, whom)


@lru_cache(maxsize=32)
def _truth(
    study: Study, dataset: str, label_set: str, min_positives: int
) -> tuple[pd.DataFrame, pd.Series]:
    table = read_table(study, dataset).set_index("record", drop=False)
    codes, _ = pd.factorize(table["patient"])
    labels = read_labels(table, dataset, label_set, min_positives)
    return labels, pd.Series(codes, index=table.index)
