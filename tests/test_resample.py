"""Resampling against the analytic sine, against scipy, and bit for bit against itself."""

import numpy as np
import pytest
from scipy import signal

from ecgnb.data import resample
from ecgnb.data.resample import fit_window

RATES = (125, 128, 250, 257, 360, 400, 500, 977, 1000)


def sine(hertz: float, rate: float, seconds: float = 10, phase: float = 0.3) -> np.ndarray:
    """One lead of 1000 uV, (samples, 1)."""
    time = np.arange(round(rate * seconds)) / rate
    return 1000 * np.sin(2 * np.pi * hertz * time + phase)[:, None]


def fitted(values: np.ndarray, hertz: float, rate: float) -> tuple[float, float]:
    """Amplitude and phase of a sine in the interior, by least squares."""
    time = np.arange(len(values)) / rate
    inner = slice(len(values) // 5, -len(values) // 5)
    angle = 2 * np.pi * hertz * time[inner]
    design = np.column_stack([np.sin(angle), np.cos(angle)])
    a, b = np.linalg.lstsq(design, values[inner, 0], rcond=None)[0]
    return float(np.hypot(a, b)), float(np.arctan2(b, a))


@pytest.mark.parametrize("rate", [*RATES, 50])
@pytest.mark.parametrize("hertz", [1, 5, 15])
def test_a_sine_survives_without_a_shift_in_time(rate, hertz):
    values = resample.resample(sine(hertz, rate), rate, 100)
    assert len(values) == 1000
    amplitude, phase = fitted(values, hertz, 100)
    assert amplitude == pytest.approx(1000, rel=0.01)
    shift = (phase - 0.3) / (2 * np.pi * hertz) * 100
    assert abs(shift) < 0.005  # of a sample of 10 ms
    inner = slice(200, 800)
    np.testing.assert_allclose(values[inner], sine(hertz, 100)[inner], atol=10)


@pytest.mark.parametrize("rate", [250, 400, 500, 1000])
def test_above_the_new_nyquist_is_suppressed_with_the_filter_and_aliases_without(rate):
    values = sine(70, rate)
    filtered = resample.resample(values, rate, 100)[100:-100]
    assert 20 * np.log10(filtered.std() / values.std()) < -40
    # What a decimation by a whole number makes of 70 Hz at 100 Hz: a sine of 30 Hz, whole.
    kept = resample.resample(values, rate, 100, antialias=False)
    assert kept.std() == pytest.approx(values.std(), rel=0.05)
    if rate % 100 == 0:
        np.testing.assert_array_equal(kept, values[:: rate // 100])
        assert fitted(kept, 30, 100)[0] == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("target", [100, 250])
def test_the_interior_equals_scipy(rate, target):
    if rate == target:
        pytest.skip("nothing to do")
    values = np.random.default_rng(0).normal(0, 500, (round(4 * rate), 3))
    ours = resample.resample(values, rate, target)
    common = np.gcd(int(rate), int(target))
    up, down = int(target) // common, int(rate) // common
    # Where samples are added, our filter is longer so that its delay is whole: give it to scipy.
    window = ("kaiser", 5.0) if down > up else resample._taps(up, down)[0] / up / 2**22
    theirs = signal.resample_poly(values, up, down, axis=0, window=window)
    assert ours.shape == theirs.shape
    edge = 25 * max(1, round(target / rate))
    np.testing.assert_allclose(ours[edge:-edge], theirs[edge:-edge], atol=1)


@pytest.mark.parametrize("rate", [250, 257, 500, 977])
@pytest.mark.parametrize("largest", [5e3, 32e6])
def test_the_order_of_the_sum_changes_no_bit(monkeypatch, rate, largest):
    rng = np.random.default_rng(0)
    values = rng.uniform(-largest, largest, (round(3 * rate), 2))
    values[:100] = largest  # the largest sum
    values = values[: (len(values) - 1) // int(rate) * int(rate) + 1]  # symmetric grid: whole s + 1
    forward = resample.resample(values, rate, 100)
    # The record backwards, through the taps backwards: the same products, added from the end.
    taps, half = resample._taps(*_ratio(rate))
    assert np.array_equal(taps, taps[::-1])
    backward = resample.resample(values[::-1], rate, 100)[::-1]
    np.testing.assert_array_equal(forward, backward)
    # And by plain whole numbers of any size.
    up, down = _ratio(rate)
    fixed = [int(v) for v in np.rint(values[:, 0] * 2**4)]
    for k in rng.integers(0, len(forward), 20):
        total = 0
        for i in range(-half, half + 1):
            position = int(k) * down - i
            if position % up == 0:
                sample = fixed[min(max(position // up, 0), len(fixed) - 1)]
                total += int(taps[i + half]) * sample
        assert abs(total) < 2**53
        assert forward[k, 0] == total / 2**26


def _ratio(rate: float) -> tuple[int, int]:
    common = np.gcd(int(rate), 100)
    return 100 // common, int(rate) // common


def test_a_constant_stays_to_the_ends():
    for rate in RATES:
        values = resample.resample(np.full((round(rate), 1), 300.0), rate, 100)
        np.testing.assert_allclose(values, 300, atol=0.5)


def test_the_same_rate_changes_nothing():
    values = sine(5, 100)
    np.testing.assert_array_equal(resample.resample(values, 100, 100), values)


@pytest.mark.parametrize("rate", [*RATES, 50, 100])
@pytest.mark.parametrize("antialias", [True, False])
def test_the_first_samples_are_the_same_without_the_rest(rate, antialias):
    values = np.random.default_rng(0).normal(0, 500, (round(7.3 * rate), 2))
    whole = resample.resample(values, rate, 100, antialias=antialias)
    for longest in (1, 37, 300, 10_000):
        first = resample.resample(values, rate, 100, antialias=antialias, longest=longest)
        np.testing.assert_array_equal(first, whole[:longest])


def test_any_length_of_record():
    for samples in range(1, 60):
        for antialias in (True, False):
            values = np.full((samples, 12), 7.0)
            out = resample.resample(values, 500, 100, antialias=antialias)
            assert out.shape == (-(-samples // 5), 12)
            np.testing.assert_allclose(out, 7, atol=0.1)


def test_odd_rates_keep_time_and_impossible_ones_are_refused():
    rate = 500.1
    values = resample.resample(sine(5, rate), rate, 100)
    assert abs(fitted(values, 5, 100)[1] - 0.3) / (2 * np.pi * 5) * 100 < 0.01
    for silly in (1e7, 1e-6, 1e308, 1e-320):
        with pytest.raises(ValueError, match="cannot be brought to 100 Hz"):
            resample.resample(sine(5, 100), silly, 100, longest=1000)


def test_windows_are_cropped_padded_or_refused():
    values = np.arange(20.0).reshape(10, 2)
    window, padded = fit_window(values, 6, shortest=3) or (None, None)
    np.testing.assert_array_equal(window, values[:6])
    assert not padded
    window, padded = fit_window(values, 12, shortest=6) or (None, None)
    np.testing.assert_array_equal(window, np.vstack([values, values[-1:], values[-1:]]))
    assert padded
    assert fit_window(values, 21, shortest=11) is None
    assert fit_window(values, 20, shortest=10) is not None


def upfirdn(values: np.ndarray, rate: float, target: float) -> np.ndarray:
    """Filter sample by sample with scipy, on the same whole numbers."""
    up, down = resample._ratio(rate, target)
    taps, half = resample._taps(up, down)
    margin = -(-(half // up + 1) // down) * down
    fixed = np.rint(values * resample._SAMPLE_SCALE)
    padded = np.pad(fixed, ((margin, margin), (0, 0)), mode="edge")
    filtered = signal.upfirdn(taps, padded, up=up, down=down, axis=0)
    start = (half + margin * up) // down
    length = -(-len(values) * up // down)
    return filtered[start : start + length] / (resample._SAMPLE_SCALE * resample._TAP_SCALE)


@pytest.mark.parametrize(
    ("rate", "target"),
    [(500, 100), (1000, 100), (257, 100), (400, 100), (360, 250), (500.1, 100), (100, 500)],
)
@pytest.mark.parametrize("samples", [2, 7, 50, 999, 5003])
def test_products_of_matrices_are_the_filter_bit_for_bit(rate, target, samples):
    values = np.random.default_rng(samples).normal(0, 500, (samples, 12))
    expected = upfirdn(values, rate, target)
    assert np.array_equal(resample.resample(values, rate, target), expected)
    part = resample.resample(values, rate, target, longest=10)
    assert np.array_equal(part, expected[:10])


@pytest.mark.parametrize("up", [2, 3, 25, 100])
@pytest.mark.parametrize("down", [1, 4, 5, 18, 257])
def test_taps_are_those_of_firwin(up, down):
    taps, half = resample._taps(up, down)
    window = signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0))
    assert np.array_equal(taps, np.rint(window * up * resample._TAP_SCALE))
