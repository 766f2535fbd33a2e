"""Comparing the arms of a study: from the predictions of its runs to differences and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd

from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Cell, Scores, cell_of
from ecgnb.study.statistics import LEVEL, Difference, holm, power, seeds_needed
from ecgnb.training.arms import ARMS


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
        `ecgnb.study.statistics.seeds_needed`.
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
