"""Comparing the arms of a study: from the predictions of its runs to differences and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.analysis.bootstrap import (
    REPLICATES,
    Floats,
    bootstrap_auroc,
    bootstrap_calibration_error,
    bootstrap_f1,
)
from ecgnb.analysis.statistics import (
    LEVEL,
    Difference,
    Fold,
    holm,
    paired_difference,
    power,
    seeds_needed,
)
from ecgnb.models import HEADS, MODELS
from ecgnb.study.data import read_labels, read_table
from ecgnb.study.spec import ALL, RunSpec, Study
from ecgnb.study.store import Result
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


def arm_means(
    study: Study,
    results: Sequence[Result],
    metric: str = "auroc",
    only: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Average a test score of every arm in every cell, with its interval.

    Parameters
    ----------
    study : Study
    results : sequence of Result
        Final runs.
    metric, only
        See `Scores`.

    Returns
    -------
    DataFrame
        One row a cell and arm: the fields of `Cell`, ``arm``, ``records`` (training records),
        ``mean``, ``low``, ``high`` and ``seeds``.
    """
    scores = Scores(study, results, metric, only)
    rows = []
    for cell, arm in dict.fromkeys((cell_of(run.spec), run.spec.arm) for run in results):
        runs = scores.of(cell, arm)
        found = scores.contrast([(1.0, runs)])
        if found:
            records = scores.records(cell)
            values = {"mean": found.mean, "low": found.low, "high": found.high}
            rows.append(
                {**asdict(cell), "arm": arm, "records": records, **values, "seeds": found.seeds}
            )
    columns = [*Cell.__dataclass_fields__, "arm", "records", "mean", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns)


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
        seeds = [seed for fifth in scores.shared(one, other) for seed in fifth]
        sides = [scores.contrast([(1.0, {s: runs[s] for s in seeds})]) for runs in (one, other)]
        runs = [one[seed] for seed in seeds]
        values = (
            scores.records(cell),
            *(side.mean if side else np.nan for side in sides),
            len({record for run in runs for record in run.records}),
            min(run.facts["classes"] for run in runs),
        )
        rows.append({**asdict(cell), **dict(zip(_COMPARED, values, strict=True))})
        found.append(difference)
    columns = [*Cell.__dataclass_fields__, *_COMPARED]
    return with_tests(pd.DataFrame(rows, columns=columns), found)


_COMPARED = ("records", "first", "second", "tested", "classes")


def with_tests(rows: pd.DataFrame, found: Sequence[Difference]) -> pd.DataFrame:
    """Add to each row its difference, and what a family of so many comparisons leaves of it.

    Returns
    -------
    DataFrame
        With ``difference``, ``low``, ``high``, ``verdict``, ``seeds``, ``seed_deviation``,
        ``patient_deviation``; ``p`` and ``equivalence_p``, and the same after Holm's correction
        over all rows, ``p_holm`` and ``equivalence_p_holm``; ``holds``, whether the verdict stands
        after it; ``power`` to find a difference of `DETECTABLE`, and ``seeds_needed`` for that, see
        `ecgnb.analysis.statistics.seeds_needed`.
    """
    p = np.array([one.p for one in found])
    equivalence_p = np.array([one.equivalence_p for one in found])
    corrected, equivalence_corrected = holm(p), holm(equivalence_p)
    holds = [
        _holds(one.verdict, *tests)
        for one, *tests in zip(found, corrected, equivalence_corrected, strict=True)
    ]
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
        seeds_needed=[seeds_needed(one) for one in found],
    )


def _holds(verdict: str, p: float, equivalence_p: float) -> bool:
    alpha = 1 - LEVEL
    if verdict == "equivalent":
        return equivalence_p < alpha / 2
    return verdict == "undecided" or p < alpha


