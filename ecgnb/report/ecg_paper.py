"""Figures of ECGs and of datasets: ECGs on paper, and what two datasets have in common.

Every function returns a `Figure` that pyplot does not know of: nothing is shown by itself.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ecgnb.data.records import LEADS

WIDTH = 5.2
"""Inches; a figure of this width can be read on a phone as well as on a page."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Of Okabe and Ito, safe for colour blindness."""

GREY = "#b8b8b8"
"""Of what stands behind the data."""

# With a line and a mark of its own, each can be told from the others in grey as well.
_LINES, _MARKS = ("-", "--", "-.", ":", "--", "-."), "oDs^vP"
STYLES = tuple(zip(COLOURS, _LINES, _MARKS, strict=True))
_INK, _PAPER = "#1a1a1a", "#fffaf9"
_GRIDS = ((1, "#f7dcd9", 0.5), (5, "#eab3ad", 0.7))  # every so many millimetres: colour, width

# ECG paper, in millimetres.
_PER_SECOND, _PER_MILLIVOLT, _PULSE, _MARGIN, _ROW = 25.0, 10.0, 10.0, 5.0, 20.0
_COLUMN_SECONDS, _STRIP_SECONDS = 2.5, 10.0
_STRIP = "II"  # the lead of the rhythm strip
_INCHES = 0.038  # on the screen, for one millimetre of paper

_Piece = tuple[int, float, str, npt.NDArray[np.float64]]  # row, left edge, lead, samples


def draw_ecg(signals: npt.ArrayLike, rate: float, *, title: str = "", columns: int = 4) -> Figure:
    """Draw an ECG as it is printed: 25 mm/s and 10 mm/mV on millimetre paper.

    Twelve leads of 2.5 s each over a rhythm strip of 10 s. The leads of a column are simultaneous,
    and time runs on from column to column. A small square is 0.04 s by 0.1 mV, and is a square.
    Rows move apart where waves would collide.

    Parameters
    ----------
    signals : array, shape (12, samples)
        In microvolts, leads in the order of `ecgnb.data.records.LEADS`. Each lead is drawn around
        its median; what is longer than 10 s is cut.
    rate : float
        Sampling rate in Hz.
    title : str
        Stands above the ECG.
    columns : int
        Columns of leads: 4 as in the clinic, 2 for narrow screens, where the strip takes two rows.
    """
    values = np.asarray(signals, dtype=np.float64) * (_PER_MILLIVOLT / 1000.0)
    if values.ndim != 2 or len(values) != len(LEADS) or len(LEADS) % columns:
        raise ValueError(f"cannot draw an array of shape {values.shape} in {columns} columns")
    pieces = _pieces(values - np.median(values, axis=1, keepdims=True), rate, columns)
    up, down = [10.0] * (pieces[-1][0] + 1), [5.0] * (pieces[-1][0] + 1)
    for row, _, _, part in pieces:
        up[row] = max(up[row], float(part.max(initial=0)))
        down[row] = max(down[row], float(-part.min(initial=0)))
    gaps = [max(_ROW, 5 * math.ceil((d + u + 2) / 5)) for d, u in zip(down, up[1:], strict=False)]
    below = down[-1] + 2 * _MARGIN
    height = 5 * math.ceil((below + sum(gaps) + up[0] + (3 if title else 1) * _MARGIN) / 5)
    figure, axes = _paper(2 * _MARGIN + _PULSE + columns * _COLUMN_SECONDS * _PER_SECOND, height)
    levels = below + sum(gaps) - np.cumsum([0.0, *gaps])
    for level in levels:
        axes.plot(_MARGIN + _CALIBRATION[0], level + _CALIBRATION[1], color=_INK, linewidth=0.9)
    for row, left, name, part in pieces:
        _draw_piece(axes, _MARGIN + _PULSE + left, levels[row], name, part, rate)
    axes.text(_MARGIN, 3, f"25 mm/s   10 mm/mV   {rate:g} Hz", fontsize=11, color=_INK)
    axes.text(_MARGIN, height - 6.5, title, fontsize=13, weight="bold", color=_INK)
    return figure


_CALIBRATION = np.array([(0, 2.5, 2.5, 7.5, 7.5, 10), (0, 0, 10, 10, 0, 0)])  # 0.2 s, 1 mV


