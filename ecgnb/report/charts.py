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
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from ecgnb.analysis.curves import Worth
from ecgnb.analysis.statistics import MARGIN
from ecgnb.models import MODELS
from ecgnb.report.ecg_paper import COLOURS, GREY, STYLES, WIDTH
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

_STYLE: Any = {
    "font.size": 12,  # on a phone 11 pixels high or more
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def panel(height: float = 3.4, rows: int = 1, **shared: Any) -> tuple[Figure, Any]:
    """Start a figure in the style of the book, which holds from then on, see `matplotlib.rcParams`.

    Parameters
    ----------
    height : float
        Inches; the width is that of the book.
    rows : int
        Panels one under another.
    **shared
        For `matplotlib.figure.Figure.subplots`.

    Returns
    -------
    Figure, and Axes or an array of them
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

    Parameters
    ----------
    axes : Axes
        With its limits as they shall be.
    ends : iterable of (str, float, float, str)
        The name of a line, where it ends, in data, and its colour.
    """
    low, high = axes.get_ylim()
    line, free = 0.035 * (high - low), -np.inf
    for name, x, y, colour in sorted(ends, key=lambda end: end[2]):
        text = textwrap.fill(name, 14)
        half = line * (1 + text.count("\n"))
        middle = max(y, free + half)
        free = middle + half
        spot: dict[str, Any] = {
            "xytext": (9, 0),
            "textcoords": "offset points",
            "annotation_clip": False,
        }
        axes.annotate(text, (x, middle), color=colour, weight="bold", va="center", **spot)


def label_arms(axes: Axes, ends: pd.DataFrame) -> None:
    """Label the lines of arms; `ends` has a row an arm, the two columns of where its line ends."""
    label_ends(axes, [(ARMS[arm].title, x, y, ARM_COLOURS[arm]) for arm, x, y in ends.itertuples()])


def draw_verdicts(table: pd.DataFrame) -> Figure:
    """Draw verdicts as marks in a grid, a row a ``row`` under its ``group``, a column a ``column``.

    Parameters
    ----------
    table : DataFrame
        With ``group`` and ``row``, in order, and ``column``, a number or ``all``, as they shall be
        written; ``mean`` and ``verdict``.
    """
    columns = sorted(dict.fromkeys(table["column"]), key=lambda one: (one == "all", len(one), one))
    lines: list[tuple[str, str]] = []
    for group, rows in table.groupby("group", sort=False)["row"]:
        lines += [(str(group), ""), *((str(group), row) for row in dict.fromkeys(rows))]
    figure, axes = panel(0.7 + 0.29 * len(lines))
    for one in table.itertuples():
        y = lines.index((str(one.group), str(one.row)))
        colour, mark = _VERDICTS[str(one.verdict)]
        text = f"{mark}{one.mean:+.2f}".replace("0.", ".", 1)
        axes.text(columns.index(one.column), y, text, color=colour, ha="center", va="center")
    for y, (group, row) in enumerate(lines):
        if not row:
            spot = axes.get_yaxis_transform()
            axes.text(-0.3, y, group, weight="bold", va="center", transform=spot)
            axes.axhline(y - 0.5, color=GREY, linewidth=0.7)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(lines)), [row for _, row in lines])
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(lines) - 0.5, -0.5))
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    key = [f"{mark} {name}" for name, (_, mark) in _VERDICTS.items()]
    axes.set_xlabel("   ".join(key), fontsize=11)
    return figure


_VERDICTS = {
    "helps": (COLOURS[0], "▲"),
    "harms": (COLOURS[1], "▼"),
    "equivalent": ("0.35", "="),
    "undecided": ("0.35", "?"),
}


def draw_gain(comparison: pd.DataFrame) -> Figure:
    """Draw differences between two arms, with intervals, over the number of training records.

    Parameters
    ----------
    comparison : DataFrame
        From `ecgnb.analysis.compare.compare_arms`, one head.
    """
    models = list(dict.fromkeys(comparison["model"]))
    figure = Figure(figsize=(WIDTH, 3.6 + 0.25 * (len(models) > 3)), layout="constrained")
    axes = figure.subplots()
    _margin_band(axes)
    for place, (model, style) in enumerate(zip(models, STYLES, strict=False)):
        rows = comparison[comparison["model"] == model]
        bars = _errorbars(axes, rows, style, _beside(place, len(models)))
        bars.set_label(MODELS[model].title)
    axes.set_ylabel("gain in macro AUROC\n(fine-tuned less from scratch)")
    _size_axis(axes, comparison["records"])
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


def draw_size_curves(metrics: pd.DataFrame) -> Figure:
    """Draw the macro AUROC of every arm over the number of training records, a panel a model.

    Parameters
    ----------
    metrics : DataFrame
        One row a run, with columns ``model``, ``arm``, ``records``, ``seed`` and ``auroc``.
        Lines are means over seeds, dots single runs.
    """
    models = list(dict.fromkeys(metrics["model"]))
    figure, panels = _panels(len(models), 2.8)
    arms = [arm for arm in ARMS if arm in set(metrics["arm"])]
    palette = {ARMS[arm].title: colour for arm, colour in zip(arms, COLOURS, strict=False)}
    named = metrics.assign(arm=metrics["arm"].map(lambda arm: ARMS[arm].title))
    for axes, model in zip(panels, models, strict=True):
        shown = {
            "data": named[named["model"] == model],
            "x": "records",
            "y": "auroc",
            "hue": "arm",
            "palette": palette,
            "hue_order": list(palette),
            "ax": axes,
        }
        styles = {"style": "arm", "style_order": list(palette), "markers": True}
        seaborn.lineplot(**shown, **styles, errorbar=None)
        handles, labels = axes.get_legend_handles_labels()
        seaborn.scatterplot(**shown, s=9, alpha=0.5, legend=False)
        axes.legend().remove()  # one for all panels stands above them
        axes.set_title(MODELS[model].title, loc="left", fontsize=11)
        axes.set_ylabel("macro AUROC")
        _size_axis(axes, metrics["records"])
    _label_outer(panels)
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    return figure


