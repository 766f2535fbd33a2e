"""How soon a network is as good as training from scratch gets, and what pre-training costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ecgnb.models.build import forward_gflop
from ecgnb.study.estimate import UPDATE_PASSES
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Cell, Scores, cell_of
from ecgnb.study.statistics import MARGIN


def times_to_target(study: Study, results: Sequence[Result], arm: str = "finetune") -> pd.DataFrame:
    """Find when each run first reaches the target of its cell and seed.

    The target is the best validation AUROC of the run from scratch with the same seed, less the
    margin: so the run from scratch always reaches it, and one of another arm may not. Then its
    time is censored at its last update.

    Returns
    -------
    DataFrame
        One row a run: the fields of `Cell`, ``arm``, ``seed``, ``records``, ``goal``, ``reached``,
        ``updates`` (until then, or all), and ``seconds`` and ``gflop`` of them.
    """
    scores = Scores(study, results)
    rows = []
    for cell in scores.cells:
        scratch, other = scores.of(cell, "scratch"), scores.of(cell, arm)
        if not cell.source:
            continue
        for seed in sorted(scratch.keys() & other.keys()):
            goal = max(scratch[seed].history["validation_auroc"]) - MARGIN
            for run in (scratch[seed], other[seed]):
                rows.append({**asdict(cell), **_time(study, run, goal), "seed": seed})
    return pd.DataFrame(rows)


def _time(study: Study, run: Result, goal: float) -> dict[str, object]:
    history = run.history
    reached = [level >= goal for level in history["validation_auroc"]]
    place = reached.index(True) if any(reached) else len(reached) - 1
    updates = history["update"][place]
    return {
        "arm": run.spec.arm,
        "records": run.facts["train_records"],
        "goal": goal,
        "reached": any(reached),
        "updates": updates,
        "seconds": history["seconds"][-1] * updates / history["update"][-1],
        "gflop": _gflop(study, run, updates),
    }


def _gflop(study: Study, run: Result, updates: float) -> float:
    """Count the operations of some updates, an update as three forward passes."""
    spec = run.spec
    forward = forward_gflop(spec.model, spec.head, len(run.classes), study.data.samples)
    batch = min(spec.batch_size, run.facts["train_records"])
    return UPDATE_PASSES * forward * batch * updates


def summarise_times(times: pd.DataFrame, arm: str = "finetune") -> pd.DataFrame:
    """Compare the times of two arms in each cell.

    Returns
    -------
    DataFrame
        One row a cell: ``scratch`` and ``other``, the median updates until the target (of
        Kaplan & Meier, so that runs which never reach it count as later than all they saw; missing
        where fewer than half reach it), ``scratch_seconds`` and ``other_seconds`` (the mean time
        of that, on one core or on the GPU), ``never`` (how many runs of the other arm do not reach
        it), ``seeds``, ``p`` (log-rank test), and ``saved``, the mean share of the updates from
        scratch that the other arm saves, seed by seed.
    """
    rows = []
    fields = list(Cell.__dataclass_fields__)
    for name, cell in times.groupby(fields, sort=False):
        sides = {one: cell[cell["arm"] == one].set_index("seed") for one in ("scratch", arm)}
        censored = [_censored(side) for side in sides.values()]
        saved = 1 - sides[arm]["updates"] / sides["scratch"]["updates"]
        rows.append(
            {
                **dict(zip(fields, name, strict=True)),
                "records": round(cell["records"].mean()),
                "scratch": _median(censored[0]),
                "other": _median(censored[1]),
                "scratch_seconds": float(sides["scratch"]["seconds"].mean()),
                "other_seconds": float(sides[arm]["seconds"].mean()),
                "never": int((~sides[arm]["reached"]).sum()),
                "seeds": len(sides[arm]),
                "p": float(stats.logrank(*censored).pvalue),
                "saved": float(saved.mean()),
            }
        )
    return pd.DataFrame(rows)


def _censored(times: pd.DataFrame) -> stats.CensoredData:
    return stats.CensoredData.right_censored(times["updates"], ~times["reached"])


def _median(times: stats.CensoredData) -> float:
    survival = stats.ecdf(times).sf
    under = np.flatnonzero(survival.probabilities <= 0.5)
    return float(survival.quantiles[under[0]]) if len(under) else float("nan")


def break_even(study: Study, results: Sequence[Result], times: pd.DataFrame) -> pd.DataFrame:
    """Find for how many targets a pre-training must serve before it has saved what it cost.

    Returns
    -------
    DataFrame
        One row a cell: ``pretraining_gflop``, ``saved_gflop`` (a target, the mean over seeds) and
        ``targets``, infinity where nothing is saved.
    """
    tuned = {cell_of(run.spec): run for run in results if run.spec.arm == "finetune"}
    rows = []
    fields = list(Cell.__dataclass_fields__)
    for name, cell in times.groupby(fields, sort=False):
        known: dict[str, Any] = dict(zip(fields, name, strict=True))
        run = tuned[Cell(**known)]
        cost = _pretraining_gflop(study, run)
        means = cell.groupby("arm")["gflop"].mean()
        saved = float(means["scratch"] - means.drop("scratch").iloc[0])
        targets = cost / saved if saved > 0 else np.inf
        extra = {"pretraining_gflop": cost, "saved_gflop": saved, "targets": targets}
        rows.append({**known, "records": round(cell["records"].mean()), **extra})
    return pd.DataFrame(rows)


def _pretraining_gflop(study: Study, run: Result) -> float:
    spec = run.spec
    forward = forward_gflop(spec.model, spec.head, len(run.classes), study.data.samples)
    return UPDATE_PASSES * forward * spec.batch_size * spec.source_updates
