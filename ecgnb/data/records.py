"""Raw WFDB records to arrays, fast.

A header (https://physionet.org/physiotools/wag/header-5.htm) is parsed here, and the samples of
WFDB format 16 and of the ``.mat`` files of the PhysioNet Challenges are read in one piece. Other
formats are read by wfdb, other ``.mat`` files by `ecgnb.data.foreign`.
"""

import errno
import functools
import math
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgnb.data import foreign
from ecgnb.data.labels import split_codes

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# What these are of leads I and II, by Einthoven's and Goldberger's definitions.
_OF_I_AND_II = {"III": (-1, 1), "aVR": (-0.5, -0.5), "aVL": (1, -0.5), "aVF": (-0.5, 1)}
_OTHER_NAMES = {"D1": "I", "DI": "I", "L1": "I", "LI": "I", "D2": "II", "DII": "II", "L2": "II"}
_OTHER_NAMES |= {"LII": "II", "D3": "III", "DIII": "III", "L3": "III", "LIII": "III"}
_OTHER_NAMES |= {f"C{number}": f"V{number}" for number in range(1, 7)}
_PREFIX = r"(?:(?:MDC_ECG_|ECG[ _])?LEAD|ECG)"
# A minus at the beginning or behind a blank turns a lead round; elsewhere it joins two words.
_LEAD = re.compile(rf"(-\s*|{_PREFIX}\s+-(?=\S))?(?:{_PREFIX}[_-]?\s*)?(.*)")

_MILLIVOLTS = {"m": 1.0, "milli": 1.0, "": 1e3, "n": 1e-6, "nano": 1e-6}
_MILLIVOLTS |= dict.fromkeys(["u", "\u00b5", "\u03bc", "micro"], 1e-3)
_UNIT = re.compile(rf"({'|'.join(_MILLIVOLTS)})v(?:olts?)?")

_PATHS = frozenset("/\\\0")  # what leads out of a folder
_MOST_SIGNALS = 512
_MOST_BYTES = 2**20  # of a header
_LEVEL_4_INT16 = b"\x1e\x00\x00\x00"  # how a MATLAB level 4 file of an int16 matrix begins
_LEVEL_4 = 24  # bytes: 20 of header, and the name "val" with its closing zero

# Bytes that six samples take; the formats 508 to 524 are compressed.
_BYTES_OF_SIX = {"8": 6, "80": 6, "16": 12, "61": 12, "160": 12, "24": 18, "32": 24}
_BYTES_OF_SIX |= {"212": 9, "310": 8, "311": 8}
_MISSING = {"80": -(2**7), "508": -(2**7), "310": -(2**9), "311": -(2**9), "212": -(2**11)}
_MISSING |= {"24": -(2**23), "524": -(2**23), "32": -(2**31), "8": -(2**63)}  # 8 has no such value
_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
_GAIN = re.compile(r"([-+\d.eE]+)?(?:\((-?\d+)\))?(?:/(\S+))?$")

Digital = npt.NDArray[np.signedinteger]


class RecordError(Exception):
    """A record that cannot be used; its text is the reason, as `prepare` reports it."""

    def __str__(self) -> str:
        # Files of anybody's may hold endless names and what a terminal takes for commands.
        return "".join(c if c.isprintable() else "\ufffd" for c in super().__str__()[:300])


@dataclass(frozen=True, eq=False)  # hashed for each record: by identity, as `_signal` keeps them
class Signal:
    """One signal line of a header, but for the values that differ from record to record."""

    format: str  # as it stands: format number x samples a frame : skew + bytes to skip
    gain: float  # digital units per physical unit
    baseline: int
    unit: str
    number: str
    frame: int
    skew: int
    offset: int


@dataclass(frozen=True)
class Header:
    """A parsed WFDB header; names of files and leads are spelled as they stand."""

    path: Path
    sampling_rate: float  # per second and signal
    samples: int  # per signal
    files: tuple[str, ...]
    leads: tuple[str, ...]
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]  # without their leading #


def _contents(path: str | Path, most: int) -> bytes:
    """Read a file, but never a pipe, which would wait for its writer, nor a device."""
    found = os.stat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "not a regular file")
    with open(path, "rb", buffering=0) as file:  # which refuses a folder
        return file.read(min(found.st_size, most))


