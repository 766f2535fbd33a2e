"""Sentences, captions and tables of the chapter on convergence.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.convergence import median_time
from ecgnb.analysis.statistics import LEVEL, MARGIN
from ecgnb.chapters import common
from ecgnb.chapters.common import places
from ecgnb.report.wording import joined, named, network, p_text, spread
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS


def convergence_answer(summary: pd.DataFrame, costs: pd.DataFrame) -> Markdown:
    """State for which networks fine-tuning is sooner as good, what it saves, and what it costs."""
    groups = summary.groupby(["model", "head"], sort=False)
    saved = [f"{_saved(rows)} for {network(str(m), str(h))}" for (m, h), rows in groups]
    bills = costs.groupby(["model", "head"], sort=False)
    paid = [_paid(network(str(m), str(h)), rows) for (m, h), rows in bills]
    return Markdown(
        f"{_verdicts(summary)} The level to reach is the macro AUROC on validation that "
        f"training from scratch has at its best, on average over seeds, less {MARGIN:g}. *Yes* "
        f"means beyond chance, after Holm's correction for all {len(summary)} comparisons.\n\n"
        f"**Updates.** To that level fine-tuning takes on average {joined(saved)} than training "
        "from scratch, depending on the number of training records.\n\n"
        "**Cost.** By these means, the pre-training has paid for itself after so many targets: "
        f"{'; '.join(paid)}. *Perhaps never* is said where the interval of what is saved includes "
        "zero."
    )


def _verdicts(summary: pd.DataFrame) -> str:
    """Answer yes or no, with the networks and sizes that it holds for."""
    names = pd.Series(named(summary["model"], summary["head"]), index=summary.index)
    beyond = summary["p_holm"] < 1 - LEVEL
    texts = []
    for word, wanted in (("yes", summary["saved"] > 0), ("later", summary["saved"] < 0)):
        sizes = summary["records"][beyond & wanted].map("{:,}".format).groupby(names, sort=False)
        found = [f"for {name} at {joined(list(some))}" for name, some in sizes]
        texts += [f"**{word}** {joined(found)} training records"] if found else []
    shown = set(names[beyond])
    never = [name for name in names.unique() if name not in shown]
    rest = ["at the other sizes"] if (~beyond & names.isin(shown)).any() else []
    rest += [f"for {joined(never)}"] if never else []
    texts += [f"**not shown** {', nor '.join(rest)}"] if rest else []
    text = "; ".join(texts)
    return f"**{text[2].upper()}{text[3:]}."


def _saved(rows: pd.DataFrame) -> str:
    """Say how many updates fewer or more are needed, from the least that is saved to the most."""
    least, most = rows["saved"].min(), rows["saved"].max()
    ends = [f"{abs(least):.0%}{' more' if least < 0 <= most else ''}", f"{abs(most):.0%}"]
    if most < 0:
        ends.reverse()
    return f"{' to '.join(dict.fromkeys(ends))} {'more' if most < 0 else 'fewer'}"


def _paid(name: str, costs: pd.DataFrame) -> str:
    """Say after how many targets a pre-training has saved what it cost, over the sizes."""
    never = np.isinf(costs["targets"])
    if never.all():
        return f"never for {name}"
    targets = spread(np.ceil(costs.loc[~never, "targets"]).astype(int).tolist())
    unsure = np.isinf(costs["most"]) & ~never
    where = {"never": never, "perhaps never": unsure}
    parts = [
        f"{word} with {joined(list(costs.loc[rows, 'records'].map('{:,}'.format)))}"
        for word, rows in where.items()
        if rows.any()
    ]
    return f"{targets} for {name}{f' ({joined(parts)})' if parts else ''}"


def convergence_table(summary: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Tabulate times, tests and costs, a row a network and size."""

    def both(name: str, value: str, write: Callable[[Any], str]) -> dict[str, pd.Series]:
        sides = {"scratch": "from scratch", "other": "fine-tuned"}
        return {
            f"{name}, {title}": summary[f"{side}_{value}"].map(write)
            for side, title in sides.items()
        }

    interval = [
        f"{low:.0f} to {high:.0f}"
        for low, high in zip(summary["low"], summary["high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "network": named(summary["model"], summary["head"]),
            "records": summary["records"].map("{:,}".format),
            "seeds": summary["seeds"],
            **both("median updates", "median", _updates),
            **both("never reached", "never", str),
            **both("mean updates", "mean", "{:.0f}".format),
            "saved (means)": summary["saved"].map("{:+.0%}".format),
            "updates saved, interval": interval,
            "p (Holm)": summary["p_holm"].map(p_text),
            **both("seconds", "seconds", "{:.0f}".format),
            "TFLOP saved a target": (costs["saved_gflop"] / 1e3).map("{:+.1f}".format),
            "TFLOP of pre-training": (costs["pretraining_gflop"] / 1e3).map("{:.1f}".format),
            "targets to break even": costs["targets"].map(_targets),
            "targets, interval": [
                " to ".join(dict.fromkeys([_targets(row["fewest"]), _targets(row["most"])]))
                for row in costs.to_dict("records")
            ],
        }
    )


def _updates(value: float) -> str:
    return "over half never" if np.isnan(value) else f"{value:.0f}"


def _targets(value: float) -> str:
    return "never" if np.isinf(value) else f"{np.ceil(value):,.0f}"


def times_text(study: Study, times: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of updates."""
    caption = (
        f"{places(study)}. Updates until the validation AUROC comes within {MARGIN:g} of the best "
        "that training from scratch reaches on average. Lines and bars are medians, none where "
        "over half of the runs never get there; open marks are such runs, at their last update."
    )
    groups = times.groupby(["model", "head", "arm", "size"], sort=False)
    parts = [
        f"{network(str(model), str(head))} {ARMS[str(arm)].title} at "
        f"{runs['records'].mean():.0f}: {_updates(median_time(runs))}"
        for (model, head, arm, _), runs in groups
    ]
    return caption, f"Median updates. {'; '.join(parts)}."


def limits(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the times cannot tell."""
    looks = study.evaluations
    lines = [
        *common.limits(study, results),
        f"Validation is looked at {looks} times, so a time is known to one part in {looks} of the "
        "training.",
        "The learning rate rises and falls over a fixed number of updates, and each arm has its "
        "own: a shorter schedule might be as good and reach the level sooner.",
        "A run that never reaches the level counts with its last update, which is too early: what "
        "is saved on average is saved up to there.",
        "The test rests on the fifths of the patients, five at most, however many seeds there are. "
        "It finds large savings only: *not shown* does not mean that nothing is saved.",
        "The cost counts one pre-training; the search for its learning rate comes on top.",
    ]
    return common.as_list(lines)
