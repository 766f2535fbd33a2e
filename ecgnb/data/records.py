"""Raw WFDB records to arrays, fast.

A header is parsed here, in one pass, and the samples are read with one ``np.fromfile``: that
serves WFDB format 16 and the ``.mat`` files of the PhysioNet Challenges. Whatever else a header
asks for (several files, other formats, skews, segments) goes to the ``wfdb`` package.

The header format is that of https://physionet.org/physiotools/wag/header-5.htm.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

INVALID_16 = -(2**15)
"""The digital value that WFDB format 16 reserves for "no sample"."""

_MILLIVOLTS = {"mV": 1.0, "mv": 1.0, "uV": 1e-3, "µV": 1e-3, "V": 1e3, "NU": 1.0}
"""What one physical unit is in mV; ``NU`` is the unit of signals that were z-scored."""

_DEFAULT_GAIN = 200.0  # what WFDB assumes where a header gives none
_LEVEL_4_MAGIC = b"\x1e\x00\x00\x00\x0c\x00\x00\x00"  # int16 matrix with 12 rows, MATLAB level 4
_LEVEL_4_OFFSET = 24  # 20 bytes of header and the name "val" with its closing zero

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

    def comment(self, field: str) -> str:
        """Return the text of the comment ``field: text``, or an empty string."""
        for line in self.comments:
            name, _, text = line.partition(":")
            if name.strip() == field:
                return text.strip()
        return ""


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
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise RecordError(f"header cannot be read ({error.strerror})") from error
    lines = text.split("\n")
    while lines and (not lines[0].strip() or lines[0].startswith("#")):
        del lines[0]
    if not lines:
        raise RecordError("header is empty")
    first = lines[0].split()
    try:
        count = int(first[1])
        # The frequency may carry a counter frequency and a base counter: 360/360(0).
        rate = float(first[2].partition("/")[0])
        samples = int(first[3])
    except (IndexError, ValueError) as error:
        raise RecordError(f"header has a corrupt first line: {lines[0].strip()!r}") from error
    if rate <= 0 or samples <= 0:
        raise RecordError(f"header gives {samples} samples at {rate:g} Hz")
    if len(lines) < 1 + count or not all(lines[1 : 1 + count]):
        raise RecordError(f"header ends before its {count} signal lines")
    files, leads, signals = [], [], []
    for line in lines[1 : 1 + count]:
        # filename, format, gain, ADC resolution, ADC zero, first value, checksum, block, lead
        parts = line.split(None, 8)
        if len(parts) < 9:
            raise RecordError(f"header has a corrupt signal line: {line.strip()!r}")
        files.append(parts[0])
        leads.append(parts[8].strip())
        signals.append(_signal(parts[1], parts[2], parts[4]))
    comments = tuple(line[1:].strip() for line in lines[1 + count :] if line.startswith("#"))
    return Header(path, rate, samples, tuple(files), tuple(leads), tuple(signals), comments)


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


def read_digital(header: Header) -> npt.NDArray[np.int16]:
    """Read the samples of a record in digital units.

    Parameters
    ----------
    header : Header
        What `read_header` returned.

    Returns
    -------
    ndarray of int16, shape (samples, signals)
        Equal, bit for bit, to ``wfdb.rdrecord(..., physical=False).d_signal``.

    Raises
    ------
    RecordError
        If the signal file is absent, too short, outside the header's folder or unreadable.
    """
    name = header.files[0]
    if any(file != name for file in header.files):
        for file in header.files:
            _check_inside(file)
        return _read_with_wfdb(header)
    _check_inside(name)
    formats = {signal.format for signal in header.signals}
    path = header.path.parent / name
    try:
        if formats == {"16"}:
            return _read_16(path, header, offset=0)
        if formats == {"16+24"} and _is_level_4(path, len(header.signals)):
            return _read_16(path, header, offset=_LEVEL_4_OFFSET)
    except FileNotFoundError as error:
        raise RecordError(f"signal file {name} is missing") from error
    except OSError as error:
        raise RecordError(f"signal file {name} cannot be read ({error.strerror})") from error
    return _read_with_wfdb(header)


def _check_inside(name: str) -> None:
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise RecordError(f"header names a file outside its folder: {name}")


def _is_level_4(path: Path, count: int) -> bool:
    # The fast path knows the Challenge's layout by its magic; any other .mat goes to wfdb.
    with open(path, "rb") as file:
        start = file.read(_LEVEL_4_OFFSET)
    return count == len(LEADS) and start[:8] == _LEVEL_4_MAGIC and start[20:24] == b"val\x00"


def _read_16(path: Path, header: Header, offset: int) -> npt.NDArray[np.int16]:
    count = len(header.signals)
    wanted = header.samples * count
    flat = np.fromfile(path, dtype="<i2", count=wanted, offset=offset)
    if flat.size < wanted:
        raise RecordError(
            f"signal file {path.name} is truncated: {flat.size // count} of "
            f"{header.samples} samples"
        )
    return flat.reshape(header.samples, count)


def _read_with_wfdb(header: Header) -> npt.NDArray[np.int16]:
    import wfdb  # takes a second to import, and few datasets need it

    try:
        record = wfdb.rdrecord(str(header.path.with_suffix("")), physical=False)
    except Exception as error:  # wfdb raises whatever its parsers stumble over
        raise RecordError(f"wfdb cannot read it ({error})") from error
    if record.d_signal is None or record.d_signal.shape != (header.samples, len(header.leads)):
        raise RecordError("wfdb returns signals of another shape than the header says")
    return np.asarray(record.d_signal).astype(np.int16)


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


def microvolts(header: Header, digital: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Put a record into the standard lead order and into microvolts.

    Parameters
    ----------
    header : Header
        Names, gains and baselines of the signals.
    digital : ndarray of int16, shape (samples, signals)
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
    scale, baseline = _calibration(header.signals, order)
    if order != tuple(range(len(order))) or len(order) != digital.shape[1]:
        digital = digital[:, order]
    # One pass a step over 60,000 samples is most of the time of reading: skip what does nothing.
    values = digital.astype(np.float64)
    if baseline.any():
        values -= baseline
    if (scale != 1.0).any():
        values *= scale
    if digital.min() == INVALID_16:
        values[digital == INVALID_16] = np.nan
    return values


@functools.lru_cache(maxsize=1024)
def _calibration(
    signals: tuple[Signal, ...], order: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    scale = np.empty(len(LEADS))
    for position, (lead, index) in enumerate(zip(LEADS, order, strict=True)):
        signal = signals[index]
        if signal.gain == 0 or not np.isfinite(signal.gain):
            raise RecordError(f"lead {lead} has a gain of {signal.gain:g}")
        if signal.unit not in _MILLIVOLTS:
            raise RecordError(f"lead {lead} is in an unknown unit: {signal.unit}")
        scale[position] = 1000.0 * _MILLIVOLTS[signal.unit] / signal.gain
    baseline = np.array([signals[index].baseline for index in order], dtype=np.float64)
    return scale, baseline
