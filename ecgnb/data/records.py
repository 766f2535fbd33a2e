"""Raw WFDB records to arrays, fast.

A header is parsed here, in one pass, and the samples are read in one piece: that serves WFDB
format 16 and the ``.mat`` files of the PhysioNet Challenges. Whatever else a header asks for
(several files, other formats, skews, other ``.mat`` files) goes to `ecgnb.data.records`.

The header format is that of https://physionet.org/physiotools/wag/header-5.htm.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgnb.data.labels import split_codes

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

_MILLIVOLTS = {"mV": 1.0, "mv": 1.0, "uV": 1e-3, "\u00b5V": 1e-3, "\u03bcV": 1e-3, "V": 1e3}
_MILLIVOLTS["NU"] = 1.0  # the unit of signals that were z-scored

_DEFAULT_GAIN = 200.0  # what WFDB assumes where a header gives none
_LEVEL_4_INT16 = b"\x1e\x00\x00\x00"  # how a MATLAB level 4 file of an int16 matrix begins
_LEVEL_4_ITEMS = 12  # in 16 bits: 20 bytes of header and the name "val" with its closing zero

_GAIN = re.compile(r"([-+\d.eE]+)?(?:\((-?\d+)\))?(?:/(\S+))?$")


class RecordError(Exception):
    """A record that cannot be used; its text is the reason, as `prepare` reports it."""


@dataclass(frozen=True)
class Signal:
    """One signal line of a header, but for the values that differ from record to record."""

    format: str
    gain: float
    baseline: int
    unit: str


@dataclass(frozen=True)
class Header:
    """A parsed WFDB header.

    Attributes
    ----------
    path : Path
        The ``.hea`` file.
    sampling_rate : float
        Samples per second and signal.
    samples : int
        Samples per signal.
    files, leads : tuple of str
        File and lead name of each signal, as the header spells them.
    signals : tuple of Signal
        Format, gain (digital units per physical unit), baseline and unit of each signal.
    comments : tuple of str
        The comment lines without their leading ``#``.
    """

    path: Path
    sampling_rate: float
    samples: int
    files: tuple[str, ...]
    leads: tuple[str, ...]
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Parse one ``.hea`` file.

    Parameters
    ----------
    path : Path
        The header, with its suffix.

    Raises
    ------
    RecordError
        If the file is absent, empty or not a header of a single-segment record.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read().decode(errors="replace")
    except OSError as error:
        raise RecordError(f"header cannot be read ({error.strerror})") from error
    lines, comments = [], []
    for line in text.splitlines():
        if line.startswith("#"):
            comments.append(line[1:].strip())
        elif line and not line.isspace():
            lines.append(line)
    if not lines:
        raise RecordError("header is empty")
    first = lines[0].split()
    try:
        count = int(first[1])
        # The frequency may carry a counter frequency and a base counter: 360/360(0).
        rate = float(first[2].partition("/")[0])
        samples = int(first[3])
    except (IndexError, ValueError) as error:
        raise RecordError(f"header has a corrupt first line: {lines[0].strip()[:80]!r}") from error
    if count <= 0 or samples <= 0 or not 0 < rate < float("inf"):
        raise RecordError(f"header gives {count} signals of {samples} samples at {rate:g} Hz")
    if "/" in first[0]:
        raise RecordError("record of several segments")
    if len(lines) < 1 + count:
        raise RecordError(f"header ends before its {count} signal lines")
    files, leads, signals = [], [], []
    for line in lines[1 : 1 + count]:
        # filename, format, gain, ADC resolution, ADC zero, first value, checksum, block, lead
        parts = line.split(None, 8)
        if len(parts) < 9:
            raise RecordError(f"header has a corrupt signal line: {line.strip()[:80]!r}")
        files.append(parts[0])
        leads.append(parts[8].strip())
        signals.append(_signal(parts[1], parts[2], parts[4]))
    return Header(path, rate, samples, tuple(files), tuple(leads), tuple(signals), tuple(comments))


# The same few format and gain fields stand in all records of a dataset.
@functools.lru_cache(maxsize=4096)
def _signal(format_: str, gain_field: str, zero: str) -> Signal:
    match = _GAIN.match(gain_field)
    try:
        if match is None:
            raise ValueError(gain_field)
        gain = float(match[1]) if match[1] else _DEFAULT_GAIN
        baseline = int(match[2]) if match[2] else int(zero)
    except ValueError as error:
        raise RecordError(f"header has a corrupt gain {gain_field!r}") from error
    return Signal(format_, gain, baseline, match[3] or "mV")


def read_digital(header: Header) -> npt.NDArray[np.signedinteger]:
    """Read the samples of a record in digital units.

    Parameters
    ----------
    header : Header
        What `read_header` returned.

    Returns
    -------
    ndarray of int16, shape (samples, signals)
        Equal, bit for bit, to ``wfdb.rdrecord(..., physical=False).d_signal``. Wider integers
        where a format holds more than 16 bits.

    Raises
    ------
    RecordError
        If the signal file is absent, too short, outside the header's folder or unreadable.
    """
    for name in dict.fromkeys(header.files):
        if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
            raise RecordError(f"header names a file outside its folder: {name!r}")
    name = header.files[0]
    kinds = {signal.format for signal in header.signals}
    plain = kinds == {"16"}
    try:
        if len(set(header.files)) == 1 and (plain or kinds == {"16+24"}):
            found = _read_16(header, name, skip=0 if plain else _LEVEL_4_ITEMS)
            if found is not None:
                return found
        return read(header.path, header.files, header.samples)
    except FileNotFoundError as error:
        raise RecordError(f"signal file {Path(error.filename or name).name} is missing") from error
    except OSError as error:
        raise RecordError(f"signal file {name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordError(f"signal file {name}: {error}") from error


def _read_16(header: Header, name: str, skip: int) -> npt.NDArray[np.int16] | None:
    """Read little-endian 16-bit samples; None from a file with another start than `skip` says."""
    count = len(header.signals)
    wanted = header.samples * count
    with open(os.path.join(os.path.dirname(header.path), name), "rb", buffering=0) as file:
        # A corrupt header may ask for any number of samples: never for more than there are.
        there = os.fstat(file.fileno()).st_size // 2
        content = np.empty(min(there, skip + wanted), dtype="<i2")
        read = file.readinto(content.data)
    if skip:
        start = content[:skip].tobytes()
        rows = count.to_bytes(4, "little")
        if start[:8] != _LEVEL_4_INT16 + rows or start[20:] != b"val\0":
            return None
    flat = content[skip:]
    if flat.size < wanted or read != content.nbytes:
        raise ValueError(f"truncated, {flat.size // count} of {header.samples} samples")
    return flat.reshape(header.samples, count)


@functools.lru_cache(maxsize=1024)
def lead_order(names: tuple[str, ...]) -> tuple[int, ...]:
    """Find the twelve standard leads among signals of any spelling and order.

    Parameters
    ----------
    names : tuple of str
        Lead names, such as ``AVR``, ``avr`` or ``Lead I``.

    Returns
    -------
    tuple of int, length 12
        Where each of `LEADS` stands in `names`.

    Raises
    ------
    RecordError
        If a lead is absent or stands twice.
    """
    plain = [re.sub(r"^(MDC_ECG_LEAD_|LEAD)?[\s_-]*", "", name.strip().upper()) for name in names]
    order, absent = [], []
    for lead in LEADS:
        count = plain.count(lead.upper())
        if count > 1:
            raise RecordError(f"lead {lead} stands {count} times in the header")
        if count == 0:
            absent.append(lead)
        else:
            order.append(plain.index(lead.upper()))
    if absent:
        raise RecordError(f"{len(names)} signals, lead {', '.join(absent)} missing")
    return tuple(order)


def microvolts(header: Header, digital: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.float64]:
    """Put a record into the standard lead order and into microvolts.

    Parameters
    ----------
    header : Header
        Names, gains and baselines of the signals.
    digital : ndarray of int, shape (samples, signals)
        What `read_digital` returned.

    Returns
    -------
    ndarray of float64, shape (samples, 12)
        Leads in the order of `LEADS`; missing samples are NaN. Z-scored signals (unit ``NU``)
        come as thousandths of a standard deviation.

    Raises
    ------
    RecordError
        If a lead is missing, or a gain is zero or in an unknown unit.
    """
    order = lead_order(header.leads)
    scale, baseline, missing = _calibration(header.signals, order)
    if order != tuple(range(digital.shape[1])):
        digital = digital[:, order]
    # One pass over 60,000 samples is most of the time of reading: skip what does nothing.
    values = digital.astype(np.float64)
    if baseline is not None:
        values -= baseline
    if scale is not None:
        values *= scale
    if digital.min() <= max(missing):
        values[digital == np.array(missing)] = np.nan
    return values


@functools.lru_cache(maxsize=1024)
def _calibration(
    signals: tuple[Signal, ...], order: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None, tuple[int, ...]]:
    """Microvolts a unit, baseline (None where they change nothing) and the value of no sample."""
    ordered = [signals[index] for index in order]
    scale = np.empty(len(LEADS))
    for position, (lead, signal) in enumerate(zip(LEADS, ordered, strict=True)):
        if signal.gain == 0 or not np.isfinite(signal.gain):
            raise RecordError(f"lead {lead} has a gain of {signal.gain:g}")
        if signal.unit not in _MILLIVOLTS:
            raise RecordError(f"lead {lead} is in an unknown unit: {signal.unit}")
        scale[position] = 1000.0 * _MILLIVOLTS[signal.unit] / signal.gain
    baseline = np.array([signal.baseline for signal in ordered], dtype=np.float64)
    missing = tuple(missing_value(signal.format) for signal in ordered)
    return (scale if (scale != 1).any() else None), (baseline if baseline.any() else None), missing


_MISSING = {"80": -(2**7), "508": -(2**7), "310": -(2**9), "311": -(2**9), "212": -(2**11)}
_MISSING |= {"24": -(2**23), "524": -(2**23), "32": -(2**31), "8": -(2**63)}  # 8 has no such value

Digital = npt.NDArray[np.signedinteger]


def missing_value(format_: str) -> int:
    """Return the digital value that a WFDB format, such as ``212x2``, reserves for "no sample"."""
    number = re.match(r"\d*", format_)
    return _MISSING.get(number[0] if number else "", -(2**15))


def read(path: Path, files: tuple[str, ...], samples: int) -> Digital:
    """Read the samples of a record in digital units, whatever the format.

    Parameters
    ----------
    path : Path
        The header.
    files : tuple of str
        The file of each signal, in the header's folder.
    samples : int
        Samples per signal.

    Returns
    -------
    ndarray of int, shape (samples, signals)

    Raises
    ------
    OSError
        If a file is absent or cannot be read.
    ValueError
        If a file holds something else than the header says.
    """
    for name in dict.fromkeys(files):
        with open(path.parent / name, "rb"):
            pass  # absent or unreadable: the system says it better than wfdb
    if len(set(files)) == 1 and files[0].lower().endswith(".mat"):
        found = _read_matlab(path.parent / files[0], len(files), samples)
        if found is not None:
            return found
    return _read_wfdb(path, len(files), samples)


def _read_matlab(path: Path, signals: int, samples: int) -> Digital | None:
    """Read the one whole-number matrix of a MATLAB file; None from what is no such file.

    A header says ``16+24`` of a file of MATLAB 5 too, whose samples are compressed or lie
    elsewhere: read by that offset, as wfdb does, it gives noise without an error.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises whatever its parsers stumble over
        if path.read_bytes()[:6] == b"MATLAB":
            raise ValueError(f"scipy cannot read it ({error})") from error
        return None  # plain samples under this name
    arrays = [value for value in content.values() if isinstance(value, np.ndarray)]
    for value in arrays:
        for array in (value.T, value):
            if array.ndim == 2 and array.shape[0] >= samples and array.shape[1] == signals:
                return _whole(array[:samples])
    shapes = ", ".join(" x ".join(map(str, value.shape)) for value in arrays)
    raise ValueError(f"the header says {signals} x {samples}, the matrix is {shapes or 'absent'}")


