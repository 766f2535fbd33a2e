"""Raw records to one array of signals and one table.

A record that cannot be used is dropped with its reason; what is odd but usable is kept and flagged.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from ecgnb.data import layouts, records, resample, splits
from ecgnb.data.catalog import DatasetCard
from ecgnb.data.labels import unknown_codes
from ecgnb.data.layouts import Listing
from ecgnb.errors import UserError
from ecgnb.files import in_processes

_MARK = "#"
_WINDOW = re.compile(r"\.hea#\d+$")  # a name of a file may hold the mark too, but not behind this


def cut(listing: Listing, source: Path, seconds: float) -> Listing:
    """List as many windows of a record as it holds; the rest is left out, as of a long record.

    A record of less than two windows stays as it is. Windows are named ``RECORD#0`` and so on, and
    have the patient, the fold and the labels of their record.

    Parameters
    ----------
    listing : Listing
    source : Path
        The raw dataset.
    seconds : float
        Length of a window.
    """
    if listing.tensor is not None:
        return listing
    whole = listing.table.to_dict("records")
    rows = [window for row in whole for window in _windows(row, source, seconds)]
    return replace(listing, table=pd.DataFrame(rows, columns=listing.table.columns))


def _windows(row: dict[Any, Any], source: Path, seconds: float) -> Iterator[dict[Any, Any]]:
    try:
        header = records.read_header(source / row["path"])
        count = int(header.samples / header.sampling_rate / seconds)
    except records.RecordError:  # it is dropped, with this reason, when it is read
        count = 1
    if count < 2:
        yield row
        return
    for number in range(count):
        yield {
            **row,
            "record": f"{row['record']}{_MARK}{number}",
            "path": f"{row['path']}{_MARK}{number}",
        }


def name_windows(selection: pd.DataFrame, listing: Listing) -> pd.DataFrame:
    """Let a table that names records name each of their windows; others stay as they are.

    Parameters
    ----------
    selection : DataFrame
        With a column ``record``.
    listing : Listing
        What `cut` returned.
    """
    windows = listing.table["record"][listing.table["path"].str.contains(_WINDOW)]
    whole = windows.str.rpartition(_MARK)[0] if len(windows) else windows
    several = pd.DataFrame({"record": whole, "window": windows})
    named = selection.merge(several, on="record", how="left")
    return named.assign(record=named["window"].fillna(named["record"])).drop(columns="window")


def window_of(path: str) -> tuple[str, int]:
    """Return the header of a window, and which window of the record it is."""
    if not _WINDOW.search(path):
        return path, 0
    header, _, number = path.rpartition(_MARK)
    return header, int(number)


SIMULATED_RECORDS = 3000

_BATCH = 256  # records that a process takes at a time
_WORTH_A_PROCESS = 2000  # records: a process begins in about the time it takes to convert so many
_MICROVOLT_LIMIT = 32767
_GLANCE = 32  # samples
_KEPT = 2**24  # bytes

_Where = tuple[bool, layouts.Tensor | None]  # of a `Listing`


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
        facts = records.facts(header) if in_headers else {}
    else:
        values, rate = layouts.read_microvolts(tensor, int(path)), tensor.rate
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


SELECTION = ("record", "patient", "fold", "age", "sex", "codes")
"""Columns of a table that names the records of a study, and of a prepared table."""

PREPARED_VERSION = 1
"""Raised by hand when the same raw files would give other arrays."""

_FOLD_SEED = 0


def canonical(table: pd.DataFrame) -> str:
    """Write a table as text that does not depend on the version of any library."""
    columns = _lists(table[list(SELECTION)])
    return "\n".join(
        "\t".join(_plain(value) for value in row) for row in zip(*columns, strict=True)
    )


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return str(value)


def write_arrays(
    facts: DatasetCard,
    source: Path,
    listing: Listing,
    options: Options,
    selection: pd.DataFrame | None,
    partial: Path,
    progress: bool,
) -> dict[str, Any]:
    """Write ``signals.npy`` and ``records.parquet`` into a folder, and return what is in them.

    Parameters
    ----------
    facts : DatasetCard
    source : Path
        The raw dataset.
    listing : Listing
        Its records.
    options : Options
    selection : DataFrame or None
        The records to use, with columns `SELECTION`; None for all.
    partial : Path
        Where to write.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    UserError
        If no record can be used.
    """
    if options.every_window:
        listing = cut(listing, source, options.seconds)
        selection = None if selection is None else name_windows(selection, listing)
    rows, dropped = _rows(listing, selection)
    kept: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    size = len(records.LEADS) * options.samples * np.dtype("<i2").itemsize
    with open(partial / "signals.npy", "w+b") as file:
        npy_header(file, 0, options.samples)
        file.flush()
        begin = file.tell()
        outcomes = convert(
            [row["path"] for row in rows], source, listing, options, file.name, begin
        )
        bar = tqdm(
            rows, desc=f"prepare {facts.name}", disable=not progress, leave=False, unit="record"
        )
        for index, (row, outcome) in enumerate(zip(bar, outcomes, strict=True)):
            if isinstance(outcome, str):
                dropped.append({"record": row["record"], "reason": outcome})
                continue
            content = _pull_up(file, begin + index * size, begin + len(kept) * size, size)
            digest.update(content)
            # What a study names of its records stands over what the files say.
            first, second = (row, outcome) if selection is None else (outcome, row)
            merged = {**first, **second}
            unlabelled = "" if merged["codes"] else "unlabelled"
            kept.append({**merged, "flags": f"{outcome['flags']} {unlabelled}".strip()})
        file.truncate(begin + len(kept) * size)
        file.seek(0)
        npy_header(file, len(kept), options.samples)
        file.flush()
        os.fsync(file.fileno())
    if not kept:
        raise UserError(
            f"no record of {facts.name} in {source} can be used; the first reason: "
            f"{dropped[0]['reason'] if dropped else 'none is named by the selection'}"
        )
    table = _with_folds(pd.DataFrame(kept), facts)
    table.to_parquet(partial / "records.parquet", index=False)
    digest.update(canonical(table).encode())
    return {
        "dataset": facts.name,
        "version": facts.version,
        "prepared_version": PREPARED_VERSION,
        "fingerprint": digest.hexdigest(),
        "options": asdict(options),
        "patients": "known" if facts.patients_known else "one record each, assumed",
        "filter": "Kaiser-windowed low-pass" if options.antialias else "none (every k-th sample)",
        "counts": {
            "listed": len(listing.table) + len(listing.absent),
            "absent": len(listing.absent),
            "kept": len(kept),
            "dropped": len(dropped),
            "flagged": int((table["flags"] != "").sum()),
        },
        "dropped": dropped,
        "unknown_codes": unknown_codes(table["codes"], facts.vocabulary),
    }


def _rows(
    listing: Listing, selection: pd.DataFrame | None
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Join what is listed with what is selected; the rest is dropped with its reason."""
    table = listing.table
    if selection is not None:
        table = table[table["record"].isin(selection["record"])]
    again = table["record"].duplicated()
    reason = "duplicate id: another file has the same record id"
    dropped = [{"record": name, "reason": reason} for name in table["record"][again]]
    table = table[~again]
    if selection is not None:
        paths = table.set_index("record")["path"]
        there = selection["record"].isin(paths.index)
        dropped += [
            {"record": name, "reason": "named by the study, but not here"}
            for name in selection["record"][~there]
        ]
        table = selection[there].assign(path=paths.loc[selection["record"][there]].to_numpy())
        table = table.sort_values("record")
    names, rows = list(table.columns), zip(*_lists(table), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows], dropped


