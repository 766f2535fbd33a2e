"""How a simulated hospital records: electrodes that are misplaced, noise, rounding.

Noise joins at each electrode, as in life, so that the limb leads share it and Einthoven's law holds
for the sum.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ecgnb.data import simulate
from ecgnb.data.hospitals import Hospital
from ecgnb.data.simulate import DOWER, Array, Plan

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
    """Record planned ECGs: placement of the electrodes, noise, rounding.

    Parameters
    ----------
    hospital : Hospital
        Where they are recorded.
    plans : dict
        Plans by record number.
    seed : int
        With the record's number it decides placement and noise.

    Returns
    -------
    ndarray of int16 (n_plans, 12, samples)
        ADC units, leads in the order of `simulate.LEADS`.
    """
    dipoles = simulate.draw(list(plans.values()), hospital.rate, hospital.seconds)
    out = np.empty((len(plans), 12, dipoles.shape[2]), np.int16)
    for i, record in enumerate(plans):
        rng = stream(hospital, seed, "signal", record)
        signal = _placement(rng, hospital) @ dipoles[i]
        noise = _electrode_noise(rng, hospital)
        signal[:2] += noise[1:3] - noise[0]
        signal[2:] += noise[3:] - noise[:3].mean(axis=0)
        # The amplifier saturates at 10 mV, so that III and aVR fit into 16 bits as well.
        digital = np.rint(np.clip(signal, -10, 10) * hospital.gain).astype(np.int32)
        out[i] = simulate.twelve_leads(digital)
    return out
