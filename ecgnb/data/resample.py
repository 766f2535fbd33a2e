"""Any sampling rate to another, and any length to a window, the same bits on every machine.

Filters run on whole numbers: samples in fixed point, filter taps rounded to integers, and every
sum below 2**53. Float64 adds such numbers exactly, so neither the order of a sum nor the processor
changes a bit. That leaves the order free: a filter is a product of matrices, which is fast.
"""

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

SHORT_RULES = ("pad", "drop")
_SAMPLE_SCALE = 2.0**4  # fixed point: a sixteenth of a microvolt
_TAP_SCALE = 2.0**22
_LARGEST = 2.0**29  # 33 V: the taps of one output sum up to less than 2**23
_OUTPUTS = 16  # of one matrix: more would multiply more zeros, fewer more small matrices
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
    """Bring a record, (samples, leads) in microvolts, from one rate in Hz to another.

    It must have no NaN; its ends are continued by their last value, not by zeros. `antialias` is
    polyphase filtering with a Kaiser-windowed low-pass at the lower of the two Nyquist frequencies
    (the design of `scipy.signal.resample_poly`); without it every k-th sample is taken, as Nguyen &
    Do did, and higher frequencies alias. Returns samples x target / rate rounded up, but `longest`
    at most, which comes sooner. Raises ValueError if the rates are too far apart.
    """
    up, down = _ratio(rate, target)
    if up == down:
        return values[:longest]
    length = -(-len(values) * up // down)
    length = length if longest is None else min(length, longest)
    if not antialias:
        return values[np.minimum(np.arange(length) * down // up, len(values) - 1)]
    banks = _banks(up, down)
    period, shift = banks[-1].last, banks[-1].shift
    periods = -(-length // period)
    before = -min(bank.first for bank in banks)
    after = max(bank.first + bank.matrix.shape[1] for bank in banks) + (periods - 1) * shift
    used = values[:after]  # what lies behind is never looked at
    padded = np.empty((before + after, values.shape[1]))
    inner = padded[before : before + len(used)]
    np.multiply(used, _SAMPLE_SCALE, out=inner)
    np.rint(inner, out=inner).clip(-_LARGEST, _LARGEST, out=inner)
    padded[:before], padded[before + len(used) :] = inner[0], inner[-1]
    filtered = np.empty((periods, period, values.shape[1]))
    for bank in banks:
        row, column = padded.strides
        windows = np.lib.stride_tricks.as_strided(
            padded[before + bank.first :],
            (periods, bank.matrix.shape[1], padded.shape[1]),
            (shift * row, row, column),
            writeable=False,
        )
        np.matmul(bank.matrix, windows, out=filtered[:, bank.begin : bank.last])
    flat = filtered.reshape(periods * period, -1)[:length]
    flat /= _SAMPLE_SCALE * _TAP_SCALE
    return flat


@functools.lru_cache(maxsize=64)
def _ratio(rate: float, target: float) -> tuple[int, int]:
    # Of an impossible rate the quotient may be infinite, which is no fraction.
    ratio = Fraction(min(target / rate, 2.0**60)).limit_denominator(_MAX_DENOMINATOR)
    missed = abs(ratio * Fraction(rate) / Fraction(target) - 1) > _RATE_TOLERANCE
    if missed or ratio > _MAX_DENOMINATOR:
        raise ValueError(f"{rate:g} Hz cannot be brought to {target:g} Hz")
    return ratio.numerator, ratio.denominator


@dataclass(frozen=True)
class _Bank:
    """The filter for some outputs of a period, after which the same taps come again."""

    begin: int  # which outputs of the period: `begin` to `last` - 1
    last: int
    first: int  # the first input they look at, counted from the period's own first; often negative
    matrix: Samples  # taps, (outputs, inputs)
    shift: int  # inputs from one period to the next


@functools.lru_cache(maxsize=64)
def _banks(up: int, down: int) -> tuple[_Bank, ...]:
    taps, half = _taps(up, down)
    repeats = -(-_OUTPUTS // up)
    banks = []
    for begin in range(0, up * repeats, _OUTPUTS):
        last = min(begin + _OUTPUTS, up * repeats)
        outputs = np.arange(begin, last) * down  # on the grid of the raised rate
        first = -((half - int(outputs[0])) // up)
        inputs = np.arange(first, (int(outputs[-1]) + half) // up + 1) * up
        index = outputs[:, None] - inputs + half
        inside = (index >= 0) & (index < len(taps))
        matrix = np.where(inside, taps[index.clip(0, len(taps) - 1)], 0.0)
        matrix = np.asfortranarray(matrix)  # so that BLAS meets it as it likes it best
        banks.append(_Bank(begin, last, first, matrix, down * repeats))
    return tuple(banks)


@functools.lru_cache(maxsize=64)
def _taps(up: int, down: int) -> tuple[Samples, int]:
    widest = max(up, down)
    half = -(-10 * widest // down) * down
    # The window design of scipy.signal.firwin, without its half second of imports.
    taps = np.sinc(np.arange(-half, half + 1) / widest) * np.kaiser(2 * half + 1, 5.0)
    return np.rint(taps / taps.sum() * up * _TAP_SCALE), half


def fit_window(values: Samples, samples: int, *, shortest: int) -> tuple[Samples, bool] | None:
    """Crop a record, (any, leads), to its first samples, or pad it with its last value.

    Returns the window and whether it was padded; None if the record has fewer than `shortest`.
    """
    if len(values) >= samples:
        return values[:samples], False
    if len(values) < shortest:
        return None
    return np.pad(values, ((0, samples - len(values)), (0, 0)), mode="edge"), True
