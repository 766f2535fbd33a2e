"""Raw records to one array of signals and one table.

A record that cannot be used is dropped with its reason; what is odd but usable is kept and flagged.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from ecgnb.data import checks, layouts, records, resample, splits
from ecgnb.data.catalog import DatasetCard
from ecgnb.data.labels import unknown_codes
from ecgnb.data.layouts import Listing
from ecgnb.errors import UserError
from ecgnb.files import in_processes

SELECTION = ("record", "patient", "fold", "age", "sex", "codes")
"""Columns of a table that names the records of a study, and of a prepared table."""

PREPARED_VERSION = 2
"""Raised by hand when the same raw files would give other arrays."""

_MARK = "#"
_WINDOW = re.compile(r"(?:\.hea|^\d+)#\d+$")  # a name of a file may hold the mark elsewhere
_MOST_WINDOWS = 100_000  # of a record; what says it has more is dropped when it is read
_BATCH = 256  # records that a process takes at a time
_WORTH_A_PROCESS = 2000  # records: a process begins in about the time it takes to convert so many
_MICROVOLT_LIMIT = 32767
_GLANCE = 32  # samples


def _cut(listing: Listing, source: Path, seconds: float) -> Listing:
    """List as many windows of a record as it holds, ``RECORD#0`` and so on, if it holds two."""
    rows: list[dict[Any, Any]] = []
    for row in listing.table.to_dict("records"):
        try:
            header = listing.tensor or records.read_header(source / row["path"])
            count = header.samples / header.sampling_rate / seconds
        except (records.RecordError, ArithmeticError):  # it is dropped when it is read
            count = 0
        names = [f"{_MARK}{n}" for n in range(int(count))] if 2 <= count < _MOST_WINDOWS else [""]
        rows += [{**row, **{key: row[key] + n for key in ("record", "path")}} for n in names]
    return replace(listing, table=pd.DataFrame(rows, columns=listing.table.columns))


def _name_windows(selection: pd.DataFrame, listing: Listing) -> pd.DataFrame:
    """Let a table that names records name each of their windows; others stay as they are."""
    windows = listing.table["record"][listing.table["path"].str.contains(_WINDOW)]
    whole = windows.str.rpartition(_MARK)[0] if len(windows) else windows
    several = pd.DataFrame({"record": whole, "window": windows})
    named = selection.merge(several, on="record", how="left")
    return named.assign(record=named["window"].fillna(named["record"])).drop(columns="window")


