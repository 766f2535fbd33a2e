"""Comparing networks with one another: what fine-tuning gains them, and what a choice is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from ecgnb.models import MODELS
from ecgnb.study.compare import with_tests
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Cell, Scores

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
