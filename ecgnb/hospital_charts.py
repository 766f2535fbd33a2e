"""Figures of networks that change hospital: the matrix, diagnoses, calibration.

Every function returns a `Figure` that pyplot does not know of: nothing is shown by itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from ecgnb.plots import COLOURS, GREY, STYLES, WIDTH
from ecgnb.study.statistics import MARGIN


def draw_matrix(table: pd.DataFrame) -> Figure:
    """Draw differences as a matrix, a row a source, a column a target.

    Parameters
    ----------
    table : DataFrame
        With columns ``source``, ``target`` (as they shall be written), ``difference``, ``low`` and
        ``high``.
    """
    names = list(dict.fromkeys([*table["source"], *table["target"]]))
    wide = table.pivot_table(index="source", columns="target", values="difference")
    wide = wide.reindex(index=names, columns=names)
    marks = table.assign(mark=np.where((table["low"] > 0) | (table["high"] < 0), "*", ""))
    stars = marks.pivot_table(index="source", columns="target", values="mark", aggfunc="first")
    stars = stars.reindex(index=names, columns=names).fillna("")
    side = 0.72 * len(names)
    figure = Figure(figsize=(max(WIDTH, side + 1.6), side + 1.3), layout="constrained")
    axes = figure.subplots()
    reach = max(float(np.nanmax(np.abs(wide.to_numpy()))), MARGIN)
    shown = wide.map("{:+.2f}".format).where(wide.notna(), "") + stars
    seaborn.heatmap(
        wide,
        ax=axes,
        cmap="RdBu",
        vmin=-reach,
        vmax=reach,
        annot=shown.to_numpy(),
        fmt="",
        linewidths=1,
        square=True,
        cbar=False,
    )
    axes.set_xlabel("tested at")
    axes.set_ylabel("trained at")
    axes.set_xticklabels([textwrap.fill(name, 12) for name in names], rotation=40, ha="right")
    axes.set_yticklabels([textwrap.fill(name, 12) for name in names], rotation=0)
    axes.tick_params(length=0)
    return figure


def draw_diagnoses(table: pd.DataFrame, first: str, second: str) -> Figure:
    """Draw differences with intervals, a row a diagnosis.

    Parameters
    ----------
    table : DataFrame
        With columns ``name``, ``difference``, ``low`` and ``high``.
    first, second : str
        What is compared, for the axis.
    """
    rows = table.sort_values("difference")
    figure = Figure(figsize=(WIDTH, 0.32 * len(rows) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-MARGIN, MARGIN, color="0.92", zorder=0)
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    reach = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
    places = np.arange(len(rows))
    axes.errorbar(rows["difference"], places, xerr=reach, fmt="o", color=COLOURS[0], capsize=3)
    axes.set_yticks(places, [textwrap.fill(str(name), 28) for name in rows["name"]])
    axes.set_xlabel(f"difference of AUROC\n({first} less {second})")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_reliability(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how often findings are there by the probability that is said.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        From `ecgnb.study.generalise.reliability`, by what the legend shall say.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, zorder=1)
    for (name, rows), (colour, line, mark) in zip(curves.items(), STYLES, strict=False):
        axes.plot(rows["said"], rows["true"], color=colour, linestyle=line, linewidth=1)
        sizes = 12 + 70 * rows["count"] / rows["count"].max()
        axes.scatter(rows["said"], rows["true"], s=sizes, color=colour, marker=mark, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("probability that is said")
    axes.set_ylabel("share that is true")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False)
    return figure
