"""What several chapters say.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import cell_of
from ecgnb.analysis.statistics import LEVEL, MARGIN
from ecgnb.data.catalog import card
from ecgnb.models import HEADS, MODELS
from ecgnb.report.wording import interval_text, network, seeds_of, signed, spread
from ecgnb.study.data import recorded_runs
from ecgnb.study.declare import load_study, study_names
from ecgnb.study.plan import open_progress
from ecgnb.study.run import run_study
from ecgnb.study.spec import Pair, Side, Study
from ecgnb.study.store import Result


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Order rows as a reader meets them: by head, network and records."""
    order = {"model": list(MODELS).index, "head": HEADS.index}
    columns = [name for name in ("head", "model", "records") if name in table]
    return table.sort_values(
        columns,
        key=lambda column: column.map(order.get(str(column.name), lambda value: value)),
        kind="stable",
    )


def main_pair(study: Study, results: Sequence[Result], head: str = "") -> list[Result]:
    """Return the runs on the first source and target of a study, with one head or with all."""
    first = study.pairs[0]
    sources = ("", first.source.dataset)
    return [
        run
        for run in results
        if run.spec.dataset == first.target.dataset
        and run.spec.source in sources
        and head in ("", run.spec.head)
    ]


def companion(study: Study, kind: str) -> tuple[Study, list[Result]]:
    """Return the study beside a study, as ``clinical-paper`` beside ``clinical``, and its runs.

    Those of a recorded study are read, as far as they have been recorded; those of any other are
    trained where they are missing. A study that has no such companion is returned without runs.
    """
    name = f"{study.name}-{kind}"
    if name not in study_names():
        return study, []
    beside = load_study(name)
    if beside.recorded:
        there = recorded_runs(beside).exists()
        return beside, open_progress(beside).finished() if there else []
    return beside, run_study(beside, progress=False)


def other_pairs(study: Study, comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a comparison that are not of the first source and target."""
    first = study.pairs[0]
    main = (comparison["source"] == first.source.dataset) & (
        comparison["target"] == first.target.dataset
    )
    return comparison[~main]


def places(study: Study) -> str:
    """Name the first source and target of a study."""
    first = study.pairs[0]
    return f"{card(first.source.dataset).short_title} to {card(first.target.dataset).short_title}"


def gains_text(study: Study, comparison: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of gains by head."""
    caption = (
        f"{places(study)}. Macro AUROC of the fine-tuned network less that of the network trained "
        f"from scratch, with {LEVEL:.0%} intervals ({seeds_of(comparison)}; "
        f"{comparison['tested'].max():,} test records in all). The band is the margin of "
        f"±{MARGIN:g}, inside which a difference does not matter."
    )
    parts = [
        f"{network(row['model'], row['head'])} at {row['records']}: {signed(row['difference'])}, "
        f"{interval_text(row['low'], row['high'])}"
        for row in comparison.to_dict("records")
    ]
    return caption, f"Gain from fine-tuning. {'; '.join(parts)}."


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
