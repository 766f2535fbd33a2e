"""The simulator against its own truth, measured from the drawn signal by other means."""

import functools
from dataclasses import dataclass
from unittest.mock import Mock

import numpy as np
import pytest
import wfdb
import wfdb.processing
from conftest import mistake

from ecgnb import files as pools
from ecgnb.simulate import ecg
from ecgnb.simulate import hospital as hospital_room
from ecgnb.simulate.hospital import HOSPITALS, SNOMED, write_hospital

NORTH = HOSPITALS["sim-north"]


def planned(*findings, number=0, seconds=10):
    """A patient of 60 and a record that shows exactly `findings`; NSR if no rhythm is named."""
    rng = np.random.default_rng([number, 7])
    patient = ecg.draw_patient(
        rng, 60, bool(number % 2), frozenset(findings) & set(hospital_room.CHRONIC)
    )
    rhythm = {"NSR"} - {"NSR" for f in findings if f in ecg.RHYTHMS}
    return patient, ecg.plan_record(rng, patient, frozenset(findings) | rhythm, seconds)


@dataclass(frozen=True)
class Measured:
    """One median beat of the noise-free signal, measured without the plan; times in samples."""

    beat: np.ndarray  # (12, samples) at 1 kHz, mV, zero at the onset of the QRS
    p_onset: int
    onset: int
    offset: int
    rate: float  # beats a minute
    intervals: np.ndarray  # RR in seconds

    def qrs(self, lead):
        return self.beat[ecg.LEADS.index(lead), self.onset : self.offset]

    def st(self, lead):
        """Level 60 ms after the end of the QRS."""
        return self.beat[ecg.LEADS.index(lead), self.offset + 60]

    def t(self, lead):
        """The extreme of the T wave."""
        wave = self.beat[ecg.LEADS.index(lead), self.offset + 100 : self.onset + 450]
        return wave[np.abs(wave).argmax()]

    @property
    def axis(self):
        across = 2 / np.sqrt(3) * self.qrs("aVF").sum()
        return np.degrees(np.arctan2(across, self.qrs("I").sum()))


def measure(plan):
    """Delineate by the speed of the dipole (a QRS is fast) and by its distance from rest (a P)."""
    dipole = ecg.draw([plan], 1000, 10)[0]
    speed = np.linalg.norm(np.gradient(dipole, axis=1), axis=0)
    above = np.flatnonzero(speed > 0.4 * np.percentile(speed, 99.5))
    groups = np.split(above, np.flatnonzero(np.diff(above) > 200) + 1)
    peaks = np.array([g[speed[g].argmax()] for g in groups])
    inner = peaks[(peaks > 600) & (peaks < 9400)]
    beat = np.median(np.stack([dipole[:, p - 600 : p + 600] for p in inner]), axis=0)
    speed = np.linalg.norm(np.gradient(beat, axis=1), axis=0)
    top = speed[500:700].max()
    onset = np.flatnonzero(speed[:600] < 0.04 * top)[-1]
    # The QRS ends where the dipole rests, or where it stops slowing down and moves on into T.
    offset = 600 + np.flatnonzero(speed[600:750] > 0.2 * top)[-1]
    while speed[offset] > 0.04 * top and speed[offset + 1] <= speed[offset]:
        offset += 1
    before = slice(onset - 420, onset - 15)
    distance = np.linalg.norm(beat - beat[:, onset - 4, None], axis=0)[before]
    crest = 120 + distance[120:].argmax()  # T has ended 300 ms before the QRS
    rest = np.flatnonzero(distance[:crest] < 0.12 * distance[crest])
    return Measured(
        beat=ecg.twelve_leads(ecg.DOWER @ (beat - beat[:, onset, None])),
        p_onset=onset - 420 + (rest[-1] if len(rest) else 0),
        onset=onset,
        offset=offset,
        rate=60e3 / np.median(np.diff(peaks)),
        intervals=np.diff(peaks) / 1000,
    )


