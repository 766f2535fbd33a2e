"""Two simulated hospitals: who comes, what they have, how the ECG is recorded and how it is coded.

The two differ in all four, as real hospitals do, so that a model can be moved from one to the other
and can fail.
"""

import os
import tempfile
import tomllib
from collections import deque
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ecgnb.errors import UserError
from ecgnb.files import in_processes
from ecgnb.simulate import ecg
from ecgnb.simulate.ecg import FINDINGS, Plan
from ecgnb.simulate.heart import DOWER, LEADS, Array, Patient, draw_patient, twelve_leads

_TABLES = tomllib.loads(files(__package__).joinpath("hospitals.toml").read_text(encoding="utf-8"))
SNOMED: dict[str, str] = _TABLES["snomed"]
AGE_SLOPE: dict[str, float] = _TABLES["age-slope"]
LOOKALIKE: dict[str, str] = _TABLES["lookalike"]


@dataclass(frozen=True)
class Hospital:
    """The facts of a simulated hospital."""

    name: str
    prefix: str  # first letter of its record names
    age: float  # years: mean and standard deviation
    age_spread: float
    women: float  # their share
    repeat_every: int  # every so many records, the patient of the record before comes back
    prevalence: dict[str, float]  # of each finding at the age of 60; the other rhythms are NSR
    rate: int  # samples a second
    seconds: int  # length of a record
    gain: int  # ADC units per mV
    leads: tuple[str, ...]  # the order in which they are written
    upper_case: bool  # whether they are spelled AVR or aVR
    mains_hz: float
    mains: float  # typical amplitudes at an electrode, mV: mains hum,
    muscle: float  # muscle noise,
    motion: float  # electrode motion (up to 10 Hz)
    wander: float  # and baseline wander (below 1 Hz)
    misplaced: float  # spread of the precordial electrodes' displacement, 1 = to the next electrode
    rotation: float  # spread of the torso's rotation, degrees
    swapped: float  # probability that the arm electrodes are swapped
    codes: dict[str, str]  # codes that differ from `SNOMED`
    coded: dict[str, float]  # probability that a present finding is coded: by name,
    coded_else: float  # and for all others
    sinus_beside_others: float  # probability that NSR is coded beside other findings
    mistaken: float  # probability that a coded finding is taken for one that looks like it


HOSPITALS = {
    name: Hospital(name, **{**table, "leads": tuple(table["leads"])})
    for name, table in _TABLES["hospitals"].items()
}


Noise = NDArray[np.float32]
# Against PTB-XL's NORM records Dower's torso shows V1 too large and V2-V4 too small.
CHEST_GAIN: Array = np.array((0.82, 1.25, 1.25, 1.15, 1.05, 0.95))


def stream(hospital: Hospital, seed: int, kind: str, number: int) -> np.random.Generator:
    """Give every patient and record a generator of its own, whatever else is made."""
    return np.random.default_rng([seed, crc32(f"{hospital.name} {kind}".encode()), number])


