"""Two simulated hospitals: who comes, what they have, how the ECG is recorded and how it is coded.

The two differ in all four, as real hospitals do, so that a model can be moved from one to the other
and can fail.
"""

from __future__ import annotations

from dataclasses import dataclass

from ecgnb.data.simulate import LEADS

# fmt: off
SNOMED = {
    "NSR": "426783006", "SB": "426177001", "STach": "427084000", "SA": "427393009",
    "AF": "164889003", "AFL": "164890007", "PAC": "284470004", "PVC": "427172004",
    "IAVB": "270492004", "LBBB": "164909002", "RBBB": "59118001", "LAnFB": "445118002",
    "LVH": "164873001", "LQRSV": "251146004", "STD": "429622005", "STE": "164931005",
    "TInv": "59931005", "MI": "164865005",
}
# fmt: on


@dataclass(frozen=True)
class Hospital:
    """The facts of a simulated hospital.

    Attributes
    ----------
    prefix : str
        First letter of its record names.
    age, age_spread, women : float
        Mean and standard deviation in years, and the share of women.
    repeat_every : int
        Every so many records, the patient of the record before comes back.
    prevalence : dict
        Probability of each finding at the age of 60; the rest of the rhythms is NSR.
    rate, seconds : int
        Samples a second, and the length of a record.
    gain : int
        ADC units per mV.
    leads : tuple of str
        The order in which the leads are written.
    upper_case : bool
        Whether they are spelled AVR or aVR.
    mains_hz, mains, muscle, motion, wander : float
        Hz; then typical amplitudes at an electrode, mV: mains hum, muscle noise, electrode motion
        (up to 10 Hz) and baseline wander (below 1 Hz).
    misplaced, rotation, swapped : float
        Spread of the precordial electrodes' displacement (1 = to the next electrode) and of the
        torso's rotation (degrees); probability that the arm electrodes are swapped.
    codes : dict
        Codes that differ from `SNOMED`.
    coded, coded_else : dict, float
        Probability that a present finding is coded: by name, and for all others.
    sinus_beside_others, mistaken : float
        Probability that NSR is coded beside other findings, and that a coded finding is taken for
        one that looks like it.
    """

    name: str
    prefix: str
    age: float
    age_spread: float
    women: float
    repeat_every: int
    prevalence: dict[str, float]
    rate: int
    seconds: int
    gain: int
    leads: tuple[str, ...]
    upper_case: bool
    mains_hz: float
    mains: float
    muscle: float
    motion: float
    wander: float
    misplaced: float
    rotation: float
    swapped: float
    codes: dict[str, str]
    coded: dict[str, float]
    coded_else: float
    sinus_beside_others: float
    mistaken: float


# fmt: off
HOSPITALS = {
    "sim-north": Hospital(  # old patients, quiet recordings, diligent coding
        name="sim-north", prefix="N", age=64, age_spread=16, women=0.47, repeat_every=5,
        prevalence={
            "SB": 0.11, "STach": 0.08, "SA": 0.05, "AF": 0.11, "AFL": 0.03, "PAC": 0.06,
            "PVC": 0.08, "IAVB": 0.09, "LBBB": 0.06, "RBBB": 0.06, "LAnFB": 0.07, "LVH": 0.09,
            "LQRSV": 0.05, "MI": 0.12, "STE": 0.03, "STD": 0.07, "TInv": 0.08,
        },
        rate=500, seconds=10, gain=1000, leads=LEADS, upper_case=False,
        mains_hz=50, mains=0.002, muscle=0.006, motion=0.006, wander=0.03,
        misplaced=0.25, rotation=8, swapped=0.004,
        codes={"RBBB": "713427006"},
        coded={"LQRSV": 0.85, "TInv": 0.9, "STD": 0.9}, coded_else=0.97,
        sinus_beside_others=0.9, mistaken=0.01,
    ),
    "sim-south": Hospital(  # younger patients, restless recordings, hurried coding
        name="sim-south", prefix="S", age=55, age_spread=19, women=0.56, repeat_every=8,
        prevalence={
            "SB": 0.18, "STach": 0.16, "SA": 0.07, "AF": 0.08, "AFL": 0.05, "PAC": 0.05,
            "PVC": 0.07, "IAVB": 0.06, "LBBB": 0.04, "RBBB": 0.07, "LAnFB": 0.04, "LVH": 0.06,
            "LQRSV": 0.07, "MI": 0.06, "STE": 0.04, "STD": 0.08, "TInv": 0.13,
        },
        rate=250, seconds=12, gain=200, leads=("I", "II", *LEADS[6:], *LEADS[2:6]), upper_case=True,
        mains_hz=60, mains=0.005, muscle=0.008, motion=0.010, wander=0.05,
        misplaced=0.45, rotation=14, swapped=0.01,
        codes={"PVC": "17338001", "LBBB": "733534002"},
        coded={"LQRSV": 0.35, "LAnFB": 0.6, "MI": 0.7, "IAVB": 0.9, "PAC": 0.9}, coded_else=0.95,
        sinus_beside_others=0.15, mistaken=0.02,
    ),
}
# fmt: on