def _lists(table: pd.DataFrame) -> list[list[Any]]:
    """Return the columns as Python's own values; pandas would hand out strings one by one."""
    return [table[name].to_numpy(object).tolist() for name in table.columns]


def _with_folds(table: pd.DataFrame, facts: DatasetCard) -> pd.DataFrame:
    table = table[[*SELECTION, "flags"]].reset_index(drop=True)
    if (table["fold"] == 0).any():
        labels = table["codes"].str.get_dummies(" ").to_numpy(dtype=bool)
        folds = splits.assign_folds(table["patient"], labels, splits.FOLDS, _FOLD_SEED)
        table["fold"] = folds
    return table.astype({"fold": "int64", "age": "float64"})


def _pull_up(file: BinaryIO, found: int, wanted: int, size: int) -> bytes:
    """Read a record's signals, and move them up where records before it were dropped."""
    file.seek(found)
    content = file.read(size)
    if wanted != found:
        file.seek(wanted)
        file.write(content)
    return content


def npy_header(file: BinaryIO, count: int, samples: int) -> None:
    """Write the header of ``signals.npy``, an array of shape (count, 12, samples)."""
    # NumPy leaves room for the first axis to grow, so the header's length does not change.
    shape = (count, len(records.LEADS), samples)
    facts = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
