"""Plan and draw simulated ECGs: when the heart beats, and what the dipole then does.

A record is planned first and drawn afterwards. The *plan* is the truth: when each beat falls, which
intervals were asked for, and every Gaussian wave on the heart's dipole. Drawing sums the waves;
Dower's matrix shows them to the eight independent leads; the other four limb leads follow by
Einthoven's and Goldberger's laws, after noise and rounding. Seconds and millivolts throughout.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgnb.simulate import heart
from ecgnb.simulate.heart import ATRIA, DOWER, LEADS, Array, Patient, draw_patient, twelve_leads

__all__ = ["DOWER", "LEADS", "draw", "draw_patient", "plan_record", "twelve_leads"]

RHYTHMS = ("NSR", "SB", "STach", "SA", "AF", "AFL")
OTHERS = ("PAC", "PVC", "IAVB", "LBBB", "RBBB", "LAnFB", "LVH", "LQRSV", "STD", "STE", "TInv", "MI")
FINDINGS = (*RHYTHMS, *OTHERS)
CONFLICTS = (  # what one record cannot show together, or nobody could read off it
    ({"AF", "AFL"}, {"IAVB", "PAC"}),
    ({"AFL"}, {"PVC"}),
    ({"LBBB"}, {"RBBB", "LAnFB", "STD", "STE", "TInv", "MI", "LVH"}),
    ({"LVH"}, {"LQRSV"}),
    ({"STE"}, {"STD"}),
)


@dataclass(frozen=True)
class Plan:
    """The truth of one record; intervals and axis are those of the conducted beats."""

    findings: frozenset[str]  # names from `FINDINGS`, exactly one of them from `RHYTHMS`
    beats: Array  # R peaks inside the record, seconds
    kinds: NDArray[np.str_]  # `N`, `A` (PAC) or `V` (PVC) for each
    heart_rate: float  # median beats a minute
    pr: float  # seconds, as the next one; nan without P waves
    qrs: float
    axis: float  # frontal, degrees, before a block or an infarct bends it
    waves: Array  # every Gaussian, (n, 5): centre, width (seconds), x, y, z (millivolts)


def conflict(findings: Set[str]) -> bool:
    """Tell whether one record cannot show all of these."""
    return any(findings & one and findings & other for one, other in CONFLICTS)


def plan_record(
    rng: np.random.Generator, patient: Patient, findings: frozenset[str], seconds: float
) -> Plan:
    """Plan one record of `patient` that shows `findings` and nothing else that has a name here."""
    rhythms = [r for r in RHYTHMS if r in findings]
    if len(rhythms) != 1 or not patient.chronic <= findings <= set(FINDINGS):
        raise ValueError(f"not one rhythm with the chronic findings: {sorted(findings)}")
    if conflict(findings):
        raise ValueError(f"findings that exclude each other: {sorted(findings)}")
    cycle = rng.uniform(0.178, 0.25)  # of the flutter circuit
    intervals = _intervals(rng, rhythms[0], patient, cycle, seconds)
    start = -2 + rng.uniform() * intervals[0]
    usual = start + np.cumsum(intervals)
    rr = float(np.median(np.diff(usual[(usual > 0) & (usual < seconds)])))
    onsets, kinds = _ectopy(rng, start, intervals, findings, seconds)
    onsets, kinds = onsets[onsets < seconds + 1], kinds[onsets < seconds + 1]
    pr = max(patient.pr - 0.0004 * (60 / rr - 70), 0.208 if "IAVB" in findings else 0.11)
    qt = float(max(patient.qtc * rr**0.42, 2.2 * patient.qrs))
    # QT follows the last interval in part only; PR hardly varies.
    last = np.diff(onsets, prepend=onsets[0] - intervals[0]) / rr
    qts = qt * (0.8 + 0.2 * np.clip(last, 0.5, 1.5) ** 0.4)
    prs = pr + 0.003 * rng.standard_normal(len(onsets))
    anchors = np.stack([onsets - prs, onsets, onsets + qts])
    # Breathing moves the heart under the electrodes.
    breath = np.sin(2 * np.pi * rng.uniform(0.17, 0.32) * onsets + rng.uniform(0, 2 * np.pi))
    sway = 1 + breath[:, None] * rng.uniform(-0.09, 0.09, 3)
    sway *= 1 + 0.02 * rng.standard_normal((len(onsets), 3))
    normal = heart.conducted_waves(rng, patient, findings, qt)
    tables = {"N": normal, "A": normal.copy()}
    if "PAC" in findings:  # from elsewhere in the atria
        ways = [(0.9, -1.0, 1.2), (0.4, 0.5, -1.3), (-1.0, 0.6, 1.0)]
        tables["A"][: len(ATRIA), 3:] *= rng.choice(ways)
    if "PVC" in findings:
        tables["V"] = heart.ventricular_waves(rng)
    waves = [
        _placed(tables[str(k)], anchors[:, kinds == k], sway[kinds == k]) for k in np.unique(kinds)
    ]
    if "AF" in findings:
        waves.append(heart.fibrillation_waves(rng, seconds))
    if "AFL" in findings:
        waves.append(heart.flutter_waves(rng, onsets, cycle))
    usual_peak = heart.CONDUCTION[heart.block_of(findings)][2] * patient.qrs
    peaks = onsets + np.where(kinds == "V", 0.075, usual_peak)
    inside = (peaks >= 0) & (peaks < seconds)
    return Plan(
        findings=findings,
        beats=peaks[inside],
        kinds=kinds[inside],
        heart_rate=60 / rr,
        pr=float("nan") if {"AF", "AFL"} & findings else pr,
        qrs=patient.qrs,
        axis=patient.axis,
        waves=np.concatenate(waves),
    )


def _intervals(
    rng: np.random.Generator, rhythm: str, patient: Patient, cycle: float, seconds: float
) -> Array:
    """RR intervals of the basic rhythm that more than fill the record, seconds."""
    n = int((seconds + 6) / 0.30)
    if rhythm == "AFL":
        modes = [(2, 2, 2, 2), (4, 4, 4, 4), (2, 4, 3, 4), (3, 3, 4, 2)]
        return np.asarray(cycle * rng.choice(modes[rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])], n))
    if rhythm == "AF":
        # The AV node lets impulses through at random: skewed, and never faster than refractory.
        mean = 60 / min(max(88 * np.exp(0.32 * rng.standard_normal()), 42), 175)
        spread = rng.uniform(0.11, 0.29)
        return np.asarray(np.maximum(mean * rng.gamma(spread**-2, spread**2, n), 0.30))
    rate: float = {
        "NSR": min(max(patient.heart_rate + 4 * rng.standard_normal(), 61), 98),
        "SB": 59.5 - min(rng.gamma(2.2, 5), 21),
        "STach": 101 + min(rng.gamma(1.6, 9), 60),
        "SA": rng.uniform(56, 88),
    }[rhythm]
    mean = 60 / rate
    # The vagus, which breathes on the heart rate, is at work in slow hearts and not in fast ones.
    depth = rng.uniform(0.11, 0.22) if rhythm == "SA" else min(patient.hrv * mean**1.5, 0.11)
    phase = 2 * np.pi * mean * np.arange(n)
    breath = np.sin(rng.uniform(0.17, 0.3) * phase + rng.uniform(0, 6.3))
    pressure = np.sin(rng.uniform(0.06, 0.12) * phase + rng.uniform(0, 6.3))  # Mayer's waves
    varied = 1 + depth * (breath + 0.4 * pressure) + 0.012 * rng.standard_normal(n)
    return np.asarray(mean * varied)


def _ectopy(
    rng: np.random.Generator,
    start: float,
    intervals: Array,
    findings: frozenset[str],
    seconds: float,
) -> tuple[Array, NDArray[np.str_]]:
    """Onsets of all beats and their kinds, with premature beats put in.

    A PVC leaves the sinus node alone, so the next interval makes up for its prematurity (a full
    compensatory pause). A PAC resets the node, so the pause is shorter.
    """
    onsets = start + np.cumsum(intervals)
    kinds = np.full(len(intervals), "N")
    inside = np.flatnonzero((onsets > 0.6) & (onsets < seconds - 0.8))
    early = rng.uniform(0.55, 0.75) + 0.03 * rng.standard_normal(len(intervals))
    usual, intervals = intervals, intervals.copy()
    for kind, finding in (("A", "PAC"), ("V", "PVC")):
        if finding not in findings:
            continue
        if kind == "V" and rng.random() < 0.12:  # bigeminy or trigeminy
            chosen = inside[1 :: int(rng.integers(2, 4))]
        else:
            chosen = rng.permutation(inside[1:-1])[: 1 + min(rng.poisson(1.0), len(inside) // 4)]
        for beat in chosen:
            if (kinds[beat - 1 : beat + 2] == "N").all():
                kinds[beat] = kind
                intervals[beat] = early[beat] * usual[beat]
                pause = 1.05 if kind == "A" else 1.1 if "AF" in findings else 2 - early[beat]
                intervals[beat + 1] = pause * usual[beat]
    return start + np.cumsum(intervals), kinds


def _placed(table: Array, anchors: Array, sway: Array) -> Array:
    """Waves of all beats of one kind: a table (n, 6), anchors (3, beats) -> (beats * n, 5)."""
    centre = anchors[table[:, 0].astype(int)] + table[:, 1, None]
    width = np.broadcast_to(table[:, 2, None], centre.shape)
    dipole = table[:, None, 3:] * sway
    return np.concatenate([np.stack([centre, width], axis=-1), dipole], axis=-1).reshape(-1, 5)


def draw(plans: Sequence[Plan], rate: float, seconds: float) -> NDArray[np.float32]:
    """Draw many dipoles, (n_plans, 3, samples) in mV, of zero mean as an AC-coupled recorder's.

    A wave is drawn within 3.5 widths of its centre (beyond, it is below 0.3 %), together with those
    of like width: the work grows with the beats, not with the samples. The order of summation
    within a record does not depend on the other records, so its bytes are the same in any batch.
    """
    samples = round(rate * seconds)
    waves = np.concatenate([p.waves for p in plans])
    owner = np.repeat(np.arange(len(plans)), [len(p.waves) for p in plans])
    reach = np.ceil(3.5 * waves[:, 1] * rate / 8).astype(int) * 8
    first = np.round(waves[:, 0] * rate).astype(int) - reach
    seen = np.flatnonzero((first < samples) & (first + 2 * reach >= 0))
    order = seen[np.argsort(reach[seen], kind="stable")]
    waves, reach, first = waves[order], reach[order], first[order]
    margin = 2 * int(reach[-1])
    padded = samples + 2 * margin
    begin = first + owner[order] * padded + margin
    start = ((first / rate - waves[:, 0]) / waves[:, 1]).astype(np.float32)[:, None]
    step = (1 / (rate * waves[:, 1])).astype(np.float32)[:, None]
    place = np.empty(int((2 * reach + 1).sum()), np.intp)
    height = np.empty((3, len(place)))
    done = 0
    for r, n in zip(*np.unique(reach, return_counts=True), strict=True):
        rows = slice(np.searchsorted(reach, r), np.searchsorted(reach, r, "right"))
        part = slice(done, done := done + int(n * (2 * r + 1)))
        steps = np.arange(2 * r + 1)
        np.add(begin[rows, None], steps, out=place[part].reshape(n, -1))
        bell = start[rows] + steps.astype(np.float32) * step[rows]
        bell *= bell
        bell *= np.float32(-0.5)
        np.exp(bell, out=bell)
        for axis in range(3):
            np.multiply(bell, waves[rows, 2 + axis, None], out=height[axis, part].reshape(n, -1))
    summed = np.stack([np.bincount(place, h, len(plans) * padded) for h in height])
    dipole = summed.reshape(3, len(plans), padded)[:, :, margin : margin + samples]
    centred = dipole - dipole.mean(axis=2, keepdims=True)
    return np.asarray(centred.transpose(1, 0, 2), np.float32)