def test_a_detector_finds_the_r_peaks_where_they_were_put():
    hits = found = true = 0
    for i in range(16):
        hospital = NORTH if i % 2 else HOSPITALS["sim-south"]
        _, plan = planned("NSR", number=i, seconds=hospital.seconds)
        # V5: a QRS across lead II is flat in it.
        lead = hospital_room.draw_records(hospital, {i: plan}, 1)[0, 10] / hospital.gain
        seen = wfdb.processing.xqrs_detect(lead, hospital.rate, verbose=False) / hospital.rate
        # The detector learns at the start; nobody can place a beat cut by the end.
        inner = plan.beats[(plan.beats > 0.5) & (plan.beats < hospital.seconds - 0.3)]
        hits += sum(np.abs(seen - beat).min() < 0.06 for beat in inner)
        true += len(inner)
        found += ((seen > 0.5) & (seen < hospital.seconds - 0.3)).sum()
    assert 2 * hits / (found + true) >= 0.99


@functools.cache
def many(*findings):
    """Ten records that show the findings: the patient, the plan and what is measured of each."""
    plans = [planned(*findings, number=i) for i in range(10)]
    return [(patient, plan, measure(plan)) for patient, plan in plans]


@pytest.mark.parametrize("finding", ["NSR", "SB", "IAVB", "LAnFB", "LBBB", "RBBB"])
def test_intervals_and_the_axis_are_the_ones_asked_for(finding):
    errors = []
    for _, plan, seen in many(finding):
        pr, qrs = seen.onset - seen.p_onset, seen.offset - seen.onset
        rate, axis = seen.rate - plan.heart_rate, seen.axis - plan.axis
        errors.append((rate, pr - 1000 * plan.pr, qrs - 1000 * plan.qrs, axis))
    limits = (0.5, 6, 8, 15 if finding == "NSR" else 360)  # beats a minute, ms, ms and degrees
    assert (np.median(np.abs(errors), axis=0) < limits).all()


def is_normal(seen):
    narrow = seen.offset - seen.onset < 120
    return 60 <= seen.rate <= 101 and seen.onset - seen.p_onset < 200 and narrow


def is_left_bundle_branch_block(seen):
    v1, v6 = seen.qrs("V1"), seen.qrs("V6")
    qs_or_rs = -v1.min() > 3 * v1.max()
    no_q_and_no_s = v6.max() > -3 * v6.min()
    broad = (v6 > v6.max() / 2).sum() > 55 and seen.offset - seen.onset > 120
    return qs_or_rs and no_q_and_no_s and broad and seen.t("V1") > 0.1  # discordant


def is_right_bundle_branch_block(seen):
    v1, v6 = seen.qrs("V1"), seen.qrs("V6")
    late = len(v1) // 2
    second_r = v1[late:].max() > max(0.2, v1[:late].max())
    slurred_s = v6[late:].min() < -0.1
    return second_r and slurred_s and seen.offset - seen.onset > 120


def is_left_anterior_fascicular_block(seen):
    three, avl = seen.qrs("III"), seen.qrs("aVL")
    rs = -three.min() > 2 * three.max() and three[:20].max() > 0.02
    return -95 < seen.axis < -30 and rs and avl[:20].min() < -0.02


@pytest.mark.parametrize(
    ("finding", "shows"),
    [
        ("NSR", is_normal),
        ("SB", lambda seen: seen.rate < 60),
        ("STach", lambda seen: seen.rate > 100),
        ("SA", lambda seen: np.ptp(seen.intervals) > 0.12),
        ("IAVB", lambda seen: seen.onset - seen.p_onset > 200),
        ("LBBB", is_left_bundle_branch_block),
        ("RBBB", is_right_bundle_branch_block),
        ("LAnFB", is_left_anterior_fascicular_block),
        ("LQRSV", lambda seen: all(np.ptp(seen.qrs(lead)) < 0.5 for lead in ecg.LEADS[:6])),
    ],
)
def test_every_record_shows_its_finding(finding, shows):
    assert all(shows(seen) for *_, seen in many(finding))


LOOKS_AT = {"anterior": "V2", "lateral": "V6", "inferior": "aVF"}


