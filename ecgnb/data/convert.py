"""Raw records to rows of one file of signals, in as many processes as there are cores."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgnb.data import comments, records, resample, tensors
from ecgnb.data.layouts import Listing
from ecgnb.data.processes import in_processes
from ecgnb.data.windows import window_of

SIMULATED_RECORDS = 3000

_BATCH = 256  # records that a process takes at a time
_WORTH_A_PROCESS = 2000  # records: a process begins in about the time it takes to convert so many
_MICROVOLT_LIMIT = 32767
_GLANCE = 32  # samples
_KEPT = 2**24  # bytes

_Where = tuple[bool, tensors.Tensor | None]  # of a `Listing`


@dataclass(frozen=True)
class Options:
    """How raw records become arrays.

    Attributes
    ----------
    rate : float
        Sampling rate of the arrays in Hz.
    seconds : float
        Window; longer records keep their first seconds.
    short : str
        ``pad`` records of at least half a window with their last value, or ``drop`` them.
        Records under half a window are always dropped.
    antialias : bool
        Whether to filter before taking fewer samples.
    band : bool
        Whether to pass only 0.5 to 40 Hz and to scale each lead to a standard deviation of 1000,
        as ``ptb-xl-filtered`` was published; amplitude is lost.
    every_window : bool
        Whether a longer record gives as many windows as it holds, instead of its first alone.
    simulated_records : int
        How many records a simulated hospital writes; other datasets ignore it.
    """

    rate: float = 100.0
    seconds: float = 10.0
    short: str = "pad"
    antialias: bool = True
    band: bool = False
    every_window: bool = False
    simulated_records: int = SIMULATED_RECORDS

    @property
    def label(self) -> str:
        """What differs from the defaults, as ``antialias=False``; empty if nothing does."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return " ".join(f"{entry.name}={getattr(self, entry.name)}" for entry in changed)

    @property
    def samples(self) -> int:
        """Samples in a window."""
        return round(self.rate * self.seconds)


def convert(
    paths: list[str], source: Path, listing: Listing, options: Options, file: str, begin: int
) -> Iterator[dict[str, Any] | str]:
    """Convert records, each into its own place in a file, and say in order what became of them.

    The file's bytes do not depend on how many processes there are.

    Parameters
    ----------
    paths : list of str
        As in the table of a `Listing`.
    source : Path
        The raw dataset.
    listing : Listing
        Says where signals, age, sex and codes stand.
    options : Options
    file : str
        Gets the signals of record `i` at `begin` plus `i` times their size: int16, (12, samples).
    begin : int
        Where the signals begin.

    Yields
    ------
    dict or str
        Flags, and what the header says; or the reason why the record cannot be used.
    """
    where = listing.in_headers, listing.tensor  # without the table, which may be long
    jobs = [
        (paths[first : first + _BATCH], first, source, where, options, file, begin)
        for first in range(0, len(paths), _BATCH)
    ]
    for outcomes in in_processes(_convert, jobs, len(paths) // _WORTH_A_PROCESS):
        yield from outcomes


def _convert(
    paths: list[str],
    first: int,
    source: Path,
    where: _Where,
    options: Options,
    file: str,
    begin: int,
) -> list[dict[str, Any] | str]:
    # Once glibc has freed a block so large, it keeps smaller ones instead of handing every record's
    # arrays back to the system: that would be a third of the time.
    np.empty(_KEPT, dtype=np.uint8)
    outcomes: list[dict[str, Any] | str] = []
    with open(file, "r+b") as target:
        for row, path in enumerate(paths, start=first):
            try:
                values, found = _record(path, source, where, options)
            except records.RecordError as error:
                outcomes.append(str(error))
                continue
            target.seek(begin + row * values.nbytes)
            target.write(values.data)
            outcomes.append(found)
    return outcomes


def _record(
    path: str, source: Path, where: _Where, options: Options
) -> tuple[npt.NDArray[np.int16], dict[str, Any]]:
    in_headers, tensor = where
    facts: dict[str, Any] = {}
    filtered = False
    if tensor is None:
        name, number = window_of(path)
        header, values = _read(source / name)
        rate, filtered = header.sampling_rate, header.signals[0].unit == "NU"
        values = values[round(number * options.seconds * rate) :]
        facts = comments.facts(header) if in_headers else {}
    else:
        values, rate = tensors.read_microvolts(tensor, int(path)), tensor.rate
    wanted = options.samples
    # Asked before the filter, which makes a ripple of 0.01 % of a lead that is stuck.
    used = max(1, round(options.seconds * rate))
    flat = _flat(values[:used])
    try:
        resampled = resample.resample(
            values, rate, options.rate, antialias=options.antialias, longest=wanted
        )
    except ValueError as error:
        raise records.RecordError(str(error)) from error
    # The filter hands a missing sample on: it is seen after it, where there are fewer to look at.
    seen = resampled if options.antialias else values[:used]
    if np.isnan(seen.sum()) or np.isnan(values[used:].sum()):
        missing = np.isnan(values).sum(axis=0)
        lead = records.LEADS[int(missing.argmax())]
        raise records.RecordError(f"lead {lead} has {missing.max()} missing samples")
    shortest = wanted if options.short == "drop" else wanted // 2
    window = resample.fit_window(resampled, wanted, shortest=shortest)
    if window is None:
        raise records.RecordError(
            f"record of {len(resampled) / options.rate:.1f} s is shorter than "
            f"{shortest / options.rate:g} s"
        )
    values, padded = window
    if options.band:
        values = _band(values, options.rate, filtered)
    whole = np.rint(values.T).clip(-_MICROVOLT_LIMIT, _MICROVOLT_LIMIT).astype("<i2")
    flat |= (whole == whole[:, :1]).all(axis=1)
    flags = [f"flat:{records.LEADS[lead]}" for lead in np.flatnonzero(flat)]
    flags += ["padded"] if padded else []
    flags += ["clipped"] if max(values.max(), -values.min()) > _MICROVOLT_LIMIT else []
    return np.ascontiguousarray(whole), {**facts, "flags": " ".join(flags)}


# The windows of a record follow one another.
@functools.lru_cache(maxsize=1)
def _read(path: Path) -> tuple[records.Header, npt.NDArray[np.float64]]:
    header = records.read_header(path)
    return header, records.microvolts(header, records.read_digital(header))


def _band(values: npt.NDArray[np.float64], rate: float, filtered: bool) -> npt.NDArray[np.float64]:
    """Bring a record to where the records of ``ptb-xl-filtered`` are.

    How sharp their filter was is not published; this one is Butterworth's of third order, forwards
    and backwards.
    """
    if not filtered:
        from scipy import signal  # takes half a second, and few studies need it

        edges = (0.5, min(40.0, 0.45 * rate))
        sections = signal.butter(3, edges, "bandpass", fs=rate, output="sos")
        values = signal.sosfiltfilt(sections, values, axis=0)
    deviation = values.std(axis=0)
    scale = np.divide(1000.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-3)
    return (values - values.mean(axis=0)) * scale  # type: ignore[no-any-return]


def _flat(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Tell which leads never move; a glance at the beginning settles almost all."""
    flat: npt.NDArray[np.bool_] = np.ptp(values[:_GLANCE], axis=0) == 0
    for lead in np.flatnonzero(flat):
        flat[lead] = np.ptp(values[:, lead]) == 0
    return flat
