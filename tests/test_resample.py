"""Resampling against the analytic sine, against scipy, and bit for bit against itself."""

import numpy as np
import pytest
from scipy import signal

from ecgnb.data import resample
from ecgnb.data.resample import fit_window

RATES = (125, 128, 250, 257, 360, 400, 500, 977, 1000)
NOISE = np.random.default_rng(0).normal(0, 500, (8000, 2))


def sine(hertz: float, rate: float) -> np.ndarray:
    """Ten seconds of one lead of 1000 uV, (samples, 1)."""
    return 1000 * np.sin(2 * np.pi * hertz * np.arange(round(10 * rate)) / rate + 0.3)[:, None]


@pytest.mark.parametrize("rate", [*RATES, 50, 500.1])
@pytest.mark.parametrize("hertz", [1, 5, 15])
def test_a_sine_survives_without_a_shift_in_time(rate, hertz):
    values = resample.resample(sine(hertz, rate), rate, 100)
    assert len(values) == 1000
    # 0.005 samples at 15 Hz
    np.testing.assert_allclose(values[200:800], sine(hertz, 100)[200:800], atol=4.7)


@pytest.mark.parametrize("rate", [250, 400, 500, 1000])
def test_above_the_new_nyquist_is_suppressed_with_the_filter_and_aliases_without(rate):
    values = sine(70, rate)
    filtered = resample.resample(values, rate, 100)[100:-100]
    assert 20 * np.log10(filtered.std() / values.std()) < -40
    # What a decimation by a whole number makes of 70 Hz at 100 Hz: a sine of 30 Hz, whole.
    kept = resample.resample(values, rate, 100, antialias=False)
    assert kept.std() == pytest.approx(values.std(), rel=0.05)
    first = resample.resample(values, rate, 100, antialias=False, longest=37)
    np.testing.assert_array_equal(first, kept[:37])
    np.testing.assert_array_equal(resample.resample(values, 100, 100, longest=37), values[:37])
    if rate % 100 == 0:
        np.testing.assert_array_equal(kept, values[:: rate // 100])


def by_the_sample(values: np.ndarray, rate: float, target: float) -> np.ndarray:
    """Filter sample by sample with scipy, on the same whole numbers."""
    up, down = resample._ratio(rate, target)
    taps, half = resample._taps(up, down)
    fixed = np.rint(values * resample._SAMPLE_SCALE)
    filtered = signal.upfirdn(taps, fixed, up, down, axis=0, mode="edge")
    length = -(-len(values) * up // down)
    return filtered[half // down :][:length] / (resample._SAMPLE_SCALE * resample._TAP_SCALE)


PAIRS = [(rate, to) for rate in RATES for to in (100, 250) if rate != to]
PAIRS += [(500.1, 100), (50, 100), (100, 500)]


@pytest.mark.parametrize(("rate", "target"), PAIRS)
@pytest.mark.parametrize("samples", [2, 7, 50, 999, 5003])
def test_products_of_matrices_are_the_filter_bit_for_bit(rate, target, samples):
    values = NOISE[:samples].repeat(6, axis=1)
    values[: samples // 2, 1] = 32e6  # as large as they may be
    expected = by_the_sample(values, rate, target)
    assert np.array_equal(resample.resample(values, rate, target), expected)
    for longest in (1, 37, 300, 10_000):
        first = resample.resample(values, rate, target, longest=longest)
        assert np.array_equal(first, expected[:longest])


@pytest.mark.parametrize(("rate", "target"), PAIRS)
def test_the_order_of_a_sum_changes_no_bit(rate, target):
    """Every sum is one of whole numbers that float64 adds exactly."""
    up, down = resample._ratio(rate, target)
    taps, _ = resample._taps(up, down)
    assert np.array_equal(taps, taps[::-1])
    largest_sum = max(np.abs(taps[first::up]).sum() for first in range(up)) * resample._LARGEST
    assert largest_sum < 2**53


@pytest.mark.parametrize("up", [2, 3, 25, 100])
@pytest.mark.parametrize("down", [1, 4, 5, 18, 257])
def test_taps_are_those_of_resample_poly(up, down):
    """And more of them only where samples are added, so that the delay is whole."""
    taps, half = resample._taps(up, down)
    assert half == 10 * down or down < up < (half + down) / 10
    assert half % down == 0
    window = signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0))
    assert np.array_equal(taps, np.rint(window * up * resample._TAP_SCALE))


@pytest.mark.parametrize("antialias", [True, False])
def test_a_constant_of_any_length_stays_to_the_ends(antialias):
    for rate, samples in [*((500, n) for n in range(1, 60)), *((rate, rate) for rate in RATES)]:
        out = resample.resample(np.full((samples, 2), 7.0), rate, 100, antialias=antialias)
        assert out.shape == (-(-samples * 100 // rate), 2)
        np.testing.assert_allclose(out, 7, atol=0.01)


@pytest.mark.parametrize("rate", [1e7, 1e-6, 1e308, 1e-320])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="cannot be brought to 100 Hz"):
        resample.resample(sine(5, 100), rate, 100, longest=1000)


@pytest.mark.parametrize(
    ("samples", "shortest", "padded"),
    [(6, 3, False), (12, 6, True), (20, 10, True), (21, 11, None)],
)
def test_windows_are_cropped_padded_or_refused(samples, shortest, padded):
    values = np.arange(20.0).reshape(10, 2)
    found = fit_window(values, samples, shortest=shortest)
    assert (found and found[1]) is padded
    if found:
        np.testing.assert_array_equal(found[0], values[np.minimum(np.arange(samples), 9)])
