"""Figures of results: gains, learning curves, and how soon networks converge.

Every function returns a `Figure` that pyplot does not know of: nothing is shown by itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from ecgnb.report.ecg_paper import COLOURS, GREY, WIDTH
from ecgnb.training.arms import ARMS

ARM_COLOURS = {
    "scratch": "#d55e00",
    "finetune": "#0072b2",
    "probe-then-finetune": "#009e73",
    "no-network": "#7f7f7f",
}
"""One colour means one thing in the whole book."""

ARM_MARKS = {"scratch": "s", "finetune": "o", "probe-then-finetune": "^", "no-network": "D"}
ARM_LINES = {"scratch": "--", "finetune": "-", "probe-then-finetune": "-.", "no-network": ":"}

NETWORKS = (
    ("#332288", "-", "o"),
    ("#aa4499", "--", "D"),
    ("#997700", "-.", "s"),
    ("#44aa99", ":", "^"),
)
"""Colours, lines and marks of networks beside each other; no colour is that of an arm."""

SIDES = {"source": ("#595959", "D"), "target": ("#b07d00", "o")}
"""Colours and marks of the two hospitals."""

_STYLE: Any = {
    "font.size": 12,  # on a phone 11 pixels high or more
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.parse_math": False,  # a dollar sign in a name from data begins no formula
}


def panel(height: float = 3.4, rows: int = 1, **shared: Any) -> tuple[Figure, Any]:
    """Start a figure in the style of the book, which holds from then on, see `matplotlib.rcParams`.

    It is `height` inches high and as wide as the book, with `rows` of axes one under another;
    `shared` is for `matplotlib.figure.Figure.subplots`.
    """
    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, **shared)


def arm_style(arm: str) -> dict[str, Any]:
    """Return colour, mark and line of an arm, for `matplotlib.axes.Axes.plot`."""
    return {"color": ARM_COLOURS[arm], "marker": ARM_MARKS[arm], "linestyle": ARM_LINES[arm]}


def size_axis(axes: Axes, records: Iterable[float]) -> None:
    """Make the horizontal axis one of numbers of training records, on a logarithmic scale."""
    sizes = sorted({round(size) for size in records})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("ECGs to train on")


def label_ends(axes: Axes, ends: Iterable[tuple[str, float, float, str]]) -> None:
    """Write names at the ends of lines, apart from each other, in the place of a legend.

    `ends` are the name of a line, where it ends, in data, and its colour; the limits of the axes
    are as they shall be.
    """
    axes.get_ylim()  # which are set only when somebody asks
    line, free = 0.035, -np.inf  # half a line's height, and where there is room, of the axes
    for name, x, y, colour in sorted(ends, key=lambda end: end[2]):
        text = textwrap.fill(name, 14)
        half = line * (1 + text.count("\n"))
        height = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]
        middle = max(height, free + half)
        free = middle + half
        spot: dict[str, Any] = {
            "xytext": (9, 0),
            "textcoords": "offset points",
            "annotation_clip": False,
            "xycoords": axes.get_xaxis_transform(),
        }
        axes.annotate(text, (x, middle), color=colour, weight="bold", va="center", **spot)


def label_arms(axes: Axes, ends: pd.DataFrame) -> None:
    """Label the lines of arms; `ends` has a row an arm, the two columns of where its line ends."""
    label_ends(axes, [(ARMS[arm].title, x, y, ARM_COLOURS[arm]) for arm, x, y in ends.itertuples()])


def draw_verdicts(table: pd.DataFrame, words: Sequence[str] = ("helps", "harms")) -> Figure:
    """Draw verdicts as marks in a grid, a row a ``row`` under its ``group``, a column a ``column``.

    Parameters
    ----------
    table : DataFrame
        With ``group`` and ``row``, in order, and ``column``, a number or ``all``, as they shall be
        written; ``mean`` and ``verdict``.
    words : sequence of str
        What a difference above zero is called, and one below.
    """
    columns = sorted(dict.fromkeys(table["column"]), key=lambda one: (one == "all", len(one), one))
    lines: list[tuple[str, str]] = []
    for group, rows in table.groupby("group", sort=False)["row"]:
        lines += [(str(group), text) for text in textwrap.wrap(str(group), 46)]
        lines += [(str(group), row) for row in dict.fromkeys(rows)]
    figure, axes = panel(0.7 + 0.29 * len(lines))
    for one in table.itertuples():
        y = lines.index((str(one.group), str(one.row)))
        colour, mark = _VERDICTS[str(one.verdict)]
        text = f"{mark}{one.mean:+.2f}".replace("0.", ".", 1)
        axes.text(columns.index(one.column), y, text, color=colour, ha="center", va="center")
    names = set(table["row"])
    spot = blended_transform_factory(figure.transFigure, axes.transData)
    for y, (group, text) in enumerate(lines):
        if text not in names:
            axes.text(0.01, y, text, weight="bold", va="center", transform=spot)
        if y and group != lines[y - 1][0]:
            axes.axhline(y - 0.5, color=GREY, linewidth=0.7)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(lines)), [text if text in names else "" for _, text in lines])
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(lines) - 0.5, -0.5))
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    marks = zip((*words, "equivalent", "undecided"), _VERDICTS.values(), strict=True)
    axes.set_xlabel("   ".join(f"{m} {name}" for name, (_, m) in marks), fontsize=11, loc="right")
    return figure


_VERDICTS = {
    "helps": (COLOURS[0], "▲"),
    "harms": (COLOURS[1], "▼"),
    "equivalent": ("0.35", "="),
    "undecided": ("0.35", "?"),
}