def _read_wfdb(path: Path, signals: int, samples: int) -> Digital:
    import wfdb  # takes a second to import, and few datasets need it

    try:
        record = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
    except Exception as error:  # wfdb raises whatever its parsers stumble over
        raise ValueError(f"wfdb cannot read it ({error})") from error
    if record.d_signal is None or record.d_signal.shape != (samples, signals):
        raise ValueError("wfdb returns signals of another shape than the header says")
    return _whole(record.d_signal)


def _whole(values: npt.NDArray) -> Digital:
    """Put samples into int16 where they fit, else into int64."""
    if values.dtype.kind not in "iuf" or (values != np.rint(values)).any():
        raise ValueError("the samples are not whole numbers")
    wide = np.ascontiguousarray(values).astype(np.int64)
    narrow = wide.astype(np.int16)
    return narrow if (narrow == wide).all() else wide


_OLDEST = 120  # years: what is more is a year of birth, or stands for "not known"
_AGE = re.compile(
    r"(>(?!=))?>?=?\s*(\d+(?:[.,]\d+)?)\s*\+?\s*"
    r"(?:y|yrs?|years?|jahre?|ans|años)?\.?(?:\s+old)?",
    re.I,
)
_MALE = "m|male|man|mann|m(?:ä|ae)nnlich|masculin[eo]?|hombre|homme|homem|var[oó]n|maschio|uomo"
_FEMALE = "f|w|female|woman|weiblich|frau|f[eé]minin[eo]?|femenino|mujer|femme|mulher|femmina|donna"
_SEX = re.compile(rf"(?:(?P<male>{_MALE})|(?P<female>{_FEMALE}))\.?", re.I)