def _wobble(
    rng: np.random.Generator, knots_hz: float, size: Noise | float, rows: int, hospital: Hospital
) -> Noise:
    """Smooth noise, (rows, samples): random values `knots_hz` times a second, eased between."""
    samples = hospital.rate * hospital.seconds
    hop = round(hospital.rate / knots_hz)
    knots = rng.standard_normal((rows, -(-samples // hop) + 1), dtype=np.float32) * size
    u = np.arange(hop, dtype=np.float32) / np.float32(hop)
    eased = (knots[:, 1:] - knots[:, :-1])[:, :, None] * (u * u * (3 - 2 * u))
    eased += knots[:, :-1, None]
    return np.asarray(eased.reshape(rows, -1)[:, :samples])


def _electrode_noise(rng: np.random.Generator, hospital: Hospital) -> Noise:
    """Noise of the electrodes RA, LA, LL and V1-V6 in mV, (9, samples)."""
    h, samples = hospital, hospital.rate * hospital.seconds
    time = np.arange(samples) / h.rate
    # A record is restless as a whole; skin and cable are each electrode's own.
    level = np.exp(rng.normal(0, 0.7, 3) + rng.normal(0, 0.5, (9, 3))).astype(np.float32)
    level *= np.array((h.wander, h.motion, h.muscle), np.float32)
    wander, motion, muscle = np.hsplit(level, 3)
    muscle[:3] *= 2  # arms and legs tremble, the chest hardly
    noise = rng.random((9, samples), dtype=np.float32)
    noise -= np.float32(0.5)
    noise *= muscle * np.float32(np.sqrt(12))
    noise += _wobble(rng, 12, motion, 9, h)
    noise *= 0.3 + np.abs(_wobble(rng, 0.8, 1.0, 1, h))  # a patient stirs now and then
    noise += _wobble(rng, 0.8, wander, 9, h)
    hertz = np.array((rng.uniform(0.17, 0.32), h.mains_hz))  # breathing and the mains
    waves = np.sin(2 * np.pi * (hertz[:, None] * time + rng.uniform(0, 1, (2, 1))))
    size = np.hstack([0.6 * wander, np.full((9, 1), h.mains)]) * rng.standard_normal((9, 2))
    noise += size.astype(np.float32) @ waves.astype(np.float32)
    return noise


def _placement(rng: np.random.Generator, hospital: Hospital) -> NDArray[np.float32]:
    """Dower's matrix of this record: a turned torso, precordial electrodes out of place."""
    angle = np.radians(rng.normal(0, hospital.rotation))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = DOWER @ np.array([(cos, 0, -sin), (0, 1, 0), (sin, 0, cos)])
    # A technician who starts too far left stays too far left.
    shift = hospital.misplaced * (0.7 * rng.standard_normal() + 0.7 * rng.standard_normal(6))
    site = np.clip(np.arange(6) + shift, 0, 5)
    low = np.minimum(site.astype(int), 4)
    part = (site - low)[:, None]
    chest = matrix[2:]
    matrix[2:] = (1 - part) * chest[low] + part * chest[low + 1]
    near = np.exp(0.12 * rng.standard_normal() + 0.14 * rng.standard_normal(6))
    matrix[2:] *= (CHEST_GAIN * near)[:, None]
    if rng.random() < hospital.swapped:  # the arms: I turns over, II and III change places
        matrix[:2] = -matrix[0], matrix[1] - matrix[0]
    return np.asarray(matrix, np.float32)


def draw_records(hospital: Hospital, plans: dict[int, Plan], seed: int) -> NDArray[np.int16]:
    """Record the plans of these record numbers in ADC units, (n_plans, 12, samples), as `LEADS`."""
    dipoles = ecg.draw(list(plans.values()), hospital.rate, hospital.seconds)
    out = np.empty((len(plans), 12, dipoles.shape[2]), np.int16)
    for i, record in enumerate(plans):
        rng = stream(hospital, seed, "signal", record)
        signal = _placement(rng, hospital) @ dipoles[i]
        noise = _electrode_noise(rng, hospital)
        signal[:2] += noise[1:3] - noise[0]
        signal[2:] += noise[3:] - noise[:3].mean(axis=0)
        # The amplifier saturates at 10 mV, so that III and aVR fit into 16 bits as well.
        digital = np.rint(np.clip(signal, -10, 10) * hospital.gain).astype(np.int32)
        out[i] = twelve_leads(digital)
    return out


CHRONIC = ("LBBB", "RBBB", "LAnFB", "IAVB", "LVH", "LQRSV", "MI")
PASSING = ("PAC", "PVC", "STE", "STD", "TInv")

_TOGETHER = 4  # records that are drawn at once
_JOB = 100  # records; a multiple of the above
_WORTH_A_PROCESS = 300  # records: a process begins in about the time it takes to write so many


def patient_of(hospital: Hospital, record: int) -> int:
    """Patient number of a record: every `repeat_every`-th is the second of the patient before."""
    return record - (record % hospital.repeat_every == hospital.repeat_every - 1)


def _at_age(hospital: Hospital, finding: str, age: float) -> float:
    """Prevalence of a finding at an age: the hospital's at 60, moved along `AGE_SLOPE`."""
    p = hospital.prevalence.get(finding, 0.0)
    odds = p / (1 - p) * np.exp(AGE_SLOPE.get(finding, 0.0) * (age - 60) / 10)
    return float(odds / (1 + odds))


def draw_hospital_patient(hospital: Hospital, seed: int, number: int) -> Patient:
    """Draw the patient with this number: age, sex, heart, body and chronic findings."""
    rng = stream(hospital, seed, "patient", number)
    age = float(np.clip(rng.normal(hospital.age, hospital.age_spread), 18, 94).round())
    female = bool(rng.random() < hospital.women)
    chronic: set[str] = set()
    for finding in CHRONIC:
        chance = _at_age(hospital, finding, age)
        if finding == "LAnFB" and "RBBB" in chronic:  # the two share a blood supply
            chance = min(5 * chance, 0.5)
        if rng.random() < chance and not ecg.conflict(chronic | {finding}):
            chronic.add(finding)
    return draw_patient(rng, age, female, frozenset(chronic))


def plan_hospital_record(hospital: Hospital, seed: int, record: int) -> tuple[Patient, Plan]:
    """Plan one record; the truth depends on the hospital, the seed and its number alone."""
    patient = draw_hospital_patient(hospital, seed, patient_of(hospital, record))
    rng = stream(hospital, seed, "plan", record)
    rhythms = list(ecg.RHYTHMS)
    share = np.array([_at_age(hospital, r, patient.age) for r in rhythms])
    share *= [not ecg.conflict(patient.chronic | {r}) for r in rhythms]
    share[0] = 0.5
    findings = {str(rng.choice(rhythms, p=share / share.sum()))} | patient.chronic
    for finding in PASSING:
        chance = _at_age(hospital, finding, patient.age)
        if rng.random() < chance and not ecg.conflict(findings | {finding}):
            findings.add(finding)
    return patient, ecg.plan_record(rng, patient, frozenset(findings), hospital.seconds)


def coded_findings(
    hospital: Hospital, findings: frozenset[str], rng: np.random.Generator
) -> list[str]:
    """List what this hospital's readers write down of the findings present."""
    found = []
    for finding in (f for f in FINDINGS if f in findings):
        chance = hospital.coded.get(finding, hospital.coded_else)
        if finding == "NSR" and len(findings) > 1:
            chance = hospital.sinus_beside_others
        if rng.random() < chance:
            mistaken = rng.random() < hospital.mistaken
            found.append(LOOKALIKE.get(finding, finding) if mistaken else finding)
    return list(dict.fromkeys(found)) or ["NSR"]


def _header(h: Hospital, name: str, signal: NDArray[np.int16], facts: dict[str, str]) -> str:
    """Write the header of a record whose signal, (12, samples), stands as in `LEADS`."""
    lines = [f"{name} 12 {h.rate} {signal.shape[1]}"]
    sums = signal.sum(axis=1, dtype=np.int64).astype(np.int16)
    for lead in h.leads:
        k = LEADS.index(lead)
        label = lead.upper() if h.upper_case else lead
        lines.append(f"{name}.dat 16 {h.gain}/mV 16 0 {signal[k, 0]} {sums[k]} 0 {label}")
    return "\n".join([*lines, *(f"#{key}: {value}" for key, value in facts.items()), ""])


def _write_records(part: Path, hospital: Hospital, seed: int, first: int, last: int) -> None:
    order = [LEADS.index(lead) for lead in hospital.leads]
    codes = SNOMED | hospital.codes
    for start in range(first, last, _TOGETHER):
        numbers = range(start, min(start + _TOGETHER, last))
        planned = {i: plan_hospital_record(hospital, seed, i) for i in numbers}
        signals = draw_records(hospital, {i: p for i, (_, p) in planned.items()}, seed)
        for (i, (patient, plan)), signal in zip(planned.items(), signals, strict=True):
            name = f"{hospital.prefix}{i:05d}"
            coded = coded_findings(hospital, plan.findings, stream(hospital, seed, "codes", i))
            facts = {
                "Age": f"{patient.age:.0f}",
                "Sex": "Female" if patient.female else "Male",
                "Dx": ",".join(codes[finding] for finding in coded),
                "Patient": f"p{patient_of(hospital, i):05d}",
            }
            (part / f"{name}.hea").write_text(_header(hospital, name, signal, facts), newline="\n")
            (part / f"{name}.dat").write_bytes(signal[order].T.astype("<i2").tobytes())


def write_hospital(folder: Path, hospital: Hospital | str, n: int, seed: int) -> None:
    """Write `n` records of a hospital, or of the one of this name, as WFDB files, or nothing.

    The folder is made by this call, and holds RECORDS and two files a record. Another seed, other
    patients. Record `i` is the same bytes whatever `n`, on the same machine; numpy may round an
    exponential otherwise on another processor, which moves a sample by one unit. Raises UserError
    if there is no such hospital, or the folder exists and is not empty.
    """
    if isinstance(hospital, str):
        if hospital not in HOSPITALS:
            raise UserError(f"no hospital {hospital!r}; there are {', '.join(HOSPITALS)}")
        hospital = HOSPITALS[hospital]
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        part = Path(aside, folder.name)
        part.mkdir()
        part.chmod(0o755)  # a cache may be shared
        jobs = [(part, hospital, seed, start, min(start + _JOB, n)) for start in range(0, n, _JOB)]
        deque(in_processes(_write_records, jobs, n // _WORTH_A_PROCESS), maxlen=0)
        names = (f"{hospital.prefix}{i:05d}\n" for i in range(n))
        (part / "RECORDS").write_bytes("".join(names).encode())
        os.replace(part, folder)
