"""Which runs of a study are done, which can start now, and what is still to come.

A final run needs a learning rate, chosen among tuning runs, and the encoder of a pre-training,
whose own learning rate is chosen too. So the list of runs unfolds as results come in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from ecgnb.models import build_model
from ecgnb.study.spec import ALL, RunSpec, Study
from ecgnb.training.fit import Data, Schedule, choose_device, choose_precision, fit
from ecgnb.training.transfer import ARMS

Score = Callable[[RunSpec], float | None]
"""The validation AUROC of a run, or None if it has not been done."""


@dataclass(frozen=True)
class Resolved:
    """A cell of the study's grid: the run it stands for, or the runs it waits for."""

    run: RunSpec | None
    waits_for: tuple[RunSpec, ...] = ()


def resolve(study: Study, cell: RunSpec, score: Score) -> Resolved:
    """Find the run of a cell, as far as the results so far decide it.

    Parameters
    ----------
    study : Study
    cell : RunSpec
        One of `Study.cells`.
    score : callable
        What is known of a run.
    """
    if cell.source:
        rate, missing = _choose(study.source_candidates(cell), score)
        if missing:
            return Resolved(None, missing)
        cell = replace(cell, source_learning_rate=rate)
    rate, missing = _choose(study.candidates(cell), score)
    if missing:
        return Resolved(None, missing)
    return Resolved(replace(cell, learning_rate=rate))


def _choose(candidates: list[RunSpec], score: Score) -> tuple[float, tuple[RunSpec, ...]]:
    """Choose the learning rate with the best validation AUROC, the lower one of equals."""
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
    for cell in study.cells():
        resolved = resolve(study, cell, score)
        runs = resolved.waits_for if resolved.run is None else (resolved.run,)
        for run in runs:
            if score(run) is not None:
                continue
            pretraining = run.pretraining()
            if pretraining and not has_encoder(pretraining):
                found.setdefault(pretraining)
            else:
                found.setdefault(run)
    return list(found)


@dataclass(frozen=True)
class Group:
    """Runs that cost the same, for a table of the plan."""

    stage: str
    model: str
    arm: str
    runs: int
    done: int
    seconds: float


def groups(study: Study, score: Score) -> list[Group]:
    """Count the runs of a study by stage, model and arm, and measure what one costs here.

    The seconds of a run come from timing a few of its updates on this machine, one thread, and
    evaluations on validation are counted with them.
    """
    counted: dict[tuple[str, str, str, str], list[set[object]]] = {}
    for spec, done in _all_runs(study, score):
        identity = replace(spec, learning_rate=0.0, source_learning_rate=0.0), spec.learning_rate
        group = counted.setdefault((spec.stage, spec.model, spec.head, spec.arm), [set(), set()])
        group[0].add(identity)
        if done:
            group[1].add(identity)
    cost = {}
    for _, model, head, arm in counted:
        if not ARMS[arm].frozen and (model, head) not in cost:
            cost[model, head] = _seconds_per_update(model, head, study)
    updates = {
        "pretrain": max(pair.source.updates for pair in study.pairs),
        "tune": max(pair.target.updates for pair in study.pairs),
        "final": max(pair.target.updates for pair in study.pairs),
    }
    return [
        Group(
            stage,
            model,
            arm,
            len(all_),
            len(done),
            # A frozen encoder sees each record about once: some updates' worth.
            cost[model, head] * (15 if ARMS[arm].frozen else updates[stage]),
        )
        for (stage, model, head, arm), (all_, done) in counted.items()
    ]


def _all_runs(study: Study, score: Score) -> Iterable[tuple[RunSpec, bool]]:
    for cell in study.cells():
        resolved = resolve(study, cell, score)
        yield resolved.run or cell, bool(resolved.run and score(resolved.run) is not None)
        tuned = (
            replace(cell, source_learning_rate=resolved.run.source_learning_rate)
            if (resolved.run)
            else cell
        )
        if len(study.learning_rates) > 1:
            for run in (*study.candidates(tuned), *study.source_candidates(cell)):
                yield run, score(run) is not None
        if pretraining := tuned.pretraining():
            yield pretraining, score(pretraining) is not None


def _seconds_per_update(model_name: str, head: str, study: Study, updates: int = 3) -> float:
    from ecgnb.models import MODELS

    device = choose_device()
    precision = choose_precision("auto", device, MODELS[model_name].half_precision_on_cpu)
    samples = study.data.samples
    model = build_model(model_name, head, 20, samples, seed=0).to(device)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(-500, 500, (study.batch_size, 12, samples), generator=generator)
    labels = (torch.rand((study.batch_size, 20), generator=generator) > 0.5).float()
    data = Data(inputs.to(torch.int16).to(device), labels.to(device))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit(model, data, data, Schedule(1e-3, 1, study.batch_size, 1, 0), precision=precision)
        started = time.perf_counter()
        fit(model, data, data, Schedule(1e-3, updates, study.batch_size, 1, 0), precision=precision)
        return (time.perf_counter() - started) / updates
    finally:
        torch.set_num_threads(threads)


def size_label(size: int) -> str:
    """Write a training size; `ALL` as ``all``."""
    return "all" if size == ALL else f"{size:,}"
