"""Figures of ECGs and of datasets: ECGs on paper, and what two datasets have in common.

Every function returns a `Figure` that pyplot does not know of: nothing is shown by itself.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgnb.data.records import LEADS

WIDTH = 5.2
"""Inches; a figure of this width can be read on a phone as well as on a page."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Of Okabe and Ito, safe for colour blindness."""

GREY = "#b8b8b8"
"""Of what stands behind the data."""

_INK, _PAPER = "#1a1a1a", "#fffaf9"
_GRIDS = ((1, "#f7dcd9", 0.5), (5, "#eab3ad", 0.7))  # every so many millimetres: colour, width

# ECG paper, in millimetres.
_PER_SECOND, _PER_MILLIVOLT, _PULSE, _MARGIN, _ROW = 25.0, 10.0, 10.0, 5.0, 20.0
_COLUMN_SECONDS, _STRIP_SECONDS = 2.5, 10.0
_STRIP = "II"  # the lead of the rhythm strip
_INCHES = 0.038  # on the screen, for one millimetre of paper

_Piece = tuple[int, float, str, npt.NDArray[np.float64]]  # row, left edge, lead, samples


def draw_ecg(
    signals: npt.ArrayLike, rate: float, *, title: str = "", note: str = "", columns: int = 4
) -> Figure:
    """Draw an ECG as it is printed: 25 mm/s and 10 mm/mV on millimetre paper.

    Twelve leads of 2.5 s each over a rhythm strip of 10 s. The leads of a column are simultaneous,
    and time runs on from column to column; a record that is shorter than the page is drawn once,
    with less of each lead. A small square is 0.04 s by 0.1 mV, and is a square. Rows move apart
    where waves would collide, and names stand over the waves.

    Parameters
    ----------
    signals : array, shape (12, samples)
        In microvolts, leads in the order of `ecgnb.data.records.LEADS`. Each lead is drawn around
        its median; what is longer than 10 s is cut.
    rate : float
        Sampling rate in Hz.
    title, note : str
        Stand above the ECG, and below it behind the scale: how it was recorded and filtered.
    columns : int
        Columns of leads: 4 as in the clinic, 2 for narrow screens, where the strip takes two rows.
    """
    values = np.asarray(signals, dtype=np.float64) * (_PER_MILLIVOLT / 1000.0)
    if values.ndim != 2 or len(values) != len(LEADS) or len(LEADS) % columns:
        raise ValueError(f"cannot draw an array of shape {values.shape} in {columns} columns")
    pieces = _pieces(values - np.median(values, axis=1, keepdims=True), rate, columns)
    up, down = [10.0] * (pieces[-1][0] + 1), [5.0] * (pieces[-1][0] + 1)
    for row, _, name, part in pieces:
        up[row] = max(up[row], float(part.max(initial=0)), _name_height(name, part, rate) + 3)
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
    scale = "   ".join(filter(None, ["25 mm/s   10 mm/mV", note or f"{rate:g} Hz"]))
    axes.text(_MARGIN, 3, scale, fontsize=11, color=_INK)
    axes.text(_MARGIN, height - 6.5, title, fontsize=13, weight="bold", color=_INK)
    return figure


_CALIBRATION = np.array([(0, 2.5, 2.5, 7.5, 7.5, 10), (0, 0, 10, 10, 0, 0)])  # 0.2 s, 1 mV


def _pieces(leads: npt.NDArray[np.float64], rate: float, columns: int) -> list[_Piece]:
    """Cut the leads into what stands where; the rhythm strip comes last."""
    rows, whole = len(LEADS) // columns, leads.shape[1] / rate
    length = columns * _COLUMN_SECONDS

    def cut(name: str, start: float, seconds: float) -> npt.NDArray[np.float64]:
        return leads[LEADS.index(name), round(start * rate) : round((start + seconds) * rate)]

    pieces: list[_Piece] = []
    seconds = min(_COLUMN_SECONDS, whole / columns)
    for number, name in enumerate(LEADS):
        column, row = divmod(number, rows)
        left = column * _COLUMN_SECONDS * _PER_SECOND
        pieces.append((row, left, name, cut(name, column * seconds, seconds)))
    lines = math.ceil(min(_STRIP_SECONDS, whole) / length)
    for line in range(lines):
        start, end = line * length, min((line + 1) * length, _STRIP_SECONDS)
        name = f"{_STRIP}   {start:g}–{min(end, whole):g} s" if lines > 1 else _STRIP
        pieces.append((rows + line, 0.0, name, cut(_STRIP, start, end - start)))
    return pieces


def _name_height(name: str, part: npt.NDArray[np.float64], rate: float) -> float:
    """Return how high a lead's name stands, in millimetres, to be clear of the waves below it."""
    below = part[: round((0.3 + 0.12 * len(name)) * rate)]
    return max(4.0, float(below.max(initial=0)) + 1.5)


def _draw_piece(
    axes: Axes, left: float, level: float, name: str, part: npt.NDArray[np.float64], rate: float
) -> None:
    x = left + np.arange(len(part)) / rate * _PER_SECOND
    axes.plot(x, level + part, color=_INK, linewidth=0.9, solid_joinstyle="round")
    axes.plot([left, left], [level - 2, level + 2], color=_INK, linewidth=0.9)
    height = level + _name_height(name, part, rate)
    axes.text(left + 1.5, height, name, fontsize=13, weight="bold", color=_INK)


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
