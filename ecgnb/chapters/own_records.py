"""What records of one's own are worth beside a network from elsewhere: sentences and a figure.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ecgnb.analysis.hospitals import beginnings, reached
from ecgnb.analysis.statistics import LEVEL, VERDICTS
from ecgnb.chapters.sources import main_source, short
from ecgnb.data.catalog import JOINT
from ecgnb.report.wording import at_sizes, joined, seeds_of
from ecgnb.study.spec import Study
from ecgnb.study.store import Result


def begun(source: str) -> str:
    """Name a source in a sentence; that of many datasets is all but the target."""
    return "all others" if JOINT in source else short(source)


def way(row: Mapping[Any, Any]) -> str:
    """Name the source and the target of a row."""
    return f"{begun(row['source'])} to {short(row['target'])}"


def levels(study: Study, results: Sequence[Result], target: str) -> pd.DataFrame:
    """Average macro AUROC on one target for every way to begin, for learning curves.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.hospitals.beginnings`, with ``beginning``, as a legend names it.
    """
    heads = {"finetune-whole": ", head kept", "as-is": ", as it came"}
    tuned = {
        run.spec.source
        for run in results
        if run.spec.dataset == target and run.spec.arm == "finetune"
    }
    found = beginnings(study, results, target, tuned)
    names = [
        f"{begun(source)}{heads.get(arm, '')}" if source else "from scratch"
        for source, arm in zip(found["source"], found["arm"], strict=True)
    ]
    return found.assign(beginning=names)


def levels_text(target: str, table: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of learning curves."""
    came = table[table["arm"] == "as-is"]
    caption = (
        f"Macro AUROC on {short(target)} by number of its training records, with {LEVEL:.0%} "
        f"intervals ({seeds_of(table)}), over all diagnoses that can be scored"
    )
    caption += (
        " and that all sources have taught. Level lines: networks used as they came, which have "
        "seen none of its records."
        if len(came)
        else "."
    )
    parts = [
        f"{row['beginning']} at {row['records']}: {row['mean']:.3f}"
        for row in table[table["arm"] != "as-is"].to_dict("records")
    ]
    parts += [f"{row['beginning']}: {row['mean']:.3f}" for row in came.to_dict("records")]
    return caption, f"Learning curves. {'; '.join(parts)}."


def records_answer(
    results: Sequence[Result], table: pd.DataFrame, means: Mapping[str, pd.DataFrame]
) -> str:
    """State what records of one's own are worth, beside a network that came from elsewhere.

    Parameters
    ----------
    results : sequence of Result
    table : DataFrame
        From `ecgnb.chapters.sources.against_scratch`.
    means : mapping of str to DataFrame
        From `levels`, by target.
    """
    lines = []
    for target, reach in means.items():
        source = main_source(results, target)
        parts = [*_made_up(reach, source)]
        rows = table[(table["source"] == source) & (table["target"] == target)]
        for arm, name in (
            ("finetune", "On all diagnoses that can be scored, fine-tuned with a new head"),
            ("finetune-whole", "With its head kept"),
        ):
            if texts := _by_verdict(rows[rows["arm"] == arm].sort_values("records")):
                parts.append(f"{name}, it {texts} records.")
        lines.append(f"- {short(target)}, after {short(source)}. {' '.join(parts)}")
    return "**How many records of one's own make up for it?**\n\n" + "\n".join(lines)


def _made_up(table: pd.DataFrame, source: str) -> Iterator[str]:
    """Say how many records of one's own are worth as much as a network from elsewhere."""
    arms = table[table["source"].isin(["", source])].set_index("arm")
    if not {"as-is", "scratch"} <= set(arms.index):
        return
    came, scratch = arms.loc[["as-is"], "mean"].iloc[0], arms.loc[["scratch"]]
    below, at = reached(scratch, came)
    worth = f"better than one trained from scratch on {below:,}"
    if at is not None:
        worth = f"as good as one trained from scratch on {_between(below, at)}"
    yield (
        "On the diagnoses that all sources compared here have taught, the network as it came "
        f"({came:.3f}) is by the means {worth} records of its own."
    )
    whole = scratch[scratch["whole"]]
    if "finetune" not in arms.index or not len(whole):
        return
    own, count = whole["mean"].iloc[0], whole["records"].iloc[0]
    below, at = reached(arms.loc[["finetune"]], own)
    scratch_on_all = f"one from scratch on all {count:,} ({own:.3f})"
    if at is None:
        yield f"Fine-tuned on {below:,}, it does not reach {scratch_on_all}."
    else:
        yield f"Fine-tuned on {_between(below, at)}, it is as good as {scratch_on_all}."


def _between(below: int, at: int) -> str:
    return f"{below:,} to {at:,}" if below else f"{at:,} or fewer"


def _by_verdict(rows: pd.DataFrame) -> str:
    parts = []
    for verdict in VERDICTS:
        some = rows[rows["verdict"] == verdict]
        if len(some):
            word = "is undecided" if verdict == "undecided" else verdict
            parts.append(f"**{word}** with {joined(at_sizes(some))}")
    return joined(parts) if parts else ""
