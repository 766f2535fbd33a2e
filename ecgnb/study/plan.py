"""Which runs of a study are done, which can start now, and what is still to come.

A final run needs a learning rate, chosen among tuning runs, and the encoder of a pre-training,
whose own learning rate is chosen too. So the list of runs unfolds as results come in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ecgnb.study.grid import Study
from ecgnb.study.spec import ALL, RunSpec, changed

Score = Callable[[RunSpec], float | None]
"""The validation score of a run, or None if it has not been done."""


@dataclass(frozen=True)
class Resolved:
    """A cell of the study's grid, as far as it is known which run it stands for.

    Attributes
    ----------
    cell : RunSpec
        With the learning rates that are chosen already; others are 0.
    waits_for : tuple of RunSpec
        The runs that the next choice waits for.
    """

    cell: RunSpec
    waits_for: tuple[RunSpec, ...] = ()

    @property
    def run(self) -> RunSpec | None:
        """The run it stands for, or None while a choice is open."""
        return None if self.waits_for else self.cell


def resolver(study: Study, score: Score) -> Callable[[RunSpec], Resolved]:
    """Return a function that finds the run of a cell, as far as the results so far decide it.

    Parameters
    ----------
    study : Study
    score : callable
        What is known of a run.

    Returns
    -------
    callable
        For one of `Study.cells`. Cells that differ in their seed alone share their learning rate,
        so it is looked up once.
    """
    known: dict[RunSpec, Resolved] = {}

    def resolve(cell: RunSpec) -> Resolved:
        tuning = changed(cell, seed=study.tuning_seed)
        if tuning not in known:
            known[tuning] = _resolve(study, tuning, score)
        found = known[tuning]
        return Resolved(changed(found.cell, seed=cell.seed), found.waits_for)

    return resolve


def _resolve(study: Study, cell: RunSpec, score: Score) -> Resolved:
    if cell.source:
        rate, missing = _choose(study.source_candidates(cell), score)
        if missing:
            return Resolved(cell, missing)
        cell = replace(cell, source_learning_rate=rate)
    rate, missing = _choose(study.candidates(cell), score)
    if missing:
        return Resolved(cell, missing)
    return Resolved(replace(cell, learning_rate=rate))


def _choose(candidates: list[RunSpec], score: Score) -> tuple[float, tuple[RunSpec, ...]]:
    """Choose the learning rate with the best validation score, the lower one of equals."""
    if len(candidates) == 1:
        return candidates[0].learning_rate, ()
    scores = {run: score(run) for run in candidates}
    missing = tuple(run for run, value in scores.items() if value is None)
    if missing:
        return 0.0, missing
    best = max(candidates, key=lambda run: (scores[run], -run.learning_rate))
    return best.learning_rate, ()


def open_runs(study: Study, score: Score, has_encoder: Callable[[RunSpec], bool]) -> list[RunSpec]:
    """List the runs that are missing and can start now, in the order of the study.

    Parameters
    ----------
    study : Study
    score : callable
        What is known of a run.
    has_encoder : callable
        Whether the weights of a pre-training are at hand; a recorded one without its weights is
        trained again when a run needs it.
    """
    found: dict[RunSpec, None] = {}
    resolve = resolver(study, score)
    for cell in study.cells():
        resolved = resolve(cell)
        runs = resolved.waits_for or (resolved.cell,)
        for run in runs:
            if score(run) is not None:
                continue
            pretraining = run.pretraining()
            if pretraining and not has_encoder(pretraining):
                found.setdefault(pretraining)
            else:
                found.setdefault(run)
    return list(found)


def first_seeds(study: Study, count: int | None) -> Study:
    """Return a study with the first seeds of each pair only; with all of them for None.

    One seed needs every learning rate chosen, so it does all the tuning of the study.
    """
    pairs = tuple(replace(pair, seeds=pair.seeds[:count]) for pair in study.pairs)
    return replace(study, pairs=pairs)


@dataclass(frozen=True)
class Planned:
    """A run as far as it is known before learning rates are chosen, and whether it is done."""

    spec: RunSpec
    done: bool


def inventory(study: Study, score: Score) -> list[Planned]:
    """List every run that a study needs, in all stages, done or not."""
    found: dict[RunSpec, bool] = {}
    resolve = resolver(study, score)
    tuned: set[RunSpec] = set()
    for cell in study.cells():
        known = resolve(cell).cell
        runs = [known]
        if pretraining := known.pretraining():
            runs.append(pretraining)
        tuning = changed(known, seed=study.tuning_seed)
        if tuning not in tuned:
            tuned.add(tuning)
            for several in (study.candidates(tuning), study.source_candidates(cell)):
                runs += several if len(several) > 1 else []
        for run in runs:
            # Only tuning runs are known by their learning rate before one is chosen.
            rate = run.learning_rate if run.seed == study.tuning_seed else 0.0
            name = changed(run, learning_rate=rate, source_learning_rate=0.0)
            found[name] = found.get(name, False) or score(run) is not None
    return [Planned(spec, done) for spec, done in found.items()]


def size_label(size: int) -> str:
    """Write a training size; `ALL` as ``all``."""
    return "all" if size == ALL else f"{size:,}"