def age_of(value: object) -> float:
    """Read an age in years, such as ``60``, ``60 years`` or ``>89`` (90); NaN from anything else.

    What is above 120 is no age: 999 and 300 stand for "not known", 1954 is a year of birth.
    """
    match = _AGE.fullmatch(str(value).strip())
    age = float(match[2].replace(",", ".")) + bool(match[1]) if match else math.nan
    return age if age <= _OLDEST else math.nan


def sex_of(value: object) -> str:
    """Read ``male`` or ``female`` from a word of several languages; empty from anything else.

    Numbers are not read: which sex is 0 and which is 1 differs from table to table.
    """
    match = _SEX.fullmatch(str(value).strip())
    return str(match.lastgroup) if match else ""


# "Age: 60" in the PhysioNet Challenges, "age: 81" in PTB, "<age>: 65 <sex>: F" in INCART; but not
# "Gestational age: 39".
_FIELD = r"(?:^|[,;<(]|[:=]\s*\S+\s+)\s*{}>?\s*[:=]\s*([^<,;]*?)\s*(?=\s\S+\s*[:=]|[<,;)]|$)"
_AGE_FIELD, _SEX_FIELD = (re.compile(_FIELD.format(n), re.I) for n in ("age", "(?:sex|gender)"))
# "Patient: p00012", "patient 12", "Patient ID: p1"
_PATIENT = re.compile(r"patient(?:[\s_-]*id)?(?:\s*[:=]\s*(?=\S)|\s+(?=\S+$))(.+)", re.I)
_CODES = re.compile(r"dx\s*[:=](.*)", re.I)
_REASON = re.compile(r"reason for admission\s*[:=]\s*(.+)", re.I)  # of PTB


def facts(header: Header) -> dict[str, Any]:
    """Read age, sex, codes and, where it is given, the patient from the comments of a header.

    Raises
    ------
    RecordError
        If a code has something else than a number behind a colon.
    """
    reason = _first(_REASON.match, header)
    try:
        codes = split_codes(" ".join(m[1] for m in map(_CODES.match, header.comments) if m))
    except ValueError as error:
        raise RecordError(f"header: {error}") from error
    if reason:
        codes = [re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")]
    values: dict[str, Any] = {
        "age": age_of(_first(_AGE_FIELD.search, header)),
        "sex": sex_of(_first(_SEX_FIELD.search, header)),
        "codes": " ".join(dict.fromkeys(codes)),
    }
    if patient := " ".join(_first(_PATIENT.match, header).split()):
        values["patient"] = patient
    return values


def _first(find: Callable[[str], re.Match[str] | None], header: Header) -> str:
    return next((match[1] for match in map(find, header.comments) if match), "")