def compare_sources(
    study: Study, results: Sequence[Result], beside: Callable[[str, str], bool]
) -> pd.DataFrame:
    """Compare networks fine-tuned from one source with those from another, on the same target.

    Parameters
    ----------
    study : Study
    results : sequence of Result
    beside : callable
        Says of two datasets whether the first, as a source, is compared with the second.

    Returns
    -------
    DataFrame
        One row a network and size: the fields of `Cell` (of the first source), ``other`` (the
        second), ``records`` (training records), and the columns of `with_tests` for the first less
        the second.
    """
    scores = Scores(study, results)
    tuned = [cell for cell in scores.cells if cell.source]
    rows, found = [], []
    for cell, other in product(tuned, repeat=2):
        alike = replace(other, source=cell.source, taught=cell.taught) == cell
        if not alike or not beside(cell.source, other.source):
            continue
        runs = scores.of(cell, "finetune")
        difference = scores.contrast([(1.0, runs), (-1.0, scores.of(other, "finetune"))])
        if difference is not None:
            rows.append({**asdict(cell), "other": other.source, "records": scores.records(cell)})
            found.append(difference)
    columns = [*Cell.__dataclass_fields__, "other", "records"]
    return with_tests(pd.DataFrame(rows, columns=columns), found)


_NETWORKS = ["model", "head", "size", "other_model", "other_head"]


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
        One row a pair: ``model``, ``head``, ``size``, ``other_model``, ``other_head``, ``records``
        (training records of the first), and the columns of `with_tests` for the first gain less
        the second.
    """
    scores = Scores(study, results)
    rows, found = [], []
    for cell, other in pairs:
        difference = scores.contrast([*_gains(scores, [cell]), *_gains(scores, [other], -1.0)])
        if difference is not None:
            records = scores.records(cell)
            rows.append((cell.model, cell.head, cell.size, other.model, other.head, records))
            found.append(difference)
    return with_tests(pd.DataFrame(rows, columns=[*_NETWORKS, "records"]), found)


def compare_families(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare the mean gain of the convolutional networks with that of the recurrent ones.

    With the pooled head, so that both families throw away next to nothing at transfer. A network
    counts at a size where no other was tested on more fifths of the patients.

    Parameters
    ----------
    study : Study
    results : sequence of Result
        Final runs on one source and target.

    Returns
    -------
    DataFrame
        One row a size: ``size``, ``records`` (training records), ``networks`` and ``others``
        (tuples of models, convolutional and recurrent), and the columns of `with_tests` for the
        mean gain of the first less that of the second.
    """
    scores = Scores(study, results)
    sizes: dict[int, list[Cell]] = {}
    for cell in scores.cells:
        if cell.source and cell.head == "pooled":
            sizes.setdefault(cell.size, []).append(cell)
    rows, found = [], []
    for size, cells in sizes.items():
        fifths = {
            cell: len(scores.shared(scores.of(cell, "finetune"), scores.of(cell, "scratch")))
            for cell in cells
        }
        families: dict[str, list[Cell]] = {"CNN": [], "RNN": []}
        for cell in cells:
            if fifths[cell] == max(fifths.values()):
                families[MODELS[cell.model].family].append(cell)
        first, second = families.values()
        if not first or not second:
            continue
        difference = scores.contrast([*_gains(scores, first), *_gains(scores, second, -1.0)])
        if difference is not None:
            names = (tuple(cell.model for cell in one) for one in (first, second))
            rows.append((size, scores.records(first[0]), *names))
            found.append(difference)
    columns = ["size", "records", "networks", "others"]
    return with_tests(pd.DataFrame(rows, columns=columns), found)


def compare_across(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare every network from scratch with every other one fine-tuned, on the same records.

    Returns
    -------
    DataFrame
        One row a pair of networks and a size: ``model``, ``head``, ``size``, ``other_model``,
        ``other_head``, and the columns of `with_tests` for the first less the second.
    """
    scores = Scores(study, results)
    tuned = [cell for cell in scores.cells if cell.source and scores.of(cell, "finetune")]
    rows, found = [], []
    for cell in scores.cells:
        own = scores.of(cell, "scratch")
        for other in tuned:
            alike = replace(other, source="", taught="", model=cell.model, head=cell.head)
            if cell.source or other.model == cell.model or alike != cell or not own:
                continue
            difference = scores.contrast([(1.0, own), (-1.0, scores.of(other, "finetune"))])
            if difference:
                rows.append((cell.model, cell.head, cell.size, other.model, other.head))
                found.append(difference)
    return with_tests(pd.DataFrame(rows, columns=_NETWORKS), found)


def _gains(
    scores: Scores, cells: Sequence[Cell], weight: float = 1.0
) -> list[tuple[float, dict[int, Result]]]:
    """Return the terms of the mean gain from fine-tuning of some cells."""
    return [
        (sign * weight / len(cells), scores.of(cell, arm))
        for cell in cells
        for arm, sign in (("finetune", 1.0), ("scratch", -1.0))
    ]
