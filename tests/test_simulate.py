"""The simulator against its own truth, measured from the drawn signal by other means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import wfdb
import wfdb.processing

from ecgnb.data import hospitals, simulate
from ecgnb.data.hospitals import HOSPITALS, SNOMED, write_hospital
from ecgnb.errors import UserError

NORTH = HOSPITALS["sim-north"]


def planned(
    *findings: str, number: int = 0, seconds: float = 10
) -> tuple[simulate.Patient, simulate.Plan]:
    """A patient of 60 and a record that shows exactly `findings`; NSR if no rhythm is named."""
    rng = np.random.default_rng([number, 7])
    chronic = frozenset(findings) & set(hospitals.CHRONIC)
    patient = simulate.draw_patient(rng, 60, bool(number % 2), chronic)
    rhythm = {"NSR"} - {"NSR" for f in findings if f in simulate.RHYTHMS}
    return patient, simulate.plan_record(rng, patient, frozenset(findings) | rhythm, seconds)


def leads_of(plan: simulate.Plan, rate: int = 1000, seconds: float = 10) -> np.ndarray:
    """Noise-free leads in mV, (12, samples)."""
    return simulate.twelve_leads(simulate.DOWER @ simulate.draw([plan], rate, seconds)[0])


@dataclass(frozen=True)
class Measured:
    """One median beat, measured without the plan; times in seconds from the fastest sample."""

    beat: np.ndarray  # (12, samples) at 1 kHz, baseline at the QRS onset
    onset: float
    offset: float
    p_onset: float
    rate: float

    def lead(self, name: str, start: float | None = None, stop: float | None = None) -> np.ndarray:
        """A lead between two times, by default within the QRS."""
        begin = self.onset if start is None else start
        end = self.offset if stop is None else stop
        row = self.beat[simulate.LEADS.index(name)]
        return row[round(500 + begin * 1000) : round(500 + end * 1000)]


def measure(plan: simulate.Plan) -> Measured:
    """Delineate by the speed of the dipole (a QRS is fast) and by its distance from rest (a P)."""
    dipole = simulate.draw([plan], 1000, 10)[0]
    speed = np.linalg.norm(np.gradient(dipole, axis=1), axis=0)
    above = np.flatnonzero(speed > 0.5 * np.percentile(speed, 99.5))
    groups = np.split(above, np.flatnonzero(np.diff(above) > 200) + 1)
    peaks = np.array([g[speed[g].argmax()] for g in groups])
    inner = peaks[(peaks > 500) & (peaks < 9400)]
    window = np.arange(-500, 600)
    beat = np.median(np.stack([dipole[:, p + window] for p in inner]), axis=0)
    speed = np.linalg.norm(np.gradient(beat, axis=1), axis=0)
    slow = speed < 0.04 * speed.max()
    quiet = np.convolve(slow, np.ones(5), "same") >= 5
    onset = np.flatnonzero(quiet[:500])[-1]
    offset = 500 + np.flatnonzero(quiet[500:])[0]
    distance = np.linalg.norm(beat - beat[:, onset - 4, None], axis=0)[onset - 330 : onset - 15]
    wave = distance > 0.12 * distance[130:].max()
    p_onset = onset - 330 + np.flatnonzero(~wave[: distance[130:].argmax() + 130])[-1]
    return Measured(
        beat=simulate.twelve_leads(simulate.DOWER @ (beat - beat[:, onset, None])),
        onset=(onset - 500) / 1000,
        offset=(offset - 500) / 1000,
        p_onset=(p_onset - 500) / 1000,
        rate=60e3 / float(np.median(np.diff(peaks))),
    )


def drawn(hospital: hospitals.Hospital, n: int, seed: int = 1) -> np.ndarray:
    plans = {i: hospitals.plan_hospital_record(hospital, seed, i)[1] for i in range(n)}
    return hospitals.draw_records(hospital, plans, seed)


@pytest.mark.parametrize("hospital", HOSPITALS.values(), ids=list(HOSPITALS))
def test_limb_leads_obey_einthoven_and_goldberger(hospital: hospitals.Hospital) -> None:
    one, two, three, avr, avl, avf = drawn(hospital, 12).astype(int)[:, :6].transpose(1, 0, 2)
    np.testing.assert_array_equal(three, two - one)
    for lead, exact in ((avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)):
        assert np.abs(lead - exact).max() <= 0.5


def test_augmented_leads_are_exact_before_rounding() -> None:
    one, two, three, avr, avl, avf, *_ = leads_of(planned()[1])
    np.testing.assert_allclose(three, two - one, atol=1e-12)
    np.testing.assert_allclose(avr + avl + avf, 0, atol=1e-12)
    np.testing.assert_allclose(avl, (one - three) / 2, atol=1e-12)


def test_a_detector_finds_the_r_peaks_where_they_were_put() -> None:
    hits = found = true = 0
    for i in range(16):
        hospital = NORTH if i % 2 else HOSPITALS["sim-south"]
        _, plan = planned("NSR", number=i, seconds=hospital.seconds)
        lead_two = hospitals.draw_records(hospital, {i: plan}, 1)[0, 1] / hospital.gain
        seen = wfdb.processing.xqrs_detect(lead_two, hospital.rate, verbose=False) / hospital.rate
        # The detector learns at the start; nobody can place a beat cut by the end.
        inner = plan.beats[(plan.beats > 0.5) & (plan.beats < hospital.seconds - 0.3)]
        hits += sum(np.abs(seen - beat).min() < 0.06 for beat in inner)
        true += len(inner)
        found += int(((seen > 0.5) & (seen < hospital.seconds - 0.3)).sum())
    assert 2 * hits / (found + true) >= 0.99


@pytest.mark.parametrize("findings", [(), ("SB",), ("IAVB",), ("LAnFB",), ("LBBB",), ("RBBB",)])
def test_intervals_are_the_ones_asked_for(findings: tuple[str, ...]) -> None:
    errors = []
    for number in range(8):
        _, plan = planned(*findings, number=number)
        seen = measure(plan)
        pr, qrs = seen.onset - seen.p_onset, seen.offset - seen.onset
        errors.append((seen.rate - plan.heart_rate, 1000 * (pr - plan.pr), 1000 * (qrs - plan.qrs)))
    rate, pr, qrs = np.abs(errors).T
    print(findings, np.round(np.array(errors), 1).tolist())
    assert rate.max() < 1.5
    assert np.median(pr) < 10
    assert np.median(qrs) < 10
