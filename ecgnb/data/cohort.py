"""The patients of a simulated hospital, and their ECGs as real WFDB records.

`write_hospital` writes records as the PhysioNet Challenge does (format 16, SNOMED codes in `#Dx:`),
so that the path from file to label set is the real one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgnb.data import simulate
from ecgnb.data.hospitals import HOSPITALS, SNOMED, Hospital
from ecgnb.data.processes import in_processes
from ecgnb.data.recorder import draw_records, stream
from ecgnb.data.simulate import FINDINGS, LEADS, Patient, Plan
from ecgnb.errors import UserError

CHRONIC = ("LBBB", "RBBB", "LAnFB", "IAVB", "LVH", "LQRSV", "MI")
PASSING = ("PAC", "PVC", "STE", "STD", "TInv")
# Log-odds a decade of age: how much commoner a finding is in the old.
AGE_SLOPE = {"AF": 0.6, "AFL": 0.4, "LBBB": 0.5, "RBBB": 0.4, "LAnFB": 0.4, "IAVB": 0.4, "PVC": 0.3}
AGE_SLOPE |= {"SA": -0.3, "MI": 0.4, "LVH": 0.3, "PAC": 0.2, "STach": -0.1}
# Findings that a hurried reader takes for one another.
LOOKALIKE = {"PAC": "PVC", "PVC": "PAC", "AF": "AFL", "AFL": "AF", "STD": "TInv", "TInv": "STD"}
LOOKALIKE |= {"SA": "PAC", "LBBB": "RBBB", "LAnFB": "MI", "NSR": "SA"}

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


def _conflict(findings: set[str], finding: str) -> bool:
    both = findings | {finding}
    return any(both & one and both & other for one, other in simulate.CONFLICTS)


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
        if rng.random() < chance and not _conflict(chronic, finding):
            chronic.add(finding)
    return simulate.draw_patient(rng, age, female, frozenset(chronic))


def plan_hospital_record(hospital: Hospital, seed: int, record: int) -> tuple[Patient, Plan]:
    """Plan one record; the truth depends on the hospital, the seed and its number alone."""
    patient = draw_hospital_patient(hospital, seed, patient_of(hospital, record))
    rng = stream(hospital, seed, "plan", record)
    rhythms = list(simulate.RHYTHMS)
    share = np.array([_at_age(hospital, r, patient.age) for r in rhythms])
    share *= [not _conflict(set(patient.chronic), r) for r in rhythms]
    share[0] = 0.5
    findings = {str(rng.choice(rhythms, p=share / share.sum()))} | patient.chronic
    for finding in PASSING:
        chance = _at_age(hospital, finding, patient.age)
        if rng.random() < chance and not _conflict(findings, finding):
            findings.add(finding)
    return patient, simulate.plan_record(rng, patient, frozenset(findings), hospital.seconds)


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


def _header(
    hospital: Hospital,
    name: str,
    signal: NDArray[np.int16],
    patient: Patient,
    number: int,
    dx: list[str],
) -> str:
    lines = [f"{name} 12 {hospital.rate} {signal.shape[1]}"]
    sums = signal.sum(axis=1, dtype=np.int64).astype(np.int16)
    for lead in hospital.leads:
        k = LEADS.index(lead)
        label = lead.upper() if hospital.upper_case else lead
        fields = f"16 {hospital.gain}/mV 16 0 {signal[k, 0]} {sums[k]} 0 {label}"
        lines.append(f"{name}.dat {fields}")
    codes = SNOMED | hospital.codes
    lines += [
        f"#Age: {patient.age:.0f}",
        f"#Sex: {'Female' if patient.female else 'Male'}",
        f"#Dx: {','.join(codes[f] for f in dx)}",
        f"#Patient: p{number:05d}",
    ]
    return "\n".join(lines) + "\n"


def _write_records(part: Path, hospital: Hospital, seed: int, first: int, last: int) -> None:
    order = [LEADS.index(lead) for lead in hospital.leads]
    for start in range(first, last, _TOGETHER):
        numbers = range(start, min(start + _TOGETHER, last))
        planned = {i: plan_hospital_record(hospital, seed, i) for i in numbers}
        signals = draw_records(hospital, {i: p for i, (_, p) in planned.items()}, seed)
        for (i, (patient, plan)), signal in zip(planned.items(), signals, strict=True):
            name = f"{hospital.prefix}{i:05d}"
            dx = coded_findings(hospital, plan.findings, stream(hospital, seed, "codes", i))
            number = patient_of(hospital, i)
            header = _header(hospital, name, signal, patient, number, dx)
            (part / f"{name}.hea").write_bytes(header.encode())
            (part / f"{name}.dat").write_bytes(signal[order].T.astype("<i2").tobytes())


def write_hospital(folder: Path, hospital: Hospital | str, n: int, seed: int) -> None:
    """Write `n` records of a hospital as WFDB files, or nothing.

    Parameters
    ----------
    folder : Path
        Made by this call; its parent is made if need be. It holds RECORDS and two files a record.
    hospital : Hospital or str
        A hospital, or its name in `HOSPITALS`.
    n : int
        Number of records. Record `i` is the same bytes whatever `n`.
    seed : int
        Another seed, other patients. The same seed gives the same bytes on the same machine; numpy
        may round an exponential otherwise on another processor, which moves a sample by one unit.

    Raises
    ------
    UserError
        If there is no such hospital, or `folder` exists and is not empty.
    """
    if isinstance(hospital, str):
        if hospital not in HOSPITALS:
            raise UserError(f"no hospital {hospital!r}; there are {', '.join(HOSPITALS)}")
        hospital = HOSPITALS[hospital]
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        jobs = [(part, hospital, seed, start, min(start + _JOB, n)) for start in range(0, n, _JOB)]
        deque(in_processes(_write_records, jobs, n // _WORTH_A_PROCESS), maxlen=0)
        names = (f"{hospital.prefix}{i:05d}\n" for i in range(n))
        (part / "RECORDS").write_bytes("".join(names).encode())
        part.chmod(0o755)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
