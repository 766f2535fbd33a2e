"""Sentences, captions and tables of the chapter on convergence.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters import common
from ecgnb.chapters.common import network, places
from ecgnb.prose import joined
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.statistics import LEVEL, MARGIN
from ecgnb.training.arms import ARMS


def convergence_answer(summary: pd.DataFrame, costs: pd.DataFrame) -> Markdown:
    """State for each network how much sooner fine-tuning is as good as training from scratch."""
    lines = []
    for (model, head), rows in summary.groupby(["model", "head"], sort=False):
        sooner = rows[(rows["p"] < 1 - LEVEL) & (rows["saved"] > 0)]
        later = rows[(rows["p"] < 1 - LEVEL) & (rows["saved"] < 0)]
        lines.append(
            f"**{network(str(model), str(head))}.** Of the updates that training from scratch "
            f"needs for the same level, fine-tuning {_saved(rows)}. It is "
            f"sooner beyond chance at {len(sooner)} of {len(rows)} sizes"
            f"{f', and later at {len(later)}' if len(later) else ''}. "
            + _paid(costs[(costs["model"] == model) & (costs["head"] == head)])
        )
    return Markdown("\n\n".join(lines))


def _saved(rows: pd.DataFrame) -> str:
    """Say at which numbers of training records updates are saved, and at which more are needed."""
    texts = []
    for wanted, verb, rest in ((True, "saves", ""), (False, "needs", " more")):
        chosen = rows[(rows["saved"] >= 0) == wanted]
        shares = zip(chosen["saved"].abs(), chosen["records"], strict=True)
        parts = [f"{share:.0%}{rest} at {records:,}" for share, records in shares]
        if parts:
            texts.append(f"{verb} {joined(parts)}")
    return f"{' and '.join(texts)} training records"


def _paid(costs: pd.DataFrame) -> str:
    targets = costs["targets"].min()
    if np.isinf(targets):
        return "The updates saved never pay for the pre-training."
    return f"At best, the pre-training has paid for itself after {np.ceil(targets):,.0f} targets."


def convergence_table(summary: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Tabulate medians, tests and costs, a row a network and size."""
    return pd.DataFrame(
        {
            "network": [
                network(m, h) for m, h in zip(summary["model"], summary["head"], strict=True)
            ],
            "records": summary["records"].map("{:,}".format),
            "from scratch": summary["scratch"].map(_updates),
            "fine-tuned": summary["other"].map(_updates),
            "seconds": [
                f"{one:.0f} and {other:.0f}"
                for one, other in zip(
                    summary["scratch_seconds"], summary["other_seconds"], strict=True
                )
            ],
            "saved": summary["saved"].map("{:+.0%}".format),
            "never reached": [
                f"{never} of {seeds}"
                for never, seeds in zip(summary["never"], summary["seeds"], strict=True)
            ],
            "log-rank p": summary["p"].map("{:.3f}".format),
            "TFLOP saved a target": (costs["saved_gflop"] / 1e3).map("{:+.1f}".format),
            "TFLOP of pre-training": (costs["pretraining_gflop"] / 1e3).map("{:.1f}".format),
            "targets to break even": costs["targets"].map(
                lambda value: "never" if np.isinf(value) else f"{np.ceil(value):,.0f}"
            ),
        }
    )


def _updates(value: float) -> str:
    return "over half never" if np.isnan(value) else f"{value:.0f}"


def times_text(study: Study, times: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of updates."""
    caption = (
        f"{places(study)}. Updates until the validation AUROC comes within {MARGIN:g} of the best "
        "that training from scratch reaches with the same seed. Lines join medians; open marks are "
        "runs that never do, at their last update."
    )
    groups = times.groupby(["model", "head", "arm", "size"], sort=False)
    medians = groups.agg({"updates": "median", "records": "mean"}).reset_index()
    parts = [
        f"{network(str(row.model), str(row.head))} {ARMS[str(row.arm)].title} at "
        f"{row.records:.0f}: {row.updates:.0f}"
        for row in medians.itertuples()
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
        "The cost counts one pre-training; the search for its learning rate comes on top.",
    ]
    return common.as_list(lines)
