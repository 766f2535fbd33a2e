"""Sentences, captions and tables of the chapter on larger training sets.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import Cell, Scores, compare_gains
from ecgnb.analysis.curves import PARAMETERS, Worth
from ecgnb.analysis.statistics import LEVEL, MARGIN
from ecgnb.chapters import common
from ecgnb.chapters.common import places
from ecgnb.report.charts import draw_worth
from ecgnb.report.tables import show
from ecgnb.report.wording import interval_text, joined, named, network, signed, spread, standing
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

_SHRINKS = {"helps": "shrinks", "harms": "grows", "equivalent": "stays"}


def shrinking(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare each network's gain at its smallest training set with that at its largest.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.compare_gains`. ``few`` and ``many`` are the
        training records, ``gain_few`` and ``gain_many`` the gains, all over the shared seeds.
    """
    scores = Scores(study, results)
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in scores.cells:
        if cell.source:
            cells.setdefault((cell.model, cell.head), []).append(cell)
    pairs = [(known[0], known[-1]) for known in cells.values() if len(known) > 1]
    change = compare_gains(study, results, pairs)
    ends = [(pair[0].model, pair[0].head, *_ends(scores, pair)) for pair in pairs]
    columns = ["model", "head", "few", "gain_few", "many", "gain_many"]
    return change.merge(pd.DataFrame(ends, columns=columns), on=["model", "head"])


def _ends(scores: Scores, pair: tuple[Cell, Cell]) -> list[float]:
    """Return training records and mean gain of two cells, over the seeds that both have."""
    sides = [(scores.of(cell, "finetune"), scores.of(cell, "scratch")) for cell in pair]
    seeds = [seed for fifth in scores.shared(*sides[0], *sides[1]) for seed in fifth]
    found: list[float] = []
    for cell, (tuned, scratch) in zip(pair, sides, strict=True):
        gain = scores.contrast([(1.0, {s: tuned[s] for s in seeds}), (-1.0, scratch)])
        found.append(scores.records(cell) if seeds else np.nan)
        found.append(gain.mean if gain else np.nan)
    return found


def shrinking_answer(change: pd.DataFrame, found: Sequence[Worth]) -> Markdown:
    """State for which networks the gain shrinks, what it is worth, and where it stops to matter.

    Parameters
    ----------
    change : DataFrame
        From `shrinking`.
    found : sequence of Worth
    """
    if not len(change):
        return Markdown("No network has been trained at two sizes yet.")
    names = named(change["model"], change["head"])
    lines = [f"{_yes_or_no(change.assign(name=names))} {standing(change, names)}".strip()]
    if found:
        lines.append(f"{_worth_sentence(found)} {_vanishes_sentence(found)}")
    else:
        lines.append(f"No curve is fitted: that takes training sets of {PARAMETERS} sizes.")
    return Markdown("\n\n".join(lines))


def _yes_or_no(change: pd.DataFrame) -> str:
    words = {"helps": "yes", "harms": "no", "equivalent": "no", "undecided": "undecided"}
    parts: list[str] = []
    for verdict, word in words.items():
        rows = change[change["verdict"] == verdict]
        texts = [
            f"{row['name']} ({signed(row['gain_few'])} to {signed(row['gain_many'])})"
            for row in rows.to_dict("records")
        ]
        if texts:
            does = f", whose gain {_SHRINKS[verdict]}" if verdict in _SHRINKS else ""
            parts.append(f"**{word if parts else word.capitalize()}** for {joined(texts)}{does}")
    few, many = (spread(change[side].round().astype(int).tolist()) for side in ("few", "many"))
    return (
        f"{'; '.join(parts)}. In brackets stand the gains with {few} and with {many} training "
        "records, in macro AUROC."
    )


def _worth_sentence(found: Sequence[Worth]) -> str:
    """Say how many times the records pre-training is worth where they are fewest."""
    sizes: dict[str, list[str]] = {}
    for place, one in enumerate(found):
        value, most = one.multiples[0, 0], one.most[0]
        text = f"more than {most:.1f}" if value > most else f"{value:.1f}"
        text += " times as many" if place == 0 else ""
        text += ", all that there are," if value > most else ""
        sizes.setdefault(f"{one.records[0]:,.0f}", []).append(f"{text} for {_name(one)}")
    parts = [f"with {size} training records, {joined(texts)}" for size, texts in sizes.items()]
    return f"By the fitted curves, pre-training is worth, {'; '.join(parts)}."