def _pieces(leads: npt.NDArray[np.float64], rate: float, columns: int) -> list[_Piece]:
    """Cut the leads into what stands where; the rhythm strip comes last."""
    rows, length = len(LEADS) // columns, columns * _COLUMN_SECONDS

    def cut(name: str, start: float, seconds: float) -> npt.NDArray[np.float64]:
        return leads[LEADS.index(name), round(start * rate) : round((start + seconds) * rate)]

    pieces: list[_Piece] = []
    for number, name in enumerate(LEADS):
        column, row = divmod(number, rows)
        left = column * _COLUMN_SECONDS
        # A record that is shorter than the page begins again, rather than leave leads empty.
        whole = max(leads.shape[1] / rate // _COLUMN_SECONDS * _COLUMN_SECONDS, _COLUMN_SECONDS)
        pieces.append((row, left * _PER_SECOND, name, cut(name, left % whole, _COLUMN_SECONDS)))
    for line in range(math.ceil(_STRIP_SECONDS / length)):
        seconds = min(length, _STRIP_SECONDS - line * length)
        pieces.append((rows + line, 0.0, _STRIP, cut(_STRIP, line * length, seconds)))
    return pieces


def _draw_piece(
    axes: Axes, left: float, level: float, name: str, part: npt.NDArray[np.float64], rate: float
) -> None:
    x = left + np.arange(len(part)) / rate * _PER_SECOND
    axes.plot(x, level + part, color=_INK, linewidth=0.9, solid_joinstyle="round")
    axes.plot([left, left], [level - 2, level + 2], color=_INK, linewidth=0.9)
    text = axes.text(left + 1.5, level + 6, name, fontsize=12, weight="bold", color=_INK)
    text.set(zorder=1.5, bbox={"facecolor": _PAPER, "alpha": 0.8, "edgecolor": "none", "pad": 0.8})


def _paper(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width * _INCHES, height * _INCHES), facecolor=_PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    # Lines joined by NaN are one path in the picture, where single lines would be hundreds.
    for step, colour, thickness in _GRIDS:
        for end, other, upright in ((width, height, True), (height, width, False)):
            along = np.arange(0, end + 1, step).repeat(3)
            across = np.tile([0, other, np.nan], len(along) // 3)
            x, y = (along, across) if upright else (across, along)
            axes.plot(x, y, color=colour, linewidth=thickness, zorder=1)
    return figure, axes


def draw_ages(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the ages of the women and of the men, as shares of all records of their dataset.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        A table of records by the dataset's name, with the columns ``age`` (years) and ``sex``.
    """
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    edges = np.arange(0, 110, 10)
    for axes, sex, who in zip(panels, ("female", "male"), ("women", "men"), strict=True):
        for (name, table), (colour, line, _) in zip(tables.items(), STYLES, strict=False):
            share = np.histogram(table["age"][table["sex"] == sex], edges)[0] / len(table)
            axes.stairs(share, edges, color=colour, linestyle=line, linewidth=2, label=name)
        axes.set_ylabel(f"{who}\n(share of records)")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set(xlabel="age (years)", xlim=(0, 100))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", frameon=False)
    return figure


def draw_prevalence(shares: Mapping[str, pd.Series]) -> Figure:
    """Draw how common each label of a dataset's own vocabulary is, a panel a dataset.

    Parameters
    ----------
    shares : mapping of str to Series
        Share of records by class, under the dataset's name; the first class stands on top.
    """
    rows = [len(share) + 3 for share in shares.values()]
    figure = Figure(figsize=(WIDTH, 0.5 + 0.19 * sum(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, height_ratios=rows, squeeze=False, sharex=True)[:, 0]
    for axes, (name, share), style in zip(panels, shares.items(), STYLES, strict=False):
        _dots(axes, share.to_frame(), [style])
        axes.set_title(name, loc="left", fontsize=11)
        axes.tick_params(labelbottom=True)
    panels[-1].set_xlabel("share of records (log scale)")
    return figure


def draw_overlap(shares: pd.DataFrame) -> Figure:
    """Draw how common each label of a common vocabulary is in several datasets.

    Parameters
    ----------
    shares : DataFrame
        One row a label, one column a dataset, shares of records; a share of 0 draws no mark.
    """
    figure = Figure(figsize=(WIDTH, 1.1 + 0.3 * len(shares)), layout="constrained")
    axes = figure.subplots()
    _dots(axes, shares, STYLES[: shares.shape[1]])
    axes.set_xlabel("share of records (log scale)")
    figure.legend(loc="outside upper left", frameon=False)
    return figure


def _dots(axes: Axes, shares: pd.DataFrame, styles: Sequence[tuple[str, str, str]]) -> None:
    """Draw one row a label with a dot a column, the first label on top."""
    seen, rows = shares.where(shares > 0), np.arange(len(shares))
    start = seen.min(axis=1) if seen.shape[1] > 1 else np.full(len(seen), 1e-9)
    axes.hlines(rows, start, seen.max(axis=1), color=GREY, linewidth=1.0)
    for name, (colour, _, mark) in zip(seen.columns, styles, strict=True):
        axes.plot(seen[name], rows, mark, color=colour, label=textwrap.fill(str(name), 60))
    names = [textwrap.fill(str(label), 28) for label in shares.index]
    axes.set_yticks(rows, names, linespacing=0.95)
    low = seen.min().min() / 1.5
    ticks = [0.01, 0.03, 0.1, 0.3, 1.0] if low > 0.005 else [0.0001, 0.001, 0.01, 0.1, 1.0]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
    axes.set(xlim=(low, 1.3), ylim=(len(rows) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
