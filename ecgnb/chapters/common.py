"""What several chapters say.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.data.catalog import card
from ecgnb.models import MODELS
from ecgnb.study.compare import Cell, Scores, compare_arms
from ecgnb.study.declare import Study
from ecgnb.study.statistics import LEVEL, MARGIN
from ecgnb.study.store import Result


def network(model: str, head: str) -> str:
    """Name a network for a reader."""
    title = MODELS[model].title
    return title if head == "pooled" else f"{title} ({head} head)"


def named(models: pd.Series, heads: pd.Series) -> list[str]:
    """Name the networks of a table."""
    return [network(model, head) for model, head in zip(models, heads, strict=True)]


def main_pair(study: Study, results: Sequence[Result]) -> list[Result]:
    """Return the runs on the first source and target of a study."""
    first = study.pairs[0]
    sources = ("", first.source.dataset)
    return [
        run
        for run in results
        if run.spec.dataset == first.target.dataset and run.spec.source in sources
    ]


def places(study: Study) -> str:
    """Name the first source and target of a study."""
    first = study.pairs[0]
    return f"{card(first.source.dataset).short_title} to {card(first.target.dataset).short_title}"


def gains_text(study: Study, comparison: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of gains by head."""
    seeds = comparison["seeds"]
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    caption = (
        f"{places(study)}. Macro AUROC of the fine-tuned network less that of the network trained "
        f"from scratch, with {LEVEL:.0%} intervals ({count} seeds; "
        f"{comparison['tested'].max():,} test records in all). The band is the margin of "
        f"±{MARGIN:g}, inside which a difference does not matter."
    )
    parts = [
        f"{network(row['model'], row['head'])} at {row['records']}: {row['difference']:+.3f}, "
        f"{row['low']:+.3f} to {row['high']:+.3f}"
        for row in comparison.to_dict("records")
    ]
    return caption, f"Gain from fine-tuning. {'; '.join(parts)}."


def as_list(lines: Sequence[str]) -> Markdown:
    """Show sentences as a list."""
    return Markdown("\n".join(f"- {line}" for line in lines if line))


def limits(study: Study, results: Sequence[Result]) -> list[str]:
    """Say what no comparison on the first pair of a study can tell."""
    target = card(study.pairs[0].target.dataset)
    seeds = {run.spec.seed for run in results}
    simulated = "These ECGs are simulated: the page shows the method at work, not patients."
    return [
        f"One source and one target, {places(study)}, and {len(seeds)} seeds.",
        simulated if target.simulated else "",
        ""
        if target.patients_known
        else f"{target.short_title} does not say which records share a patient.",
    ]


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