def _vanishes_sentence(found: Sequence[Worth]) -> str:
    """Say from how many records on the gain does not matter."""
    ends = [one for one in found if not np.isinf(one.vanishes[0])]
    texts = [f"{_records(one.vanishes[0], one)} for {_name(one)}{_missed(one)}" for one in ends]
    never = [_name(one) for one in found if np.isinf(one.vanishes[0])]
    parts = [f"the gain is under {MARGIN:g} from this many on: {joined(texts)}"] if texts else []
    what = "it" if texts else "the gain"
    parts += [f"with all there are, {what} is over {MARGIN:g} for {joined(never)}"] if never else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _name(one: Worth) -> str:
    return network(one.model, one.head)


def shrinking_table(change: pd.DataFrame, found: Sequence[Worth]) -> pd.DataFrame:
    """Tabulate the change of each network's gain, and what the fitted curves say of it."""
    curves = {(one.model, one.head): one for one in found}
    rows = []
    for row in change.to_dict("records"):
        one = curves.get((row["model"], row["head"]))
        rows.append(
            {
                "network": network(row["model"], row["head"]),
                "records": f"{row['few']:,.0f} to {row['many']:,.0f}",
                "gain": f"{signed(row['gain_few'])} to {signed(row['gain_many'])}",
                "change": signed(-row["difference"]),
                f"{LEVEL:.0%} interval": interval_text(-row["high"], -row["low"]),
                "the gain": _SHRINKS.get(row["verdict"], row["verdict"]),
                "seeds": row["seeds"],
                **(_read(one) if one else {}),
            }
        )
    return pd.DataFrame(rows).fillna("")


def _read(one: Worth) -> dict[str, str]:
    """Tabulate what is read from the curves of a network."""
    value, low, high = one.multiples[:, 0]
    end, *ends = (_records(records, one) for records in one.vanishes)
    return {
        "worth at the fewest": _times(value, one.most[0]),
        "interval": _interval(low, high, one.most[0]),
        f"gain under {MARGIN:g} from": end,
        "interval ": " to ".join(dict.fromkeys(ends)),
    }


def _missed(one: Worth) -> str:
    """Say which measured gains are large where the curves say that none is."""
    gains = one.errors[0] - one.errors[1]
    texts = [
        f"{signed(gain)} was measured with {records:,.0f}"
        for gain, records in zip(gains, one.records, strict=True)
        if records >= one.vanishes[0] and gain >= MARGIN
    ]
    return f" (yet {joined(texts)}: the curves miss it)" if texts else ""


def _times(value: float, most: float) -> str:
    return f"more than {most:.1f} times" if value > most else f"{value:.1f} times"


def _interval(low: float, high: float, most: float) -> str:
    if np.isnan(low):
        return "not known with one seed"
    if low > most:
        return f"{_times(low, most)} at both ends"
    return f"{low:.1f} to {_times(high, most)}"


def _records(value: float, one: Worth) -> str:
    if np.isnan(value):
        return "not known with one seed"
    if np.isinf(value):
        return "not reached"
    if value <= one.records.min():
        return f"{one.records.min():,.0f} or fewer"
    return f"{float(f'{value:.2g}'):,.0f}"


def show_worth(study: Study, found: Sequence[Worth]) -> None:
    """Show the multiples, if there are any."""
    if found:
        show(draw_worth(found), *worth_text(study, found))


def worth_text(study: Study, found: Sequence[Worth]) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of multiples."""
    caption = (
        f"{places(study)}. How many times as many records a network trained from scratch needs for "
        f"the error of the fine-tuned one, from the fitted learning curves, with {LEVEL:.0%} "
        "intervals. Over the line at 1, pre-training saves records. The dotted line is the largest "
        "training set; an arrow over it stands for more than all the records that there are."
    )
    parts = [
        f"{network(one.model, one.head)} at {records:,.0f}: {_times(value, most)}"
        for one in found
        for records, value, most in zip(one.records, one.multiples[0], one.most, strict=True)
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
                    "worth": _times(value, one.most[place]),
                    "interval": _interval(low, high, one.most[place]),
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
    points = [len(one.records) for one in found]
    lines = common.limits(study, results)
    if misses:
        lines += [
            f"Each curve has {PARAMETERS} parameters and {spread(points)} "
            f"points; the worst of them misses a mean error by {max(misses):.3f}.",
            "Where a curve has no more points than parameters it can go through all of them, and "
            "nothing checks its form."
            if min(points) <= PARAMETERS
            else "",
            "The intervals hold the chance of test patients and of the training. They take the "
            "form of the curves for granted: where a fit misses, they are too narrow.",
            "Beyond the largest training set a curve is a guess, and no number is read from it.",
        ]
    return common.as_list(lines)
