"""What the published protocol would have said, and how much it flatters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters.common import network
from ecgnb.study.compare import compare_arms
from ecgnb.study.data import recorded_runs
from ecgnb.study.declare import load_study, study_names
from ecgnb.study.grid import Study
from ecgnb.study.progress import open_progress
from ecgnb.study.result import Result
from ecgnb.study.run import run_study
from ecgnb.study.scores import Cell, Scores
from ecgnb.training.arms import ARMS


def published_view(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the published way of reading would have concluded from the same runs.

    One run of each arm, the first seed; F1 at one half, weighted by prevalence; whichever is
    larger wins.
    """
    by_rule = compare_arms(study, results)
    scores = Scores(study, results)
    rows = []
    for row in by_rule.to_dict("records"):
        cell = Cell(**{name: row[name] for name in Cell.__dataclass_fields__})
        runs = [scores.of(cell, arm) for arm in ("finetune", "scratch")]
        seed = min(runs[0].keys() & runs[1].keys())
        rows.append(runs[0][seed].facts["weighted_f1"] - runs[1][seed].facts["weighted_f1"])
    ahead = np.array(rows) > 0
    verdicts = by_rule["verdict"]
    agree = (ahead & (verdicts == "helps")) | (~ahead & (verdicts == "harms"))
    open_ = verdicts.isin(["undecided", "equivalent"])
    wrong = len(rows) - int(agree.sum()) - int(open_.sum())
    return Markdown(
        f"Read as published (one run of each arm, F1 at one half weighted by prevalence, whichever "
        f"is larger), the same runs say that fine-tuning wins in {int(ahead.sum())} of {len(rows)} "
        f"comparisons. By the rule of this study {int((verdicts == 'helps').sum())} of them "
        f"*help*, {int((verdicts == 'harms').sum())} *harm* and {int(open_.sum())} are "
        f"*equivalent* or *undecided*: a winner was named there by chance, or one that does not "
        f"matter. In {wrong} the published reading names the other arm."
    )


def published_runs(study: Study) -> list[Result]:
    """Return the runs of a study's companion under the published protocol; empty without one."""
    name = f"{study.name}-paper"
    if name not in study_names():
        return []
    companion = load_study(name)
    if companion.recorded:
        there = recorded_runs(companion).exists()
        return open_progress(companion).finished() if there else []
    return run_study(companion, progress=False)


def flattery(results: Sequence[Result]) -> pd.DataFrame:
    """Compare the best F1 over epochs on the test set with that of the epoch best on validation.

    Parameters
    ----------
    results : sequence of Result
        Runs under the published protocol.

    Returns
    -------
    DataFrame
        One row a run: ``model``, ``head``, ``arm``, ``size``, ``records``, ``seed``,
        ``published`` (chosen on the test set), ``honest`` (chosen on validation) and ``last``
        (after the last epoch), all F1 weighted by prevalence on the test set.
    """
    rows = []
    for run in results:
        test, validation = run.history["test_f1"], run.history["validation_f1"]
        rows.append(
            {
                "model": run.spec.model,
                "head": run.spec.head,
                "arm": run.spec.arm,
                "size": run.spec.size,
                "records": run.facts["train_records"],
                "seed": run.spec.seed,
                "published": max(test),
                "honest": test[int(np.argmax(validation))],
                "last": test[-1],
            }
        )
    return pd.DataFrame(rows)


def flattery_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the means over seeds, a row a network, arm and size."""
    groups = found.groupby(["model", "head", "size", "arm"], sort=False)
    means = groups[["records", "published", "honest", "last"]].mean().reset_index()
    means = means.sort_values(["model", "head", "records", "arm"], kind="stable")
    return pd.DataFrame(
        {
            "network": [network(m, h) for m, h in zip(means["model"], means["head"], strict=True)],
            "records": means["records"].map("{:,.0f}".format),
            "arm": means["arm"].map(lambda arm: ARMS[arm].title),
            "best on the test set": means["published"].map("{:.3f}".format),
            "chosen on validation": means["honest"].map("{:.3f}".format),
            "after the last epoch": means["last"].map("{:.3f}".format),
            "flattered by": (means["published"] - means["honest"]).map("{:+.3f}".format),
        }
    )


def flattery_answer(study: Study, found: pd.DataFrame) -> Markdown:
    """State how much the choice on the test set flatters each arm, and what it does to gains."""
    if not len(found):
        return Markdown("The published protocol has not been run on these records yet.")
    extra = (found["published"] - found["honest"]).groupby(found["arm"], sort=False).mean()
    parts = [f"{value:+.3f} {ARMS[str(arm)].title}" for arm, value in extra.items()]
    cells = ["model", "head", "size", "seed"]
    wide = found.pivot_table(index=cells, columns="arm", values=["published", "honest"])
    gains = {
        kind: wide[kind]["finetune"] - wide[kind]["scratch"] for kind in ("published", "honest")
    }
    turned = (np.sign(gains["published"]) != np.sign(gains["honest"])).mean()
    return Markdown(
        f"Trained under the published protocol, each network is reported at the epoch at which the "
        f"test set liked it best. Against the epoch that validation would have chosen, that adds, "
        f"on average over {len(found)} runs, {' and '.join(parts)} to the weighted F1. The mean "
        f"gain from fine-tuning is {gains['published'].mean():+.3f} as published and "
        f"{gains['honest'].mean():+.3f} honestly chosen; in {turned:.0%} of the {len(wide)} "
        "comparisons of single runs the two disagree on which arm is better."
    )
