"""Whether the published collapse with few records is want of records or of updates.

No number in the sentences is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecgnb.analysis.compare import Scores, with_tests
from ecgnb.report.wording import interval_texts, signed
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.metrics import UNLABELLED

_CAUSES = {
    "helps": "the short training, not the few records alone, is part of the cause",
    "equivalent": "the short training makes **no difference**",
    "harms": "the longer training makes it worse",
    "undecided": "whether the short training is part of the cause is **undecided**",
}


@dataclass(frozen=True)
class Collapse:
    """One training size with fewer and with more updates, from scratch.

    Attributes
    ----------
    records, few, many : int
        Training records, and the two numbers of updates.
    table : DataFrame
        One row, the columns of `ecgnb.analysis.compare.with_tests`: more updates less fewer; and
        ``few_mean``, ``many_mean``, and ``pretrained``, the mean F1 after the autoencoder with few.
    """

    records: int
    few: int
    many: int
    table: pd.DataFrame


def collapses(study: Study, results: Sequence[Result]) -> list[Collapse]:
    """Compare training from scratch with as many updates, and with as many epochs, as with all.

    That is the question of the published collapse: with a quarter of the records, the same number
    of epochs is a quarter of the updates.
    """
    scores = Scores(study, results, "f1")
    many = study.pairs[0].target.updates
    found = []
    for cell in scores.cells:
        if cell.source or cell.budget >= many:
            continue
        rich = [one for one in scores.cells if _same_but_budget(one, cell) and one.budget == many]
        few_runs = scores.of(cell, "scratch")
        if not rich or not few_runs:
            continue
        difference = scores.contrast([(1.0, scores.of(rich[0], "scratch")), (-1.0, few_runs)])
        if difference is None:
            continue
        means = {
            name: np.mean([run.facts["f1"] for run in runs.values()])
            for name, runs in (("few_mean", few_runs), ("many_mean", scores.of(rich[0], "scratch")))
        }
        after = [
            run.facts["f1"]
            for run in results
            if run.spec.arm == "finetune"
            and run.spec.source_label_set == UNLABELLED
            and (run.spec.size, run.spec.updates) == (cell.size, cell.budget)
        ]
        means["pretrained"] = np.mean(after) if after else np.nan
        records = next(iter(few_runs.values())).facts["train_records"]
        found.append(
            Collapse(records, cell.budget, many, with_tests(pd.DataFrame([means]), [difference]))
        )
    return found


def _same_but_budget(one: object, other: object) -> bool:
    return {**vars(one), "budget": 0} == {**vars(other), "budget": 0}


def collapse_answer(found: Sequence[Collapse]) -> list[str]:
    """Answer whether the published collapse is want of records or want of updates."""
    lines = []
    for one in found:
        row = one.table.iloc[0]
        after = row["pretrained"]
        lines.append(
            f"With {one.records:,} records, the network from nothing reaches a mean F1 of "
            f"{row['few_mean']:.3f} if it is trained for as many passes over its records as the "
            f"whole set gets ({one.few} updates), and {row['many_mean']:.3f} if it is trained for "
            f"{one.many} updates, as elsewhere on this page ({signed(row['difference'])}, "
            f"{interval_texts(one.table)[0]}): {_CAUSES[row['verdict']]}."
            + (
                ""
                if np.isnan(after)
                else f" From the autoencoder, the {one.few} reach {after:.3f}."
            )
        )
    return lines
