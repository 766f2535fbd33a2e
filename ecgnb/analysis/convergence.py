"""How soon a network is as good as training from scratch gets, and what pre-training costs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ecgnb.analysis.compare import FROM, NET, full_rounds, pair, runs_table
from ecgnb.analysis.statistics import LEVEL, MARGIN, holm
from ecgnb.errors import UserError
from ecgnb.models.build import forward_gflop
from ecgnb.study.plan import UPDATE_PASSES
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

_FIELDS = [*FROM, "target", "label_set", "min_positives", "size", "budget", *NET]
_SAME = [name for name in _FIELDS if name not in FROM]


def times_to_target(study: Study, results: Sequence[Result], arm: str = "finetune") -> pd.DataFrame:
    """Find when each run first reaches the level that training from scratch reaches on average.

    A run of either arm may never reach it. Then its time is censored at its last update, which is
    the same for all runs of a cell.

    One row a run: what `ecgnb.analysis.compare.CELL` names, with ``budget`` for all of its updates;
    ``arm``, ``seed``, ``fold`` (seeds with the same one share their patients), ``records``,
    ``goal``, ``reached``, ``updates`` (until then, or all), ``step`` (updates between two looks),
    ``seconds`` and ``gflop`` of the updates, and ``pretraining_gflop``. Raises a UserError if no
    cell has both arms with seeds of two fifths: on one, nothing can be tested.
    """
    runs = runs_table(study, results, metric=None).assign(budget=lambda one: one["updates"])
    paired = pair(runs[runs["arm"] == arm], runs[runs["arm"] == "scratch"], _SAME)
    rows = []
    for _, cell in paired.groupby(_FIELDS, sort=False):
        cell = full_rounds(cell)
        if cell["fold"].nunique() < 2:
            continue
        goals = _goals(cell)
        for pairing in cell.to_dict("records"):
            told = {key: pairing[key] for key in (*_FIELDS, "seed", "fold", "records")}
            told["goal"] = goals[pairing["seed"]]
            rows += [
                {**told, **_time(study, run, told["goal"])}
                for run in (pairing["run_other"], pairing["run"])
            ]
    if not rows:
        raise UserError(
            f"Times are compared with those of other patients: study {study.name} needs the arms "
            f"scratch and {arm}, and at least 2 seeds that test on different ones, such as 0 and 1."
        )
    return pd.DataFrame(rows)


def _goals(paired: pd.DataFrame) -> dict[int, float]:
    """Return the level to reach with each seed, in favour of neither arm.

    It is the best validation AUROC from scratch, averaged over the other seeds, less the margin.
    Were it that of the same seed, the run from scratch would always reach it, and an equal one
    often not. As some patients are easier than others, the level of a fifth is moved by how far
    the best of both arms there is from that of all fifths.
    """
    sides = (paired["run_other"], paired["run"])
    best = pd.DataFrame(
        [[max(run.history["validation_auroc"]) for run in side] for side in sides],
        columns=paired["seed"],
    ).T
    others = (best[0].sum() - best[0]) / (len(best) - 1)
    both = best.mean(axis=1)
    easier = both.groupby(paired.set_index("seed")["fold"]).transform("mean") - both.mean()
    return dict(others + easier - MARGIN)


def _time(study: Study, run: Result, goal: float) -> dict[str, object]:
    history, spec = run.history, run.spec
    reached = [level >= goal for level in history["validation_auroc"]]
    place = reached.index(True) if any(reached) else len(reached) - 1
    updates, last = history["update"][place], history["update"][-1]
    forward = forward_gflop(spec.model, spec.head, len(run.classes), study.data.samples)
    record = UPDATE_PASSES * forward
    return {
        "arm": spec.arm,
        "reached": any(reached),
        "updates": updates,
        "step": last / len(reached),
        "seconds": history["seconds"][-1] * updates / last,
        "gflop": record * min(spec.batch_size, run.facts["train_records"]) * updates,
        "pretraining_gflop": record * spec.batch_size * spec.source_updates,
    }


def summarise_times(times: pd.DataFrame, arm: str = "finetune") -> pd.DataFrame:
    """Compare the times of two arms in each cell.

    A run that never reaches the level counts in the means with its last update: they are restricted
    mean times, up to the end of the training. In the medians it counts as later than all that was
    seen.

    One row a cell: ``scratch_median`` and ``other_median``, see `median_time`; ``scratch_mean`` and
    ``other_mean``, the restricted means of the updates; ``saved``, one less their ratio; ``low``
    and ``high``, the interval of their difference in updates, and ``p``, that there is none;
    ``p_holm``, the same after Holm's correction over all rows; ``scratch_never`` and
    ``other_never``, how many runs never reach the level; ``scratch_seconds`` and ``other_seconds``,
    the restricted means of the time, on one core or on the GPU; ``records`` and ``seeds``.
    """
    rows = []
    for name, cell in times.groupby(_FIELDS, sort=False):
        row: dict[str, Any] = dict(zip(_FIELDS, name, strict=True))
        for side, one in (("scratch", "scratch"), ("other", arm)):
            runs = cell[cell["arm"] == one]
            row[f"{side}_median"] = median_time(runs)
            row[f"{side}_mean"] = float(runs["updates"].mean())
            row[f"{side}_seconds"] = float(runs["seconds"].mean())
            row[f"{side}_never"] = int((~runs["reached"]).sum())
        row["saved"] = 1 - row["other_mean"] / row["scratch_mean"]
        row["low"], row["high"], row["p"] = _difference(cell, arm)
        row["records"], row["seeds"] = round(cell["records"].mean()), cell["seed"].nunique()
        rows.append(row)
    summary = pd.DataFrame(rows)
    return summary.assign(p_holm=holm(summary["p"]))


def _difference(cell: pd.DataFrame, arm: str) -> tuple[float, float, float]:
    """Return the interval of the updates saved, and the p value that none are.

    By Student's t over the means of the fifths: what seeds of one fifth have in common, their
    patients, is not counted twice.
    """
    means = cell.pivot_table(index="fold", columns="arm", values="updates")
    saved = means["scratch"] - means[arm]
    # Both times are known to a look: where all differences are alike by chance, that is the error.
    rounding = cell["step"].mean() * np.sqrt(2 / 12 / cell["seed"].nunique())
    error = max(saved.std() / np.sqrt(len(saved)), rounding)
    chance = stats.t(len(saved) - 1, scale=error)
    reach = chance.ppf((1 + LEVEL) / 2)
    mean = saved.mean()
    return float(mean - reach), float(mean + reach), float(2 * chance.sf(abs(mean)))


def median_time(runs: pd.DataFrame) -> float:
    """Return the median updates of Kaplan & Meier; missing where over half never reach it."""
    times = stats.CensoredData.right_censored(runs["updates"], ~runs["reached"])
    survival = stats.ecdf(times).sf
    # A product of shares: where it is one half, it may be a little more.
    under = np.flatnonzero(survival.probabilities <= 0.5 + 1e-9)
    return float(survival.quantiles[under[0]]) if len(under) else float("nan")


def break_even(times: pd.DataFrame, arm: str = "finetune") -> pd.DataFrame:
    """Find for how many targets a pre-training must serve before it has saved what it cost.

    What is saved is a difference of restricted means, see `summarise_times`. One row a cell:
    ``pretraining_gflop``, ``saved_gflop`` (a target, the mean over seeds), and ``targets`` with
    ``fewest`` and ``most``, the ends of their interval; infinity where nothing is saved.
    """
    rows = []
    for name, cell in times.groupby(_FIELDS, sort=False):
        known: dict[str, Any] = dict(zip(_FIELDS, name, strict=True))
        cost = cell["pretraining_gflop"].max()
        means = cell.groupby("arm")["gflop"].mean()
        saved = float(means["scratch"] - means[arm])
        low, high, _ = _difference(cell, arm)
        each = cell["gflop"].sum() / cell["updates"].sum()
        ends = {"targets": saved, "fewest": each * high, "most": each * low}
        targets = {name: cost / gain if gain > 0 else np.inf for name, gain in ends.items()}
        extra = {"pretraining_gflop": cost, "saved_gflop": saved, **targets}
        rows.append({**known, "records": round(cell["records"].mean()), **extra})
    return pd.DataFrame(rows)
