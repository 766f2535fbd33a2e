"""The heart of a simulated patient: its waves on the dipole, and the leads that see it.

Every wave of the ECG is a Gaussian on the heart's dipole (the vectorcardiogram): P, Q, R, S, the
slow end of a blocked ventricle, ST and T. The sum of Gaussians goes back to ECGSYN (McSharry et al.
2003, doi:10.1109/TBME.2003.808805), the moving dipole to Sameni et al. 2007
(doi:10.1155/2007/43407), the lead matrix to Dower (Edenbrandt and Pahlm 1988,
doi:10.1016/0022-0736(88)90113-6). Its axes are Frank's: x to the patient's left, y to the feet, z
to the back. Millivolts, seconds and degrees throughout.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

REGIONS: dict[str, Array] = {  # where a wall of the left ventricle looks
    "anterior": np.array((0.25, 0.0, -0.97)),
    "lateral": np.array((0.93, -0.35, 0.1)),
    "inferior": np.array((-0.2, 0.97, 0.1)),
}
# fmt: off
# Rows: I, II, V1-V6; columns: x, y, z of the dipole.
DOWER: Array = np.array([
    (0.632, -0.235, 0.059), (0.235, 1.066, -0.132), (-0.515, 0.157, -0.917), (0.044, 0.164, -1.387),
    (0.882, 0.098, -1.277), (1.213, 0.127, -0.601), (1.125, 0.127, -0.086), (0.831, 0.076, 0.230),
])
# Waves are rows of (anchor, offset, width, x, y, z). Anchors: onset of P, onset of QRS, end of T.
# Offset and width are fractions of the QRS duration in the QRS tables, seconds elsewhere. They are
# set by hand to the median amplitudes of PTB-XL's NORM, CLBBB, CRBBB and LAFB records in each lead.
P, QRS, T = 0, 1, 2
ATRIA = np.array([(P, 0.033, 0.016, 0.060, 0.09, -0.035), (P, 0.068, 0.018, 0.085, 0.05, 0.05)])
T_WAVE = np.array([(T, -0.125, 0.046, 0.20, 0.11, -0.15), (T, -0.075, 0.031, 0.25, 0.13, -0.16)])
NORMAL_QRS = np.array([
    (QRS, 0.235, 0.080, -0.14, -0.04, -0.29),  # the septum, from left to right
    (QRS, 0.420, 0.088, 1.00, 0.48, -0.26),  # the apex
    (QRS, 0.544, 0.088, 0.86, 0.37, 0.84),  # the left free wall
    (QRS, 0.748, 0.084, -0.10, -0.06, 0.34),  # the base
])
LBBB_QRS = np.array([  # no septal q; slow and notched, away from the right ventricle
    (QRS, 0.230, 0.082, 0.22, 0.08, 0.02),
    (QRS, 0.405, 0.106, 0.64, 0.30, 1.50),
    (QRS, 0.610, 0.116, 0.80, 0.22, 1.60),
    (QRS, 0.800, 0.060, 0.10, 0.02, 0.15),
])
RBBB_QRS = np.array([  # the left ventricle as usual, then slowly the right one
    (QRS, 0.157, 0.053, -0.12, -0.04, -0.26),
    (QRS, 0.286, 0.062, 0.92, 0.46, -0.28),
    (QRS, 0.379, 0.062, 0.56, 0.30, 0.12),
    (QRS, 0.672, 0.118, -0.52, -0.04, -0.80),
])
# fmt: on
# Table, rows that share the frontal axis, and where in the QRS the R peak lies.
CONDUCTION = {
    "": (NORMAL_QRS, slice(1, 4), 0.48),
    "LBBB": (LBBB_QRS, slice(1, 4), 0.52),
    "RBBB": (RBBB_QRS, slice(1, 3), 0.33),
}


@dataclass(frozen=True)
class Patient:
    """What a patient carries from record to record: body, heart and chronic findings."""

    age: float
    female: bool
    chronic: frozenset[str]  # findings of every record of this patient
    region: str  # where an infarct or ischaemia lies, of `REGIONS`
    size: float  # QRS amplitude, 1 = average
    axis: float  # frontal QRS axis, degrees
    turn: float  # of the heart about the body's long axis, degrees backwards
    pr: float  # at 70 beats a minute, seconds
    qrs: float  # seconds
    qtc: float  # at 60 beats a minute, seconds
    heart_rate: float  # at rest in sinus rhythm, beats a minute
    hrv: float  # respiratory variation of RR, a fraction
    jitter: Array  # (16, 4) standard normal: what makes each wave this patient's own


def draw_patient(
    rng: np.random.Generator, age: float, female: bool, chronic: frozenset[str] = frozenset()
) -> Patient:
    """Draw a patient's heart and body.

    With age the axis moves left, the heart turns back, voltage falls and breathing moves the heart
    rate less; women have lower voltages, a shorter QRS and a longer QT (Rijnbeek et al. 2014,
    doi:10.1016/j.jelectrocard.2014.07.022). Medians and spreads follow PTB-XL's NORM records.
    """
    normal = rng.standard_normal(8)
    axis = min(max(58 - 1.1 * (age - 50) + 28 * normal[0], -28), 100)
    axis = rng.uniform(-72, -42) if "LAnFB" in chronic else axis - 45 * ("LBBB" in chronic)
    size = (0.93 if female else 1.05) * np.exp(0.25 * normal[1] - 0.003 * (age - 50))
    size = rng.uniform(1.4, 2.0) if "LVH" in chronic else size
    qrs = min(max((0.088 if female else 0.094) + 0.007 * normal[2], 0.072), 0.112)
    if {"LBBB", "RBBB"} & chronic:
        qrs = rng.uniform(0.128, 0.168)
    elif {"LAnFB", "LVH"} & chronic:
        qrs = rng.uniform(0.094, 0.114)
    pr = min(max(0.155 + 0.0003 * (age - 50) + 0.018 * normal[3], 0.115), 0.192)
    if "IAVB" in chronic:
        pr = rng.uniform(0.212, 0.26 if rng.random() < 0.7 else 0.34)
    hrv = 0.075 * min(max(1.5 - age / 75, 0.3), 1.2) * np.exp(0.7 * normal[7])
    return Patient(
        age=age,
        female=female,
        chronic=chronic,
        region=("anterior", "inferior", "lateral", "inferior", "anterior")[rng.integers(5)],
        size=float(size),
        axis=float(axis),
        turn=float(12 * normal[4] + 0.5 * (age - 50)),
        pr=float(pr),
        qrs=float(qrs),
        qtc=float((0.415 if female else 0.403) + 0.016 * normal[5]),
        heart_rate=float(min(max(71 + 9 * normal[6], 61), 97)),
        hrv=float(hrv),
        jitter=rng.standard_normal((16, 4)),
    )


def block_of(findings: frozenset[str]) -> str:
    """Name the bundle branch block among findings, or return an empty string."""
    return "LBBB" if "LBBB" in findings else "RBBB" if "RBBB" in findings else ""


def _turned(vectors: Array, plane: tuple[int, int], degrees: float) -> Array:
    """Rotate dipoles (..., 3) in the plane of two of their axes, from the first to the second."""
    a, b = plane
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    out = vectors.copy()
    out[..., a] = cos * vectors[..., a] - sin * vectors[..., b]
    out[..., b] = sin * vectors[..., a] + cos * vectors[..., b]
    return out


def _axis_turn(vector: Array, axis: float) -> float:
    """Degrees to turn `vector` in the frontal plane until leads I and aVF show `axis`."""
    seen = np.array((np.cos(np.radians(axis)), np.sin(np.radians(axis)) * np.sqrt(3) / 2))
    aim = np.linalg.solve(np.stack([DOWER[0, :2], DOWER[1, :2] - DOWER[0, :2] / 2]), seen)
    return float(np.degrees(np.arctan2(aim[1], aim[0]) - np.arctan2(vector[1], vector[0])))


def conducted_waves(
    rng: np.random.Generator, patient: Patient, findings: frozenset[str], qt: float
) -> Array:
    """Waves of a beat from above (n, 6): the atria first, offsets and widths in seconds."""
    atria = ATRIA.copy()
    atria[:, 3:] *= np.exp(0.35 * patient.jitter[12, 3] + 0.25 * patient.jitter[12, :3])
    atria[:, 3:] += 0.012 * patient.jitter[13:15, :3]
    qrs = _qrs_waves(patient, findings)
    st_t = _st_t_waves(rng, patient, findings, qrs, qt)
    return np.concatenate([qrs, st_t] if {"AF", "AFL"} & findings else [atria, qrs, st_t])


def _qrs_waves(patient: Patient, findings: frozenset[str]) -> Array:
    """Build the QRS complex of a conducted beat, (n, 6)."""
    block = block_of(findings)
    table, main, _ = CONDUCTION[block]
    size, jitter = patient.size, patient.jitter
    qrs = table.copy()
    qrs[main, 3:] = _turned(qrs[main, 3:], (0, 1), _axis_turn(qrs[main, 3:].sum(0), patient.axis))
    qrs[:, 3:] *= size * np.exp(0.2 * jitter[:4, :3])
    qrs[:, 3:] += 0.07 * size * jitter[4:8, :3]
    if "LAnFB" in findings:
        # First downwards: q in I, r in III. Last up and to the right: S as far as V6.
        qrs[main, 3:] *= 0.85
        qrs[0, 3:] = np.array((-0.16, 0.15, -0.24)) * size
        if not block:
            qrs[3, 3:] += np.array((-0.30, -0.20, 0.10)) * size
    if block != "LBBB":
        qrs[:, 3:] = _turned(qrs[:, 3:], (0, 2), patient.turn)
    if "MI" in findings:  # a dead wall lets the other side win: Q
        wall = REGIONS[patient.region]
        qrs[1, 3:] -= max(float(qrs[1, 3:] @ wall), 0.0) * wall * 0.6
        qrs = np.vstack([qrs, (QRS, 0.32, 0.115, *(-0.62 * size * wall))])
    if "LQRSV" in findings:  # below 0.5 mV in every limb lead
        bell = np.exp(-0.5 * ((np.linspace(0, 1, 50) - qrs[:, 1:2]) / qrs[:, 2:3]) ** 2)
        limb = twelve_leads(DOWER @ (qrs[:, 3:].T @ bell))[:6]
        aim = 0.43 + 0.03 * np.clip(jitter[15, 0], -2, 1)
        qrs[:, 3:] *= min(aim / np.ptp(limb, axis=1).max(), 1)
    qrs[:, 1:3] *= patient.qrs
    return qrs


def _st_t_waves(
    rng: np.random.Generator, patient: Patient, findings: frozenset[str], qrs: Array, qt: float
) -> Array:
    """Build the ST segment and T wave of a conducted beat, (4, 6)."""
    jitter, wall = patient.jitter, REGIONS[patient.region]
    wave = T_WAVE.copy()
    wave[:, 1:3] *= qt / 0.40
    # Flat T waves go with age, digitalis in AF, and a low voltage.
    flat = 0.35 * jitter[8, 3] - 0.011 * (patient.age - 50) - 0.7 * bool({"AF", "AFL"} & findings)
    t = wave[:, 3:] * np.exp(flat - 0.5 * ("LQRSV" in findings) + 0.25 * jitter[8, :3])
    t *= 0.85 if patient.female else 1.1
    t = _turned(t + 0.03 * jitter[9, 1:], (0, 1), 0.12 * (patient.axis - 45) + 8 * jitter[9, 0])
    st = 0.03 * jitter[10, :3] - np.array((0, 0, 0.03))
    if "LBBB" in findings or ("LVH" in findings and jitter[11, 0] > 0):  # opposite to the QRS
        pull = qrs[:, 3:].sum(0) * (0.11 if "LBBB" in findings else 0.09)
        t = 0.2 * t - 0.8 * pull
        st -= 0.55 * pull
    if "RBBB" in findings:
        t += np.array((0.065, 0.0, 0.13))
    if "STE" in findings:
        level = rng.uniform(0.13, 0.38)
        st += level * wall
        t += 0.5 * level * wall
    if "STD" in findings:  # below the inner wall: down in II and V4-V6, up in aVR
        st -= rng.uniform(0.09, 0.22) * np.array((0.75, 0.55, -0.35))
        t *= rng.uniform(0.3, 0.9)
    if "TInv" in findings:
        t -= (np.maximum(t @ wall, 0)[:, None] + rng.uniform(0.12, 0.28)) * wall
    wave[:, 3:] = t
    return np.vstack([(QRS, patient.qrs + k, 0.034, *st) for k in (0.045, 0.105)] + [wave])


def ventricular_waves(rng: np.random.Generator) -> Array:
    """Waves of a PVC: one broad loop away from its origin, repolarised the other way."""
    if rng.random() < 0.6:  # from the right ventricle: like LBBB
        way = np.array((0.6, rng.uniform(-0.8, 1.0), rng.uniform(0.5, 1.1)))
    else:
        way = np.array((rng.uniform(-0.8, 0.3), rng.uniform(-1.0, 0.9), rng.uniform(-1.1, -0.4)))
    way *= rng.uniform(0.9, 1.6) / np.linalg.norm(way)
    width = rng.uniform(0.13, 0.18)
    bend = rng.uniform(-0.25, 0.25, (4, 3))
    loop = [(0.20, 0.09, 0.25), (0.42, 0.13, 1.0), (0.66, 0.13, 0.8), (0.85, 0.07, 0.1)]
    rows = [
        (QRS, u * width, s * width, *(a * (way + b)))
        for (u, s, a), b in zip(loop, bend, strict=True)
    ]
    rows += [(QRS, width + k, 0.04, *(-0.10 * way)) for k in (0.04, 0.11)]
    rows += [(T, k, s, *(-0.2 * way)) for k, s in ((-0.11, 0.05), (-0.06, 0.036))]
    return np.array(rows)


def fibrillation_waves(rng: np.random.Generator, seconds: float) -> Array:
    """F waves, 350-540 a minute, best seen in V1; their size waxes and wanes."""
    period = 1 / rng.uniform(5.8, 9.0)
    n = int((seconds + 2) / period)
    time = -1 + period * (np.arange(n) + 0.22 * rng.standard_normal(n))
    swell = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.15, 0.5) * time)
    size = rng.choice([0.02, 0.05, 0.09]) * rng.uniform(0.7, 1.3) * swell
    dipole = size[:, None] * (np.array((-0.5, 0.7, -0.8)) + 0.5 * rng.standard_normal((n, 3)))
    return np.column_stack([time, np.full(n, 0.27 * period), dipole])


def flutter_waves(rng: np.random.Generator, onsets: Array, cycle: float) -> Array:
    """Sawtooth F waves in step with the ventricles, pointing down in the inferior leads."""
    time = np.arange(onsets[0] + rng.uniform() * cycle, onsets[-1], cycle)
    size = rng.uniform(0.10, 0.24) * np.array((0.05, -1.0, rng.uniform(-0.5, 0.1)))
    down = np.column_stack([time, np.full(len(time), 0.20 * cycle), np.tile(size, (len(time), 1))])
    up = down * (1, 0.5, -0.5, -0.5, -0.5) + (0.4 * cycle, 0, 0, 0, 0)
    return np.concatenate([down, up])


def twelve_leads(independent: NDArray[Any]) -> NDArray[Any]:
    """Put III, aVR, aVL and aVF between I, II and V1-V6, (..., 8, samples), as `LEADS` stand.

    Of integers the augmented leads are rounded down; III = II - I is exact.
    """
    one, two = independent[..., 0, :], independent[..., 1, :]
    half = np.floor_divide if np.issubdtype(independent.dtype, np.integer) else np.true_divide
    limb = [one, two, two - one, -half(one + two, 2), one - half(two, 2), two - half(one, 2)]
    return np.concatenate([np.stack(limb, axis=-2), independent[..., 2:, :]], axis=-2)
