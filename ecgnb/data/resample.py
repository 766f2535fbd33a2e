"""Any sampling rate to another, and any length to a window, the same bits on every machine.

Filters run on whole numbers: samples in fixed point, filter taps rounded to integers, and every
sum below 2**53. Float64 adds such numbers exactly, so neither the order of a sum nor the
processor changes a bit, and arrays prepared anywhere carry the same fingerprint.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy import signal

SHORT_RULES = ("pad", "drop")
_SAMPLE_SCALE = 2.0**4  # fixed point: a sixteenth of a microvolt
_TAP_SCALE = 2.0**22
_LARGEST = 2.0**29  # 33 V: the taps of one output sum up to less than 2**23
_MAX_DENOMINATOR = 10_000  # 500.1 Hz to 100 Hz is 1000 / 5001
_RATE_TOLERANCE = 1e-4

Samples = npt.NDArray[np.float64]


def resample(
    values: Samples,
    rate: float,
    target: float,
    *,
    antialias: bool = True,
    longest: int | None = None,
) -> Samples:
    """Bring a record to another sampling rate.

    Parameters
    ----------
    values : ndarray of float64, shape (samples, leads)
        A record in microvolts, without NaN.
    rate, target : float
        Sampling rates before and after, in Hz.
    antialias : bool
        Polyphase filtering with a Kaiser-windowed low-pass at the lower of the two Nyquist
        frequencies (the design of `scipy.signal.resample_poly`). False takes every k-th sample,
        as Nguyen & Do did, and lets higher frequencies alias.
    longest : int, optional
        How many samples to return at most; the same ones as without it, sooner.

    Returns
    -------
    ndarray of float64, shape (samples x target / rate rounded up, leads)
        In microvolts. The ends are continued by their last value, not by zeros.

    Raises
    ------
    ValueError
        If the rates are too far apart.
    """
    ratio = Fraction(target / rate).limit_denominator(_MAX_DENOMINATOR)
    missed = abs(ratio * Fraction(rate) / Fraction(target) - 1) > _RATE_TOLERANCE
    if missed or ratio > _MAX_DENOMINATOR:
        raise ValueError(f"{rate:g} Hz cannot be brought to {target:g} Hz")
    if ratio == 1:
        return values[:longest]
    up, down = ratio.numerator, ratio.denominator
    length = -(-len(values) * up // down)
    length = length if longest is None else min(length, longest)
    if not antialias:
        return values[np.minimum(np.arange(length) * down // up, len(values) - 1)]
    taps, half = _taps(up, down)
    # Padding by whole numbers of `down` input samples keeps the output grid where it was.
    margin = -(-(half // up + 1) // down) * down
    values = values[: length * down // up + margin]
    fixed = np.rint(values * _SAMPLE_SCALE).clip(-_LARGEST, _LARGEST)
    padded = np.pad(fixed, ((margin, margin), (0, 0)), mode="edge")
    filtered = signal.upfirdn(taps, padded, up=up, down=down, axis=0)
    # `half` is a multiple of `down`, so the filter's delay is a whole number of output samples.
    start = (half + margin * up) // down
    return filtered[start : start + length] / (_SAMPLE_SCALE * _TAP_SCALE)


@functools.lru_cache(maxsize=64)
def _taps(up: int, down: int) -> tuple[Samples, int]:
    widest = max(up, down)
    half = -(-10 * widest // down) * down
    window = signal.firwin(2 * half + 1, 1.0 / widest, window=("kaiser", 5.0))
    return np.rint(window * up * _TAP_SCALE), half


def fit_window(values: Samples, samples: int, *, shortest: int) -> tuple[Samples, bool] | None:
    """Crop or pad a record to a window.

    Parameters
    ----------
    values : ndarray, shape (any, leads)
        A record.
    samples : int
        The window's length. Longer records keep their first samples.
    shortest : int
        Records with at least so many samples are padded with their last value; shorter ones are
        not used.

    Returns
    -------
    (ndarray, bool) or None
        The window and whether it was padded; None if the record is too short.
    """
    if len(values) >= samples:
        return values[:samples], False
    if len(values) < shortest:
        return None
    return np.pad(values, ((0, samples - len(values)), (0, 0)), mode="edge"), True
