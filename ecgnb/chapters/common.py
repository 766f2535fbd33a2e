"""What several chapters say.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import cell_of
from ecgnb.data.catalog import card
from ecgnb.report.wording import spread
from ecgnb.study.spec import Pair, Side, Study
from ecgnb.study.store import Result


def places(study: Study) -> str:
    """Name the first source and target of a study."""
    first = study.pairs[0]
    return f"{card(first.source.dataset).short_title} to {card(first.target.dataset).short_title}"


def by_target(pairs: Sequence[Pair]) -> list[tuple[list[Side], Pair]]:
    """Put pairs together that differ in their source alone, with all their sources."""
    found: dict[Pair, list[Side]] = {}
    for pair in pairs:
        alike = replace(pair, source=pair.target)
        found.setdefault(alike, []).append(pair.source)
    return [
        (list(dict.fromkeys(sides)), replace(pair, source=sides[0]))
        for pair, sides in found.items()
    ]


def as_list(lines: Sequence[str]) -> Markdown:
    """Show sentences as a list."""
    return Markdown("\n".join(f"- {line}" for line in lines if line))


def limits(study: Study, results: Sequence[Result]) -> list[str]:
    """Say what no comparison on the first pair of a study can tell."""
    target = card(study.pairs[0].target.dataset)
    runs = pd.DataFrame([(*astuple(cell_of(run.spec)), run.spec.arm) for run in results])
    seeds = spread(runs.value_counts().tolist())
    simulated = "These ECGs are simulated: the page shows the method at work, not patients."
    return [
        f"One source and one target, {places(study)}, and {seeds} seeds.",
        simulated if target.simulated else "",
        ""
        if target.patients_known
        else f"{target.short_title} does not say which records share a patient.",
    ]