def test_what_shows_beside_the_usual_or_in_its_region():
    def voltage(seen):
        return max(seen.qrs("V5").max(), seen.qrs("V6").max()) - seen.qrs("V1").min()

    usual = [seen for *_, seen in many("NSR")]
    assert np.median([seen.t("V1") for *_, seen in many("RBBB")]) < 0
    large = np.median([voltage(seen) for *_, seen in many("LVH")])
    assert large / np.median([voltage(seen) for seen in usual]) > 1.4
    for normal, (patient, _, seen) in zip(usual, many("STE"), strict=True):
        lead = LOOKS_AT[patient.region]
        assert seen.st(lead) > normal.st(lead) + 0.08
    for normal, (_, _, seen) in zip(usual, many("STD"), strict=True):
        assert seen.st("V5") < normal.st("V5") - 0.05
        assert seen.st("aVR") > normal.st("aVR")
    for patient, _, seen in many("TInv"):
        assert seen.t(LOOKS_AT[patient.region]) < -0.05
    for normal, (patient, _, seen) in zip(usual, many("MI"), strict=True):
        lead = LOOKS_AT[patient.region]
        assert seen.qrs(lead)[:45].sum() < normal.qrs(lead)[:45].sum() - 4  # mV ms


def test_atrial_fibrillation_is_irregular_and_flutter_is_a_sawtooth():
    for i in range(10):
        _, plan = planned("AF", number=i)
        rr = np.diff(plan.beats)
        assert rr.std() / rr.mean() > 0.08
        assert np.isnan(plan.pr)
        _, plan = planned("AFL", number=i)
        leads = ecg.twelve_leads(ecg.DOWER @ ecg.draw([plan], 1000, 10)[0])
        clipped = np.clip(leads[5], -0.15, 0.1)  # most of the QRS gone
        spectrum = np.abs(np.fft.rfft(clipped * np.hanning(10_000), 100_000))  # bins of 0.01 Hz
        atrial_rate = (390 + spectrum[390:570].argmax()) / 100
        ratio = np.diff(plan.beats) * atrial_rate
        assert np.abs(ratio - ratio.round()).max() < 0.15
        assert set(ratio.round()) <= {2, 3, 4}


def test_premature_beats_are_early_and_pause_as_they_should():
    for finding, kind, compensatory in (("PVC", "V", 2.0), ("PAC", "A", 1.7)):
        pauses = []
        for _, plan in (planned("NSR", finding, number=i) for i in range(10)):
            assert (plan.kinds == kind).any()
            for k in np.flatnonzero(plan.kinds[1:-1] == kind) + 1:
                before, after = np.diff(plan.beats[k - 1 : k + 2]) * plan.heart_rate / 60
                assert before < 0.92
                pauses.append(before + after)
        assert abs(np.median(pauses) - compensatory) < 0.1


def test_ventricular_beats_are_wide_and_discordant():
    for i in range(10):
        _, plan = planned("PVC", number=i)
        dipole = ecg.draw([plan], 1000, 10)[0]
        width = {"N": [], "V": []}
        for beat, kind in zip((plan.beats * 1000).astype(int), plan.kinds, strict=True):
            if 200 < beat < 9500:
                near = dipole[:, beat - 120 : beat + 450]
                near = near - near[:, :20].mean(1, keepdims=True)
                size = np.linalg.norm(near, axis=0)[:240]
                width[kind].append((size > size.max() / 2).sum())
                if kind == "V":
                    assert (near[:, size.argmax()] @ near[:, 320:450]).min() < 0
        assert min(width["V"]) > 1.5 * np.median(width["N"])


@pytest.mark.parametrize("wrong", [{"NSR", "AF"}, {"PVC"}, {"AF", "IAVB"}, {"NSR", "no such"}])
def test_impossible_findings_are_refused(wrong):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="findings"):
        ecg.plan_record(rng, ecg.draw_patient(rng, 50, True), frozenset(wrong), seconds=10)


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_files_are_the_same_for_a_seed_whatever_the_number_and_processes(tmp_path, monkeypatch):
    for name, n, seed in (("a", 24, 4), ("short", 9, 4), ("other", 9, 5)):
        write_hospital(tmp_path / name, "sim-south", n, seed)
    first, short, other = (files(tmp_path / name) for name in ("a", "short", "other"))
    assert all(short[k] == first[k] for k in short if k != "RECORDS")
    assert all(short[k] != other[k] for k in short if k.endswith(".dat"))
    monkeypatch.setattr(hospital_room, "_JOB", 8)
    monkeypatch.setattr(hospital_room, "_WORTH_A_PROCESS", 10)
    monkeypatch.setattr(pools.joblib, "cpu_count", lambda: 2)
    write_hospital(tmp_path / "many", "sim-south", 24, 4)
    assert files(tmp_path / "many") == first