def _size_axis(axes: Axes, records: pd.Series) -> None:
    sizes = sorted(set(records))
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training records of the target")
    axes.spines[["top", "right"]].set_visible(False)


def draw_worth(found: Sequence[Worth]) -> Figure:
    """Draw how many times as many records training from scratch needs, with intervals.

    Parameters
    ----------
    found : sequence of Worth
        From `ecgnb.analysis.curves.worth`, one target. What takes more records than there are is
        drawn at the line of the largest training set, under an arrow.
    """
    figure = Figure(figsize=(WIDTH, 3.2 + 0.08 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1, color=GREY, linewidth=1, zorder=1)
    for place, (one, (colour, line, mark)) in enumerate(zip(found, STYLES, strict=False)):
        records = one.records * _beside(place, len(found))
        value, low, high = np.minimum(one.multiples, one.most)
        (drawn,) = axes.plot(records, value, color=colour, linestyle=line, marker=mark)
        drawn.set_label(_title(one.model, one.head))
        axes.vlines(records, low, high, color=colour)
        over = one.multiples[2] > one.most
        axes.plot(records[over], 1.15 * one.most[over], "^", color=colour)
    axes.plot(found[0].records, found[0].most, ":", color=GREY, zorder=1, label="all records")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [tick for tick in 2.0 ** np.arange(-3, 8) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_ylabel("records that training from scratch\nneeds for the same error")
    _size_axis(axes, pd.Series(found[0].records.round().astype(int)))
    axes.minorticks_off()
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


def draw_heads(comparison: pd.DataFrame) -> Figure:
    """Draw the gains of all networks, a panel a head, so that only the head differs.

    Parameters
    ----------
    comparison : DataFrame
        From `ecgnb.analysis.compare.compare_arms`, one source and target.
    """
    heads = list(dict.fromkeys(comparison["head"]))
    figure, panels = _panels(len(heads), 2.9)
    models = list(dict.fromkeys(comparison["model"]))
    for axes, head in zip(panels, heads, strict=True):
        _margin_band(axes)
        for place, (model, style) in enumerate(zip(models, STYLES, strict=False)):
            rows = comparison[(comparison["model"] == model) & (comparison["head"] == head)]
            if len(rows):
                bars = _errorbars(axes, rows, style, _beside(place, len(models)))
                bars.set_label(MODELS[model].title)
        axes.set_title(f"{head} head", loc="left", fontsize=11)
        axes.set_ylabel("gain in macro AUROC")
        _size_axis(axes, comparison["records"])
    _label_outer(panels)
    shown = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    _legend(figure, [*shown.values()], [*shown])
    return figure


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Put a legend over the panels, its rows about as long as one another."""
    columns = int(np.ceil(len(labels) / np.ceil(len(labels) / 3)))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)


def _beside(place: int, count: int) -> float:
    """Return a factor on a logarithmic axis that puts things side by side around their place."""
    step = min(0.04, 0.16 / max(count - 1, 1))  # no wider than a third of the way to twice as many
    return float(np.exp(step * (2 * place - count + 1)))


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make panels with axes in common: one under another, and more than three in two columns."""
    columns = 1 if count <= 3 else 2
    rows = int(np.ceil(count / columns))
    figure = Figure(figsize=(WIDTH, height * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.remove()
    return figure, list(panels[:count])


def _label_outer(panels: Sequence[Axes]) -> None:
    """Keep the labels of an axis at the left, and where there is no panel below."""
    label = panels[0].get_xlabel()
    for axes in panels:
        axes.label_outer()
    for axes in panels[-2:] if len(panels) > 3 else panels[-1:]:
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_xlabel(label)


def _errorbars(
    axes: Axes,
    rows: pd.DataFrame,
    style: tuple[str, str, str],
    spread: float,
    value: str = "difference",
) -> ErrorbarContainer:
    colour, line, mark = style
    rows = rows.sort_values("records").replace([-np.inf, np.inf], np.nan)  # one seed: no interval
    return axes.errorbar(
        rows["records"] * spread,  # side by side, so that no interval hides another
        rows[value],
        yerr=[rows[value] - rows["low"], rows["high"] - rows[value]],
        color=colour,
        linestyle=line,
        marker=mark,
        capsize=3,
    )


def _title(model: str, head: str) -> str:
    title = MODELS[model].title
    return title if head == "pooled" else f"{title}, {head} head"


def _margin_band(axes: Axes) -> None:
    axes.axhspan(-MARGIN, MARGIN, color="0.92", zorder=0)
    axes.axhline(0, color=GREY, linewidth=1, zorder=1)
