"""Sentences, captions and tables of the chapter on larger training sets.

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
from ecgnb.study.compare import compare_gains
from ecgnb.study.curves import Worth
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Cell, Scores
from ecgnb.study.statistics import LEVEL, MARGIN


def shrinking(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare each network's gain at its smallest training set with that at its largest."""
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in Scores(study, results).cells:
        if cell.source:
            cells.setdefault((cell.model, cell.head), []).append(cell)
    pairs = []
    for known in cells.values():
        ordered = sorted(known, key=lambda cell: cell.size or np.inf)
        if len(ordered) > 1:
            pairs.append((ordered[0], ordered[-1]))
    return compare_gains(study, results, pairs)


def shrinking_answer(gain: pd.DataFrame, change: pd.DataFrame, found: Sequence[Worth]) -> Markdown:
    """State for each network whether the gain shrinks, and where it stops to matter."""
    curves = {(one.model, one.head): one for one in found}
    lines = []
    for row in change.to_dict("records"):
        model, head = row["model"], row["head"]
        sizes = gain[(gain["model"] == model) & (gain["head"] == head)].sort_values("records")
        first, last = sizes.iloc[0], sizes.iloc[-1]
        word = {"helps": "it **shrinks**", "harms": "it **grows**", "equivalent": "it **stays**"}
        text = (
            f"**{network(model, head)}.** The gain is {first['difference']:+.3f} with "
            f"{first['records']:,} training records and {last['difference']:+.3f} with "
            f"{last['records']:,}; between them it changes by {-row['difference']:+.3f} "
            f"({LEVEL:.0%} interval {-row['high']:+.3f} to {-row['low']:+.3f}): "
            f"{word.get(row['verdict'], 'whether it shrinks is **undecided**')}."
        )
        if (model, head) in curves:
            text += " " + _worth_sentence(curves[model, head])
        lines.append(text)
    return Markdown("\n\n".join(lines))


def _worth_sentence(one: Worth) -> str:
    value, low, high = one.multiples[:, 0]
    text = (
        f"At {one.records[0]:,.0f} records, pre-training is worth {_times(value)} the records "
        f"({_times(low)} to {_times(high)}). "
    )
    end, early, late = one.vanishes
    if np.isinf(end):
        return text + f"The fitted curves do not come within {MARGIN:g} of one another."
    beyond = ", beyond what was tried" if end > one.records.max() else ""
    return text + (
        f"By the fitted curves the gain is under {MARGIN:g} from {_records(end, one)} records "
        f"on{beyond} (interval {_records(early, one)} to {_records(late, one)})."
    )


def _times(value: float) -> str:
    return "more than any number of times" if np.isinf(value) else f"{value:.1f} times"


def _records(value: float, one: Worth) -> str:
    if np.isinf(value):
        return "never"
    if value <= one.records.min():
        return f"{one.records.min():,.0f} or fewer"
    return f"{float(f'{value:.2g}'):,.0f}"


def worth_text(study: Study, found: Sequence[Worth]) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of multiples."""
    caption = (
        f"{places(study)}. How many times as many records a network trained from scratch needs for "
        "the error of the fine-tuned one, from the fitted learning curves, with "
        f"{LEVEL:.0%} intervals of a bootstrap over seeds. Over the line, pre-training saves "
        "records; an arrow stands for more than the axis shows."
    )
    parts = [
        f"{network(one.model, one.head)} at {records:,.0f}: {_times(value)}"
        for one in found
        for records, value in zip(one.records, one.multiples[0], strict=True)
    ]
    return caption, f"Worth of pre-training in records. {'; '.join(parts)}."


def worth_reading_table(found: Sequence[Worth]) -> pd.DataFrame:
    """Tabulate the fitted curves and what pre-training is worth at each size."""
    rows = []
    for one in found:
        for place, records in enumerate(one.records):
            value, low, high = one.multiples[:, place]
            rows.append(
                {
                    "network": network(one.model, one.head),
                    "records": f"{records:,.0f}",
                    "error from scratch": f"{one.errors[0, place]:.3f}",
                    "fitted": f"{float(one.scratch.error(records)):.3f}",
                    "error fine-tuned": f"{one.errors[1, place]:.3f}",
                    "fitted ": f"{float(one.finetune.error(records)):.3f}",
                    "worth": _times(value),
                    "interval": f"{_times(low)} to {_times(high)}",
                }
            )
    return pd.DataFrame(rows)


def limits(study: Study, results: Sequence[Result], found: Sequence[Worth]) -> Markdown:
    """Say what the curves cannot tell."""
    misses = [
        float(np.abs(curve.error(one.records) - errors).max())
        for one in found
        for curve, errors in ((one.scratch, one.errors[0]), (one.finetune, one.errors[1]))
    ]
    sizes = sorted({len(one.records) for one in found})
    lines = common.limits(study, results)
    if misses:
        lines += [
            f"Each curve has three parameters and {joined([str(size) for size in sizes])} points; "
            f"the worst of them misses a mean error by {max(misses):.3f}.",
            "The bootstrap draws seeds and takes their test patients as they are: its intervals "
            "are too narrow where seeds are few.",
            "Beyond the largest training set, a curve is a guess.",
        ]
    return common.as_list(lines)