@pytest.mark.parametrize("name", HOSPITALS)
def test_wfdb_reads_what_was_written_and_limb_leads_obey_einthoven_and_goldberger(tmp_path, name):
    hospital = HOSPITALS[name]
    plans = {i: hospital_room.plan_hospital_record(hospital, 2, i)[1] for i in range(12)}
    expected = hospital_room.draw_records(hospital, plans, 2)
    one, two, three, avr, avl, avf = expected.astype(int)[:, :6].transpose(1, 0, 2)
    np.testing.assert_array_equal(three, two - one)
    for lead, exact in ((avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)):
        assert np.abs(lead - exact).max() <= 0.5
    write_hospital(tmp_path / "h", hospital, 12, 2)
    names = (tmp_path / "h" / "RECORDS").read_text().split()
    codes = set((SNOMED | hospital.codes).values())
    spelled = [lead.upper() if hospital.upper_case else lead for lead in ecg.LEADS]
    for name, signals in zip(names, expected, strict=True):
        record = wfdb.rdrecord(str(tmp_path / "h" / name), physical=False)
        assert sorted(record.sig_name) == sorted(spelled)
        order = [record.sig_name.index(lead) for lead in spelled]
        np.testing.assert_array_equal(record.d_signal[:, order].T, signals)
        assert record.fs == hospital.rate
        assert record.adc_gain == [hospital.gain] * 12
        assert record.init_value == record.d_signal[0].tolist()
        assert [c % 65536 for c in record.checksum] == record.calc_checksum()
        said = dict(comment.split(": ") for comment in record.comments)
        assert set(said) == {"Age", "Sex", "Dx", "Patient"}
        assert said["Sex"] in ("Female", "Male")
        assert set(said["Dx"].split(",")) <= codes


def test_patients_come_back_with_their_heart_and_chronic_findings():
    pair = (NORTH.repeat_every - 2, NORTH.repeat_every - 1)
    assert len({hospital_room.patient_of(NORTH, number) for number in pair}) == 1
    (one, first), (other, second) = (
        hospital_room.plan_hospital_record(NORTH, 1, number) for number in pair
    )
    assert (one.axis, one.chronic) == (other.axis, other.chronic)
    assert one.chronic <= first.findings & second.findings
    assert first.beats.tolist() != second.beats.tolist()


def test_hospitals_differ_in_findings_and_in_habits():
    coded, present = {}, {}
    for name, hospital in HOSPITALS.items():
        plans = [hospital_room.plan_hospital_record(hospital, 1, i)[1] for i in range(400)]
        rng = np.random.default_rng(0)
        said = [hospital_room.coded_findings(hospital, plan.findings, rng) for plan in plans]
        present[name] = {f: np.mean([f in p.findings for p in plans]) for f in ecg.FINDINGS}
        coded[name] = {f: np.mean([f in s for s in said]) for f in ecg.FINDINGS}
        assert all(present[name].values())
    north, south = coded["sim-north"], coded["sim-south"]
    assert north["NSR"] > south["NSR"] + 0.1
    assert south["LQRSV"] < 0.6 * present["sim-south"]["LQRSV"]
    assert south["STach"] > north["STach"]
    assert north["LAnFB"] > south["LAnFB"]


def test_nothing_half_written_is_left_and_nothing_written_over(tmp_path, monkeypatch):
    mistake("sim-north", write_hospital, tmp_path / "h", "sim-east", 1, 1)
    monkeypatch.setattr(hospital_room, "draw_records", Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_hospital(tmp_path / "h", NORTH, 3, 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").write_text("mine")
    mistake("not empty", write_hospital, tmp_path, NORTH, 1, 1)
    assert (tmp_path / "kept").read_text() == "mine"
