"""Sentences on the arms beside the two: frozen features, and a last layer that fits first.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import compare_arms
from ecgnb.models import MODELS
from ecgnb.report.wording import joined, signed
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

_ASKED = (
    ("linear-probe", "random-probe", "The linear probe less the random one"),
    ("linear-probe", "scratch", "The linear probe less training from scratch"),
    ("probe-then-finetune", "finetune", "Probed, then fine-tuned, less fine-tuned at once"),
)


def probe_answer(study: Study, results: Sequence[Result]) -> Markdown:
    """State what frozen features are worth, and what a last layer that fits before fine-tuning."""
    tables = [(compare_arms(study, results, one, other), text) for one, other, text in _ASKED]
    lines = []
    for model in dict.fromkeys(result.spec.model for result in results):
        parts = [
            f"{text}: {_span(rows)}; {_tally(rows)}."
            for table, text in tables
            if len(rows := table[table["model"] == model])
        ]
        if parts:
            lines.append(" ".join([f"**{MODELS[model].title}.**", *parts]))
    return Markdown("\n\n".join(lines) or "This study has no arm but the two.")


def _span(rows: pd.DataFrame) -> str:
    texts = [
        f"{signed(row['difference'])} at {row['records']:,}" for row in rows.to_dict("records")
    ]
    return f"{joined(texts)} records"


def _tally(rows: pd.DataFrame) -> str:
    counts = rows["verdict"].value_counts()
    return joined([f"*{name}* at {counts[name]} of {len(rows)} sizes" for name in counts.index])