@dataclass(frozen=True)
class Options:
    """How raw records become arrays of `rate` Hz and a window of so many `seconds`.

    Longer records keep their beginning, or with `every_window` give as many windows as they hold.
    `short` says whether to ``pad`` records of at least half a window with their last value, or to
    ``drop`` them; those under half a window are always dropped. `antialias` filters before taking
    fewer samples. `band` passes only 0.5 to 40 Hz and scales each lead to a standard deviation of
    1000, as ``ptb-xl-filtered`` was published; amplitude is lost. A simulated hospital writes
    `simulated_records`; other datasets ignore it.
    """

    rate: float = 100.0
    seconds: float = 10.0
    short: str = "pad"
    antialias: bool = True
    band: bool = False
    every_window: bool = False
    simulated_records: int = 3000

    @property
    def label(self) -> str:
        """What differs from the defaults, as ``antialias=False``; empty if nothing does."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return " ".join(f"{entry.name}={getattr(self, entry.name)}" for entry in changed)

    @property
    def samples(self) -> int:
        """Samples in a window."""
        return round(self.rate * self.seconds)


def _convert(paths: list[str], *given: Any) -> list[tuple[bytes, dict[str, Any]] | str]:
    """Read records; of each its signals and facts, or the reason why it cannot be used."""
    # Once glibc has freed a block so large, it keeps smaller ones instead of handing every record's
    # arrays back to the system: that would be a third of the time.
    np.empty(2**24, dtype=np.uint8)
    _read_once.cache_clear()  # the file may have changed since
    outcomes: list[tuple[bytes, dict[str, Any]] | str] = []
    for path in paths:
        try:
            outcomes.append(convert_record(path, *given))
        except (records.RecordError, ValueError) as error:
            outcomes.append(str(error))
        except Exception as error:  # whatever one record's damage does ends that record alone
            outcomes.append(f"cannot be read ({type(error).__name__}: {error})")
    return outcomes


def convert_record(
    path: str, source: Path, in_headers: bool, tensor: layouts.Tensor | None, options: Options
) -> tuple[bytes, dict[str, Any]]:
    """Return a record's window, the bytes of int16 microvolts (12, samples), and what is known.

    RecordError or ValueError says why it cannot be used.
    """
    facts: dict[str, Any] = {}
    filtered = False
    name, _, number = path.rpartition(_MARK) if _WINDOW.search(path) else (path, "", 0)
    if tensor is None:
        header, values = (_read_once if options.every_window else _read)(source / name)
        rate, filtered = header.sampling_rate, header.signals[0].unit == "NU"
        facts = records.facts(header) if in_headers else {}
    else:
        values, rate = layouts.read_microvolts(tensor, int(name)), tensor.sampling_rate
    values = _trimmed(values[round(int(number) * options.seconds * rate) :], rate)
    long = len(values) / rate
    wanted, used = options.samples, max(1, round(options.seconds * rate))
    # Asked before the filter, which makes a ripple of 0.01 % of a lead that is stuck.
    flat = np.ptp(values[:_GLANCE], axis=0) == 0
    if flat.any():
        flat = np.ptp(values[:used], axis=0) == 0
    brought = functools.partial(resample.resample, antialias=options.antialias, longest=wanted)
    resampled = brought(values, rate, options.rate)
    # The filter hands a missing sample on: it is seen after it, where there are fewer to look at.
    if np.isnan((resampled if options.antialias else values[:used]).sum()):
        gaps = np.asarray(np.isnan(values).any(axis=1))
        if gaps[:used].any():
            raise records.RecordError(_missing(values[:used]))
        # The filter looks behind the window too.
        resampled = brought(values[: gaps.argmax()], rate, options.rate)
    shortest = wanted if options.short == "drop" else wanted // 2
    window = resample.fit_window(resampled, wanted, shortest=shortest)
    if window is None:
        least = shortest / options.rate
        raise records.RecordError(f"record of {long:.1f} s is shorter than {least:g} s")
    values, padded = window
    if options.band:
        values = _band(values, options.rate, filtered)
    whole = np.rint(values.T).clip(-_MICROVOLT_LIMIT, _MICROVOLT_LIMIT).astype("<i2", order="C")
    high, low = whole.max(axis=1).astype(int), whole.min(axis=1).astype(int)
    flags = [f"flat:{records.LEADS[lead]}" for lead in np.flatnonzero(flat | (high == low))]
    flags += ["padded"] if padded else []
    flags += ["clipped"] if max(high.max(), -low.min()) == _MICROVOLT_LIMIT else []
    spans = sorted((high - low).tolist())
    content = whole.tobytes()
    facts |= {"flags": " ".join(flags), "range": spans[len(spans) // 2], "seconds": long}
    return content, {**facts, "digest": hashlib.sha256(content).digest()}


def _trimmed(values: npt.NDArray[np.float64], rate: float) -> npt.NDArray[np.float64]:
    """Leave out ends that only fill up: a lead is missing, or none moves for 0.1 s."""
    still = max(1, int(rate / 10))
    first, behind = _filling(values, still), _filling(values[::-1], still)
    if first + behind >= len(values):
        raise records.RecordError(_missing(values) or "no lead ever moves")
    return values[first : len(values) - behind] if first or behind else values


def _filling(values: npt.NDArray[np.float64], still: int) -> int:
    """Count the samples that fill up the beginning; a glance settles almost all."""
    if not np.isnan(values[0].sum()) and values[0, 0] != values[min(still, len(values) - 1), 0]:
        return 0
    missing = np.asarray(np.isnan(values).any(axis=1))
    if missing.all():
        return len(values)
    begin = int(missing.argmin())
    moves = np.flatnonzero((values[begin:] != values[begin]).any(axis=1) & ~missing[begin:])
    stands = int(moves[0]) if len(moves) else len(values) - begin
    return begin + (stands if stands > still else 0)


def _missing(values: npt.NDArray[np.float64]) -> str:
    missing = np.isnan(values).sum(axis=0)
    lead, most = records.LEADS[int(missing.argmax())], missing.max()
    return f"lead {lead} has {most} missing samples" if most else ""


def _read(path: Path) -> tuple[records.Header, npt.NDArray[np.float64]]:
    header = records.read_header(path)
    return header, records.microvolts(header, records.read_digital(header))


_read_once = functools.lru_cache(maxsize=1)(_read)  # the windows of a record follow one another


def _band(values: npt.NDArray[np.float64], rate: float, filtered: bool) -> npt.NDArray[np.float64]:
    """Bring a record to where the records of ``ptb-xl-filtered`` are."""
    if not filtered:
        from scipy import signal  # takes half a second, and few studies need it

        # How sharp their filter was is not published; this one is Butterworth's of third order.
        edges = (0.5, min(40.0, 0.45 * rate))
        sections = signal.butter(3, edges, "bandpass", fs=rate, output="sos")
        values = signal.sosfiltfilt(sections, values, axis=0)
    deviation = values.std(axis=0)
    scale = np.divide(1000.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-3)
    return (values - values.mean(axis=0)) * scale  # type: ignore[no-any-return]


def canonical(table: pd.DataFrame) -> str:
    """Write a table as text that does not depend on the version of any library."""
    rows = _plain_rows(table[list(SELECTION)])
    return "\n".join("\t".join(map(_plain, row)) for row in rows)


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
    progress: bool,
    folder: Path,
) -> dict[str, Any]:
    """Write ``signals.npy`` and ``records.parquet`` into a folder, and return their manifest."""
    if options.every_window:
        listing = _cut(listing, source, options.seconds)
        selection = None if selection is None else _name_windows(selection, listing)
    rows, dropped = _rows(listing, selection)
    kept: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    paths = [row["path"] for row in rows]
    given = source, listing.in_headers, listing.tensor, options
    jobs = [(paths[first : first + _BATCH], *given) for first in range(0, len(rows), _BATCH)]
    done = in_processes(_convert, jobs, len(rows) // _WORTH_A_PROCESS)
    bar = tqdm(rows, f"prepare {facts.name}", disable=not progress, leave=False, unit="record")
    with open(folder / "signals.npy", "wb") as file:
        npy_header(file, 0, options.samples)
        for row, outcome in zip(bar, chain.from_iterable(done), strict=True):
            if isinstance(outcome, str):
                dropped.append({"record": row["record"], "reason": outcome})
                continue
            content, found = outcome
            file.write(content)
            digest.update(content)
            # What a study names of its records stands over what the files say.
            first, second = (row, found) if selection is None else (found, row)
            merged = {**first, **second}
            unlabelled = "" if merged["codes"] else "unlabelled"
            kept.append({**merged, "flags": f"{found['flags']} {unlabelled}".strip()})
        file.seek(0)
        npy_header(file, len(kept), options.samples)
        file.flush()
        os.fsync(file.fileno())
    if not kept:
        first, *_ = *dropped, {"record": "all", "reason": "none is selected"}
        raise UserError(
            f"no record of {facts.name} in {source} can be used; the first reason: "
            f"{first['record']}, {first['reason']}"
        )
    whole = pd.DataFrame(kept)
    known = facts.patients_known and listing.patients_known
    known |= bool((whole["patient"] != whole["record"]).any())
    copies = checks.copies(whole["digest"])
    if selection is None:
        whole = _as_one_patient(whole, copies)
    whole["site"] = whole.get("site", "")
    table = whole[[*SELECTION, "flags", "seconds", "site"]].reset_index(drop=True)
    if (table["fold"] == 0).any():
        # pandas 3 takes no code for a code, and 2 does not: it is one, sorted before all others.
        codes = table["codes"].astype(object).replace("", "\0")
        labels = codes.str.get_dummies(" ").to_numpy(dtype=bool)
        table["fold"] = splits.assign_folds(table["patient"], labels, splits.FOLDS, seed=0)
    table = table.astype({"fold": "int64", "age": "float64"})
    table.to_parquet(folder / "records.parquet", index=False)
    digest.update(canonical(table).encode())
    in_millivolts = facts.amplitude == "mV" and not options.band
    return {
        "dataset": facts.name,
        "version": facts.version,
        "prepared_version": PREPARED_VERSION,
        "fingerprint": digest.hexdigest(),
        "records": hashlib.sha256((folder / "records.parquet").read_bytes()).hexdigest(),
        "options": asdict(options),
        "patients": "known" if known else "one record each, assumed",
        "filter": "Kaiser-windowed low-pass" if options.antialias else "none (every k-th sample)",
        "counts": {
            "listed": len(listing.table) + len(listing.absent) + len(listing.dropped),
            "absent": len(listing.absent),
            "kept": len(kept),
            "dropped": len(dropped),
            "flagged": int((table["flags"] != "").sum()),
        },
        "dropped": dropped,
        "unknown_codes": unknown_codes(table["codes"], facts.vocabulary),
        "notes": [
            *([f"not here, for example: {listing.absent[0]}"] if listing.absent else []),
            *listing.notes,
            *checks.of_copies(table, copies),
            *(checks.of_amplitude(whole["range"].to_numpy()) if in_millivolts else []),
        ],
    }


def _as_one_patient(table: pd.DataFrame, copies: list[list[int]]) -> pd.DataFrame:
    """Give records of the same samples one patient, and one fold where the dataset has folds."""
    patients, joined = table["patient"], set()
    for rows in copies:
        one, *others = patients.iloc[rows].unique()
        if others:
            patients = patients.mask(patients.isin(others), one)
            joined.add(one)
    first = table.groupby(patients)["fold"].transform("first")
    return table.assign(patient=patients, fold=table["fold"].mask(patients.isin(joined), first))


def _rows(
    listing: Listing, selection: pd.DataFrame | None
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Join what is listed with what is selected; the rest is dropped with its reason."""
    again = listing.table["record"].duplicated()
    twice = "duplicate id: another file has the same record id"
    gone = [*listing.dropped, *((name, twice) for name in listing.table["record"][again])]
    table = listing.table[~again]
    if selection is not None:
        table = selection.merge(table[["record", "path"]], "left", "record").sort_values("record")
        absent = table["path"].isna()
        gone = [(name, reason) for name, reason in gone if name in {*selection["record"]}]
        gone += [(name, "named by the study, but not here") for name in table["record"][absent]]
        table = table[~absent]
    rows = [dict(zip(table.columns, row, strict=True)) for row in _plain_rows(table)]
    return rows, [{"record": name, "reason": reason} for name, reason in gone]


def _plain_rows(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield rows of Python's own values; pandas would hand out strings one by one."""
    return zip(*(table[name].to_numpy(object).tolist() for name in table.columns), strict=True)


def npy_header(file: BinaryIO, count: int, samples: int) -> None:
    """Write the header of ``signals.npy``, an array of shape (count, 12, samples)."""
    # NumPy leaves room for the first axis to grow, so the header's length does not change.
    shape = (count, len(records.LEADS), samples)
    facts = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
