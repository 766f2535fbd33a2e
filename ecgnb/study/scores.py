"""The test scores of the runs of a study, and weighted sums of them with their uncertainty."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.models import HEADS, MODELS
from ecgnb.study.data import read_labels, read_table
from ecgnb.study.grid import Study
from ecgnb.study.resampling import (
    REPLICATES,
    Floats,
    bootstrap_auroc,
    bootstrap_calibration_error,
    bootstrap_f1,
)
from ecgnb.study.result import Result
from ecgnb.study.spec import ALL, RunSpec
from ecgnb.study.statistics import Difference, Fold, paired_difference
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


def _size_of(cell: Cell) -> tuple[object, ...]:
    return cell.target, cell.label_set, cell.min_positives, cell.size


def _in_order(cells: Collection[Cell]) -> list[Cell]:
    """Order cells as a reader meets them: pairs as they come, then by head, network and size."""
    pairs = list(dict.fromkeys((cell.target, cell.source) for cell in cells))
    return sorted(
        cells,
        key=lambda cell: (
            pairs.index((cell.target, cell.source)),
            HEADS.index(cell.head),
            list(MODELS).index(cell.model),
            cell.size == ALL,
            cell.size,
        ),
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
        self.cells = _in_order(dict.fromkeys(cell_of(result.spec) for result in results))
        self._records: dict[tuple[object, ...], dict[int, int]] = {}
        for result in results:
            fifths = self._records.setdefault(_size_of(cell_of(result.spec)), {})
            fifths[result.spec.seed % _FIFTHS] = result.facts["train_records"]

    def of(self, cell: Cell, arm: str) -> dict[int, Result]:
        """Return the runs of an arm by seed; one that starts at random stands at any source."""
        side = cell if ARMS[arm].pretrained else replace(cell, source="", taught="")
        seeds = sorted({seed for _, _, seed in self.runs})
        return {
            seed: self.runs[side, arm, seed] for seed in seeds if (side, arm, seed) in self.runs
        }

    def records(self, cell: Cell) -> int:
        """Return how many training records the size of a cell stands for, the mean over fifths.

        Fifths are not quite equally large; so that a size has one number, it is that of all runs,
        also where a network was not tested on all fifths.
        """
        return round(np.mean(list(self._records[_size_of(cell)].values())))

    def shared(self, *arms: Mapping[int, Result]) -> list[list[int]]:
        """Return the seeds that all of some arms have, in a list for each fifth of the target.

        Only full rounds count, as many seeds in each fifth: of a round that has begun, nothing is
        taken until it is finished, or the fifths would weigh unequally.
        """
        seeds = sorted(set.intersection(*(set(runs) for runs in arms)))
        fifths = [[seed for seed in seeds if seed % _FIFTHS == fifth] for fifth in range(_FIFTHS)]
        rounds = max(min(map(len, fifths)), 1)
        return [fifth[:rounds] for fifth in fifths if fifth]

    def contrast(self, terms: Sequence[tuple[float, Mapping[int, Result]]]) -> Difference | None:
        """Average a weighted sum of test scores over the seeds that all its terms share.

        Parameters
        ----------
        terms : sequence of (float, mapping)
            Weight, and a run for each seed. Runs of one seed were tested on the same records.

        Returns
        -------
        Difference or None
            None if no seed is in all terms, or nothing can be scored in one of the fifths.
        """
        fifths = self.shared(*(runs for _, runs in terms))
        folds = [
            self._fold([[(weight, runs[seed]) for weight, runs in terms] for seed in fifth])
            for fifth in fifths
        ]
        found = [fold for fold in folds if fold]
        return paired_difference(found) if found and len(found) == len(folds) else None

    def score(self, run: Result) -> tuple[float, Floats] | None:
        """Return the test score of a run, and the same on test sets drawn again.

        Returns
        -------
        (float, ndarray of float, shape (replicates,)) or None
            The drawn patients are the same for all runs that were tested on the same records. None
            if no class can be scored.
        """
        return _scored(self.study, run, self.metric, self.only)

    def _fold(self, rows: Sequence[Sequence[tuple[float, Result]]]) -> Fold | None:
        first = rows[0][0][1]
        differences, replicates = np.zeros(len(rows)), np.zeros((len(rows), REPLICATES))
        for place, row in enumerate(rows):
            for weight, run in row:
                if run.records != first.records or run.classes != first.classes:
                    raise ValueError(f"runs {first.key} and {run.key} were not tested alike")
                score = self.score(run)
                if score is None:
                    return None
                differences[place] += weight * score[0]
                replicates[place] += weight * score[1]
        return Fold(differences, replicates)


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
    spec = run.spec
    sought = study, spec.dataset, spec.label_set, spec.min_positives
    truth, whom = _tested(*sought, run.records, run.classes)
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


@lru_cache(maxsize=256)  # the runs of a fifth share their records
def _tested(
    study: Study,
    dataset: str,
    label_set: str,
    min_positives: int,
    records: tuple[str, ...],
    classes: tuple[str, ...],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return what some records have, and whom they belong to; arrays that all callers share."""
    labels, patients = _truth(study, dataset, label_set, min_positives)
    rows = list(records)
    return labels.loc[rows, list(classes)].to_numpy(), patients.loc[rows].to_numpy()


@lru_cache(maxsize=32)
def _truth(
    study: Study, dataset: str, label_set: str, min_positives: int
) -> tuple[pd.DataFrame, pd.Series]:
    table = read_table(study, dataset).set_index("record", drop=False)
    codes, _ = pd.factorize(table["patient"])
    labels = read_labels(table, dataset, label_set, min_positives)
    return labels, pd.Series(codes, index=table.index)