def read_header(path: Path) -> Header:
    """Parse one ``.hea`` file; without a rate or a length, as wfdb: 250 Hz, what the file holds."""
    try:
        content = _contents(path, _MOST_BYTES)
    except OSError as error:
        raise RecordError(f"header cannot be read ({error.strerror})") from error
    if len(content) == _MOST_BYTES:
        raise RecordError(f"header of more than {_MOST_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    stripped = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    lines = [line for line in stripped if line and line[0] != "#"]
    if not lines:
        raise RecordError("header is empty")
    first = lines[0].split()
    try:
        count = int(first[1])
        # The frequency may carry a counter frequency and a base counter: 360/360(0).
        rate = float(first[2].partition("/")[0]) if len(first) > 2 else 250.0
        samples = (int(first[3]) or None) if len(first) > 3 else None
    except (IndexError, ValueError) as error:
        raise RecordError(f"header has a corrupt first line: {lines[0][:80]!r}") from error
    if "/" in first[0]:
        raise RecordError("record of several segments")
    known = samples is None or 0 < samples < 2**62
    if not (known and 0 < count <= _MOST_SIGNALS and 1e-9 < rate < 1e9):
        raise RecordError(f"header gives {count} signals of {samples} samples at {rate:g} Hz")
    if len(lines) <= count:
        raise RecordError(f"header ends before its {count} signal lines")
    if len(lines) > 1 + count:
        raise RecordError(f"header says {count} signals and has {len(lines) - 1} signal lines")
    # filename, format, gain, ADC resolution, ADC zero, first value, checksum, block, lead
    fields = [line.split(None, 8) for line in lines[1:]]
    for parts, line in zip(fields, lines[1:], strict=True):
        if len(parts) < 9:
            raise RecordError(f"header has a corrupt signal line: {line[:80]!r}")
    signals = tuple(_signal(parts[1], parts[2], parts[4]) for parts in fields)
    files = tuple(parts[0] for parts in fields)
    for name in set(files):
        if name in (".", "..") or not _PATHS.isdisjoint(name):
            raise RecordError(f"header names a file outside its folder: {name!r}")
    if samples is None:
        samples = _length(path, files, signals)
    leads = tuple(parts[8] for parts in fields)
    comments = tuple(line[1:].strip() for line in stripped if line[:1] == "#")
    return Header(path, rate, samples, files, leads, signals, comments)


# The same few format and gain fields stand in all records of a dataset.
@functools.lru_cache(maxsize=4096)
def _signal(format_: str, gain_field: str, zero: str) -> Signal:
    match, kind = _GAIN.match(gain_field), _FORMAT.fullmatch(format_)
    try:
        if match is None:
            raise ValueError(gain_field)
        gain = float(match[1]) if match[1] else 200.0  # as WFDB assumes
        baseline = int(match[2]) if match[2] else int(zero)
        if abs(baseline) >= 2**31:
            raise ValueError(baseline)
    except ValueError as error:
        raise RecordError(f"header has a corrupt gain {gain_field!r}") from error
    if kind is None or len(format_) > 60 or int(kind[2] or 1) == 0:
        raise RecordError(f"header has a corrupt format {format_!r}")
    numbers = int(kind[2] or 1), int(kind[3] or 0), int(kind[4] or 0)
    return Signal(format_, gain, baseline, match[3] or "mV", kind[1], *numbers)


def _length(path: Path, files: Sequence[str], signals: Sequence[Signal]) -> int:
    """Infer how many samples of each signal the first file holds."""
    first = signals[0]
    frame = sum(s.frame for file, s in zip(files, signals, strict=True) if file == files[0])
    try:
        start = _contents(path.parent / files[0], _LEVEL_4)
        size = os.path.getsize(path.parent / files[0])
    except OSError as error:
        raise RecordError(f"no length in the header, and no file {files[0]}") from error
    plain = _is_level_4(start, len(files)) or not files[0].lower().endswith(".mat")
    samples = _held(size, first, frame) if plain and first.number in _BYTES_OF_SIX else 0
    if not samples:
        raise RecordError(f"no length in the header, and {files[0]} does not tell it")
    return samples


def _held(size: int, signal: Signal, frames: int) -> int:
    """Return how many samples of each signal a file of this size and format holds."""
    return max(0, size - signal.offset) * 6 // (_BYTES_OF_SIX[signal.number] * frames)


def read_digital(header: Header) -> Digital:
    """Read the samples of a record in digital units: int16, or wider, shape (samples, signals).

    They equal those of ``wfdb.rdrecord(..., physical=False).d_signal``, bit for bit, but for files
    without any of the twelve leads, which are not read: their signals are 0.
    """
    if len(set(header.files)) == 1:
        return _read_file(header, header.files[0], range(len(header.files)))
    needed = {header.files[max(at, ~at)] for at in lead_order(header.leads) if at is not None}
    parts = {}
    for name in needed:
        columns = tuple(at for at, file in enumerate(header.files) if file == name)
        parts[columns] = _read_file(header, name, columns)
    digital = np.zeros((header.samples, len(header.files)), np.result_type(*parts.values()))
    for columns, part in parts.items():
        digital[:, columns] = part
    return digital


def _read_file(header: Header, name: str, columns: Sequence[int]) -> Digital:
    """Read the signals at some columns, which are all those of one file."""
    signals = [header.signals[at] for at in columns]
    formats = {signal.format for signal in signals}
    try:
        found = None
        if formats == {"16"} or formats == {"16+24"}:
            found = _read_16(header, name, len(signals), 0 if "16" in formats else _LEVEL_4)
        return _read_other(header, name, columns) if found is None else found
    except FileNotFoundError as error:
        raise RecordError(f"signal file {name} is missing") from error
    except OSError as error:
        raise RecordError(f"signal file {name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordError(f"signal file {name}: {error}") from error


def _read_16(header: Header, name: str, count: int, skip: int) -> npt.NDArray[np.int16] | None:
    """Read little-endian 16-bit samples; None from a file with another start than `skip` says."""
    wanted = skip + 2 * header.samples * count
    # A corrupt header may ask for any number of samples: never for more than there are.
    content = _contents(os.path.join(os.path.dirname(header.path), name), wanted)
    if skip:
        if not _is_level_4(content, count):
            return None
    elif foreign.kind(content[:_LEVEL_4], count) or name.lower().endswith(".mat"):
        return None
    if len(content) < wanted:
        there = max(0, len(content) - skip) // (2 * count)
        raise ValueError(f"truncated, {there} of {header.samples} samples")
    return np.frombuffer(content, "<i2", offset=skip).reshape(header.samples, count)


def _is_level_4(start: bytes, count: int) -> bool:
    return start[:8] == _LEVEL_4_INT16 + count.to_bytes(4, "little") and start[20:24] == b"val\0"


def _read_other(header: Header, name: str, columns: Sequence[int]) -> Digital:
    """Read any format but plain 16 bits."""
    signals = [header.signals[at] for at in columns]
    path, number = header.path.parent / name, signals[0].number
    start, size = _contents(path, _LEVEL_4), os.path.getsize(path)
    kind = foreign.kind(start, len(signals))
    if name.lower().endswith(".mat"):
        found = foreign.matrix(path, len(signals), header.samples, certain=bool(kind))
        if found is not None:
            return _whole(found, number)
    elif kind:
        raise ValueError(f"it is {kind} file, and the header says format {signals[0].format}")
    frames = sum(signal.frame for signal in signals)
    if number in _BYTES_OF_SIX:
        if (there := _held(size, signals[0], frames)) < header.samples:
            raise ValueError(f"truncated, {there} of {header.samples} samples")
    elif header.samples * frames * 4 > foreign.room(size):
        raise ValueError(f"{size} bytes are too few for {header.samples} samples")
    if max(signal.skew for signal in signals) >= header.samples:
        raise ValueError("a skew is longer than the record")
    import wfdb  # takes a second to import, and few datasets need it

    stem = str(header.path.with_suffix(""))
    try:
        read = wfdb.rdrecord(stem, physical=False, channels=list(columns)).d_signal
    except Exception as error:  # wfdb raises whatever its parsers stumble over
        raise ValueError(f"wfdb cannot read it ({error})") from error
    if read is None or read.shape != (header.samples, len(signals)):
        raise ValueError("wfdb returns signals of another shape than the header says")
    return _whole(read)


def _whole(values: npt.NDArray, number: str = "") -> Digital:
    """Put samples into int16 where they fit, else into int64."""
    if values.dtype.kind not in "iuf" or (values != np.rint(values)).any():
        raise ValueError("the samples are not whole numbers")
    if not -(2**53) <= values.min().item() <= values.max().item() <= 2**53:
        raise ValueError("the samples are beyond any converter")
    wide = np.ascontiguousarray(values).astype(np.int64)
    if number in ("80", "160"):  # offset binary
        if values.dtype != {"80": np.uint8, "160": np.uint16}[number]:
            raise ValueError(f"the header says format {number}, the matrix holds {values.dtype}")
        wide += missing_value(number)
    narrow = wide.astype(np.int16)
    return narrow if (narrow == wide).all() else wide


@functools.lru_cache(maxsize=1024)
def lead_order(names: tuple[str, ...]) -> tuple[int | None, ...]:
    """Find where each of `LEADS` stands among names such as ``avr``, ``DII``, ``C4`` or ``-aVR``.

    ``~i`` if its negative stands at ``i``, None if it has to be computed from leads I and II.
    """
    plain, turned = [], []
    for name in names:
        match = _LEAD.fullmatch(name.strip().upper().replace("\u2212", "-"))
        plain.append(re.sub(r"\s+", "", match[2]) if match else name)
        turned.append(bool(match and match[1]))
    if not {lead.upper() for lead in LEADS}.issubset(plain):
        plain = [_OTHER_NAMES.get(name, name) for name in plain]
    order: list[int | None] = []
    for lead in LEADS:
        count = plain.count(lead.upper())
        if count > 1:
            raise RecordError(f"lead {lead} stands {count} times in the header")
        at = plain.index(lead.upper()) if count else None
        order.append(~at if at is not None and turned[at] else at)
    computed = _OF_I_AND_II if order[0] is not None and order[1] is not None else {}
    absent = [lead for lead, at in zip(LEADS, order, strict=True) if at is None]
    if absent := [lead for lead in absent if lead not in computed]:
        raise RecordError(
            f"{len(names)} signals, lead {', '.join(absent)} missing among {', '.join(names)}"
        )
    return tuple(order)


def microvolts(header: Header, digital: Digital) -> npt.NDArray[np.float64]:
    """Put what `read_digital` returned into microvolts, shape (samples, 12), as `LEADS` stand.

    Missing samples are NaN. The record ends where a skewed lead ends. Z-scored signals (unit
    ``NU``) come as thousandths of a standard deviation.
    """
    order = lead_order(header.leads)
    scale, baseline, missing, skew = _calibration(header.signals, order)
    if order != tuple(range(digital.shape[1])):
        digital = digital[:, [0 if at is None else max(at, ~at) for at in order]]
    if skew:
        digital = digital[:-skew]
    # One pass over 60,000 samples is most of the time of reading: skip what does nothing.
    values = digital.astype(np.float64)
    if baseline.any():
        values -= baseline
    if (scale != 1).any():
        values *= scale
    if digital.min() <= missing.max():
        values[digital == missing] = np.nan
    if None in order:
        for lead, (first, second) in _OF_I_AND_II.items():
            if order[at := LEADS.index(lead)] is None:
                values[:, at] = first * values[:, 0] + second * values[:, 1]
    return values


@functools.lru_cache(maxsize=1024)
def _calibration(signals: tuple[Signal, ...], order: tuple[int | None, ...]) -> tuple[Any, ...]:
    """Return each lead's microvolts a unit, baseline and value of no sample; the longest skew."""
    ordered = [signals[0 if at is None else max(at, ~at)] for at in order]
    scale = np.empty(len(LEADS))
    for position, (lead, signal) in enumerate(zip(LEADS, ordered, strict=True)):
        unit = signal.unit.lower()
        match = _UNIT.fullmatch("mv" if unit == "nu" else unit)  # z-scored: no unit
        if match is None:
            raise RecordError(f"lead {lead} is in an unknown unit: {signal.unit}")
        gain = signal.gain / (1000.0 * _MILLIVOLTS[match[1]])
        if not 1e-12 < abs(gain) < 1e12:
            raise RecordError(f"lead {lead} has a gain of {signal.gain:g}")
        scale[position] = 1000.0 * _MILLIVOLTS[match[1]] / signal.gain
    if None in order and "NU" in {signal.unit.upper() for signal in ordered}:
        raise RecordError("a lead is missing, and cannot be computed from z-scored ones")
    scale *= [-1 if at is not None and at < 0 else 1 for at in order]
    baseline = np.array([signal.baseline for signal in ordered], dtype=np.float64)
    missing = np.array([missing_value(signal.number) for signal in ordered])
    return scale, baseline, missing, max(signal.skew for signal in ordered)


def missing_value(number: str) -> int:
    """Return the digital value that a WFDB format, such as ``212``, reserves for "no sample"."""
    return _MISSING.get(number, -(2**15))


_OLDEST = 120  # years: 1954 is a year of birth, 999 and 300 stand for "not known"
_AGE = re.compile(
    r"(>(?!=))?>?=?\s*(\d+(?:[.,]\d+)?)\s*\+?\s*"
    r"(?:y|yrs?|years?|jahre?|ans|años)?\.?(?:\s+old)?",
    re.I,
)
_MALE = "m|male|man|mann|m(?:ä|ae)nnlich|masculin[eo]?|hombre|homme|homem|var[oó]n|maschio|uomo"
_FEMALE = "f|w|female|woman|weiblich|frau|f[eé]minin[eo]?|femenino|mujer|femme|mulher|femmina|donna"
_SEX = re.compile(rf"(?:(?P<male>{_MALE})|(?P<female>{_FEMALE}))\.?", re.I)


@functools.lru_cache(maxsize=1024)
def age_of(value: object) -> float:
    """Read an age in years from ``60``, ``60 years`` or ``>89`` (90); NaN from anything else."""
    match = _AGE.fullmatch(str(value).strip())
    age = float(match[2].replace(",", ".")) + bool(match[1]) if match else math.nan
    return age if age <= _OLDEST else math.nan


@functools.lru_cache(maxsize=1024)
def sex_of(value: object) -> str:
    """Read ``male`` or ``female`` from a word; not from 0 or 1, whose meaning differs."""
    match = _SEX.fullmatch(str(value).strip())
    return str(match.lastgroup) if match else ""


# "Age: 60" in the PhysioNet Challenges, "age: 81" in PTB, "<age>: 65 <sex>: F" in INCART; but not
# "Gestational age: 39".
_FIELD = r"(?:^|[,;<(]|[:=]\s*\S+\s+)\s*{}>?\s*[:=]\s*([^<,;]*?)\s*(?=\s\S+\s*[:=]|[<,;)]|$)"
_AGE_FIELD, _SEX_FIELD = (re.compile(_FIELD.format(n), re.I) for n in ("age", "(?:sex|gender)"))
# "Patient: p00012", "patient 12", "Patient ID: p1"; but not "Patient: unknown"
_SAYS_PATIENT = r"patient(?:[\s_-]*id)?(?:\s*[:=]\s*|\s+(?=[^\s:=]*\d[^\s:=]*$))"
_PATIENT = re.compile(rf"{_SAYS_PATIENT}(?!(?:unknown|none|nan|n/?a|\W*)$)(\S.*)", re.I)
_CODES = re.compile(r"dx\s*[:=](.*)", re.I)
_REASON = re.compile(r"reason for admission\s*[:=]\s*(.+)", re.I)  # of PTB


def facts(header: Header) -> dict[str, Any]:
    """Read age, sex, codes and, where it is given, the patient from the comments of a header."""
    lines = [(line, line.lower()) for line in header.comments]

    def first(word: str, find: Callable[[str], re.Match[str] | None]) -> str:
        return next((m[1] for line, low in lines if word in low and (m := find(line))), "")

    try:
        stated = [m[1] for line, low in lines if low[:2] == "dx" and (m := _CODES.match(line))]
        codes = split_codes(" ".join(stated))
    except ValueError as error:
        raise RecordError(f"header: {error}") from error
    if reason := first("reason", _REASON.match):
        codes = [re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")]
    values: dict[str, Any] = {
        "age": age_of(first("age", _AGE_FIELD.search)),
        "sex": sex_of(first("sex", _SEX_FIELD.search) or first("gender", _SEX_FIELD.search)),
        "codes": " ".join(dict.fromkeys(codes)),
    }
    if patient := " ".join(first("patient", _PATIENT.match).split()):
        values["patient"] = patient
    return values
