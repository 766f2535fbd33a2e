"""How the files of each layout are listed, a function each: which records there are, and of whom.

A layout is for the files of one publisher; ``table`` and ``array`` are for anybody's own.
"""

import ast
import functools
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.data import foreign, own, records, splits
from ecgnb.data.catalog import CATALOG, OWN_LAYOUTS, DatasetCard, data_root, find
from ecgnb.data.own import check_file, read_own
from ecgnb.data.records import LEADS, age_of, sex_of
from ecgnb.errors import UserError
from ecgnb.files import reason

_LARGEST = 1e9  # microvolts: more is a value that stands for "missing", such as 1e20


@dataclass(frozen=True)
class Tensor:
    """One array of signals: floating-point values are millivolts, whole numbers microvolts."""

    path: str  # a NumPy or an HDF5 file
    name: str  # the array in an HDF5 file; empty for NumPy
    records: int
    samples: int
    leads_first: bool  # whether the shape is (records, 12, samples), not (records, samples, 12)
    sampling_rate: float  # Hz
    leads: tuple[str, ...]
    state: str  # size and time of the file, which tell whether it is still the same


def open_tensor(path: Path, name: str, rate: float, leads: tuple[str, ...]) -> Tensor:
    """Look at an array; OSError or ValueError says that it is not there, or none of 12 leads."""
    there = check_file(path).stat()
    state = f"{there.st_size} {there.st_mtime_ns}"
    try:
        if name:
            foreign.check_hdf5(str(path), name, state)
        array = _opened(str(path), name, state)
        shape, kind = tuple(array.shape), array.dtype.kind
    except Exception as error:  # numpy and h5py raise whatever their parsers stumble over
        raise ValueError(f"{path.name} holds no array that can be read ({error})") from error
    twelve = [axis for axis in range(1, len(shape)) if shape[axis] == len(LEADS)]
    if len(shape) != 3 or len(twelve) != 1 or kind not in "fiu":
        raise ValueError(
            f"{path.name} holds {array.dtype} values of shape {shape}; it must hold numbers of "
            "shape (records, 12, samples) or (records, samples, 12)"
        )
    samples = shape[3 - twelve[0]]
    return Tensor(str(path), name, shape[0], samples, twelve == [1], rate, leads, state)


# A process reads many records of one file.
@functools.lru_cache(maxsize=2)
def _opened(path: str, name: str, state: str) -> Any:
    if not name:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    import h5py  # for one dataset

    return h5py.File(path, "r")[name]


def read_microvolts(tensor: Tensor, record: int) -> npt.NDArray[np.float64]:
    """Read one record, (samples, 12) in the standard lead order.

    Missing samples are NaN: what is not finite or beyond 1 kV, and -32768 in 16 bits.
    """
    stored = np.asarray(_opened(tensor.path, tensor.name, tensor.state)[record])
    values = stored.astype(np.float64) * (1000.0 if stored.dtype.kind == "f" else 1.0)
    missing = ~(np.abs(values) < _LARGEST)
    if stored.dtype.str[1:] == "i2":  # in either order of bytes
        missing |= stored == -(2**15)
    values[missing] = np.nan
    values = values.T if tensor.leads_first else values
    return values[:, [tensor.leads.index(lead) for lead in LEADS]]


COLUMNS = ("record", "path", "patient", "fold", "age", "sex", "codes", "site")
_OLDEST = 90.0  # PTB-XL writes 300 for every age over 89


@dataclass(frozen=True)
class Listing:
    """The records of a raw dataset.

    `table` has one row a record that is present, sorted by record id, with columns `COLUMNS`:
    ``path`` is the header relative to the dataset's folder, or the row of the `tensor`; ``fold`` is
    0 where the dataset has none; ``age`` is in years; ``sex`` is ``female``, ``male`` or empty.
    """

    table: pd.DataFrame
    absent: tuple[str, ...]  # paths that a table or a RECORDS file names and that are not there
    in_headers: bool = False  # whether age, sex and codes must be read from the headers
    tensor: Tensor | None = None  # the array with all signals, where they are not in WFDB records
    dropped: tuple[tuple[str, str], ...] = ()  # records that cannot be used, and why
    notes: tuple[str, ...] = ()  # what of a table was left out or not understood
    patients_known: bool = True  # False in a copy that does not tell what its card says


def _ptb_xl(folder: Path, card: DatasetCard) -> Listing:
    table = pd.read_csv(check_file(folder / "ptbxl_database.csv"))
    there = _headers(folder).keys()
    # Only one of the two sampling rates may have been downloaded; the published 100 Hz comes first.
    column = "filename_lr" if table["filename_lr"].isin(there).any() else "filename_hr"
    present = table[column].isin(there)
    used = table[present]
    if strange := {*used["strat_fold"]} - {*range(1, splits.FOLDS + 1)}:
        raise ValueError(f"strat_fold is {strange.pop()}, and must be 1 to {splits.FOLDS}")
    axis = used["heart_axis"].map(_AXES).fillna("")
    listed = pd.DataFrame(
        {
            "record": used["ecg_id"].map("{:05d}".format),
            "path": used[column] + ".hea",
            "patient": used["patient_id"].map("p{:05.0f}".format).where(used["patient_id"].notna()),
            "fold": used["strat_fold"].astype(int),
            "age": used["age"].replace(300, _OLDEST).map(age_of).clip(upper=_OLDEST),
            "sex": used["sex"].map({0: "male", 1: "female"}).fillna(""),
            "codes": (used["scp_codes"].map(_scp_codes) + " " + axis).str.strip(),
            "site": used.get("device", pd.Series("", used.index)).str.split().str.join(" "),
        }
    )
    return _listing(listed, tuple(table[column][~present]))


_AXES = {"LAD": "AXIS-LAD", "ALAD": "AXIS-LAD", "RAD": "AXIS-RAD", "ARAD": "AXIS-RAD"}


def _scp_codes(text: str) -> str:
    try:
        return " ".join(f"{code}:{value:.0f}" for code, value in ast.literal_eval(text).items())
    except Exception as error:  # it may be any expression, and as deep as it likes
        raise ValueError(
            f"scp_codes must be like {{'NORM': 100.0}}, and one is {str(text)[:60]!r}"
        ) from error


def _challenge(folder: Path, card: DatasetCard) -> Listing:
    there = _headers(folder)
    names = [path.rpartition("/")[2] for path in there]
    table = pd.DataFrame({"record": names, "path": [f"{path}.hea" for path in there]}, dtype=str)
    absent = tuple(name for name in _named_in_records_files(folder) if name not in there)
    return replace(_listing(table, absent, there), in_headers=True)


def _named_in_records_files(folder: Path) -> list[str]:
    """Follow ``RECORDS`` files, whose lines are records or folders with such a file."""
    named: list[str] = []
    pending, seen = [""], {""}
    while pending:
        part = pending.pop()
        try:
            lines = check_file(folder / part / "RECORDS").read_text(errors="replace").split()
        except OSError:
            if part:
                named.append(part)
            continue
        for line in lines:
            path = posixpath.normpath(f"{part}{line}")
            if not line.endswith("/"):
                named.append(path)
            elif path not in seen and path.partition("/")[0] not in ("..", ".", ""):
                seen.add(path)  # a list may name its own folder
                pending.append(f"{path}/")
    return named


def _brugada_huca(folder: Path, card: DatasetCard) -> Listing:
    table = pd.read_csv(check_file(folder / "metadata.csv"), dtype=str, keep_default_na=False)
    names = table["patient_id"]
    paths = "files/" + names + "/" + names
    findings = ["brugada", "basal_pattern", "sudden_death"]
    for name in findings:
        own.check(table[name], (*"012",), "0, 1 or 2")
    codes = map(" ".join, zip(*(f"{name}:" + table[name] for name in findings), strict=True))
    listed = pd.DataFrame({"record": names, "path": paths + ".hea", "codes": [*codes]})
    present = paths.isin(_headers(folder).keys())
    return _listing(listed[present], tuple(paths[~present]))


def _ptb_or_incart(folder: Path, card: DatasetCard) -> Listing:
    """As `_challenge`; PTB has a folder a patient. The Challenge's copies do not tell patients."""
    listing = _challenge(folder, card)
    paths = listing.table["path"]
    folders = paths.str.extract(r"(?:^|/)(patient\d+)/[^/]+$", expand=False)
    if card.layout == "ptb" and folders.notna().all():
        return replace(listing, table=listing.table.assign(patient=folders))
    if folders.isna().all() and next(filter(None, _codes(folder, paths)), "").isdigit():
        note = f"the PhysioNet Challenge's copy of {card.short_title}, which tells no patient"
        return replace(listing, patients_known=False, notes=(note,))
    if card.layout == "ptb":
        raise UserError(
            f"{folder / paths[folders.isna()].iloc[0]} is not in a folder of its patient, as in "
            f"{card.title}: get that whole (`ecgnb fetch {card.name}`), or move the file away"
        )
    return listing


def _codes(folder: Path, paths: pd.Series) -> Iterator[str]:
    """Yield the first code of each header that can be read."""
    for path in paths:
        with suppress(records.RecordError):
            yield records.facts(records.read_header(folder / path))["codes"].partition(" ")[0]


_CODE_TEST_CLASSES = ["1dAVb", "RBBB", "LBBB", "SB", "AF", "ST"]
_CODE_TEST_LEADS = ("I", "II", "III", "aVL", "aVF", "aVR", "V1", "V2", "V3", "V4", "V5", "V6")


def _code_test(folder: Path, card: DatasetCard) -> Listing:
    gold = read_own(folder / "annotations" / "gold_standard.csv")[_CODE_TEST_CLASSES]
    stated = np.column_stack([own.stated(gold[name]) for name in gold])
    facts = read_own(folder / "attributes.csv")
    codes = [" ".join(gold.columns[row]) or "NORM" for row in stated]
    table = facts[["age", "sex"]].assign(codes=codes)
    rate = float(card.sampling_rates[0])
    tensor = open_tensor(folder / "ecg_tracings.hdf5", "tracings", rate, _CODE_TEST_LEADS)
    return _own_table(table, tensor)


def _table(folder: Path, card: DatasetCard) -> Listing:
    """WFDB records anywhere below the folder, described by ``records.csv``."""
    return _own_table(read_own(folder / "records.csv"), headers=_headers(folder))


def _array(folder: Path, card: DatasetCard) -> Listing:
    """One array, ``signals.npy``, whose records ``records.csv`` describes in the same order."""
    if len(card.sampling_rates) != 1:
        raise ValueError("its card must say the one rate of the array: sampling_rates = [500]")
    tensor = open_tensor(folder / "signals.npy", "", float(card.sampling_rates[0]), LEADS)
    return _own_table(read_own(folder / "records.csv"), tensor)


def _own_table(
    table: pd.DataFrame, tensor: Tensor | None = None, headers: Mapping[str, str] | None = None
) -> Listing:
    """List what a table describes: an array in its order, or WFDB records by their names."""
    if tensor is not None:
        if tensor.records != (rows := len(table)):
            raise ValueError(f"{tensor.records} records in the array, but {rows} rows in the table")
        numbers = pd.Series(range(rows), table.index).astype(str)
        record, found = table.get("record", numbers.str.zfill(6)), numbers.map(lambda n: [n])
    elif "record" in table:
        record, found = own.by_name(table["record"], headers or {})
    else:
        raise ValueError(f"the table has no column 'record' among {', '.join(map(str, table))}")
    which = found.str[0].where(found.map(len) == 1, record)
    if (wrong := (record == "") | record.duplicated() | which.duplicated()).any():
        name, row = str(record[wrong].iloc[0]), wrong[wrong].index[0]
        first = record[(record == name) | (which == which[row])].index[0]
        fault = f"'{name}' stands in rows {first + 2} and {row + 2}"
        raise ValueError(fault if name else f"row {row + 2} names no record")
    codes, dropped, notes = own.codes(table)
    dropped |= {row: f"it may be {' or '.join(of[:2])}" for row, of in found.items() if of[1:]}
    odd = rf"^(\d+)\.0$|^(?i:un(known|bekannt)|{own.EMPTY.pattern})$"  # pandas' number; nobody
    patient = table.get("patient", record).str.replace(odd, r"\1", regex=True)
    # Beside H, hombre or homme, M may be a woman, mujer, or a man, male.
    said = {*table.get("sex", record).str.lower()}
    both = "m" in said and not said.isdisjoint(("h", "hombre", "homme", "mujer"))
    read_sex = (lambda cell: "") if both else sex_of
    listed = pd.DataFrame(
        {
            "record": record,
            "path": found.str[0],
            "patient": patient.where(patient != "", record),
            "fold": own.folds(table),
            "age": own.cells(age_of, table, "age", notes).astype(float),
            "sex": own.cells(read_sex, table, "sex", notes),
            "codes": codes,
            "site": own.sites(table),
        }
    )
    here = found.map(len) > 0
    records_here = {f"{path}.hea" for path, fault in (headers or {}).items() if not fault}
    if unknown := int((patient == "").sum()):
        notes.append(f"patient: {unknown} not known, each taken for another patient")
    if others := sorted(records_here - {*found.explode()}):
        notes.append(f"{len(others)} records here are not in the table, such as {others[0]}")
    usable = listed[here & ~listed.index.isin(dropped)]
    listing = _listing(usable, tuple(record[~here]), headers or {})
    reasons = [(record[row], reason) for row, reason in dropped.items() if here[row]]
    return replace(listing, tensor=tensor, dropped=(*listing.dropped, *reasons), notes=tuple(notes))


def _walk(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield each folder below as a prefix with its files, also where links lead, and each once."""
    pending, seen = [""], set()
    while pending:
        prefix = pending.pop()
        state = os.stat(folder / prefix)
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(folder / prefix) as entries:
            # A Mac or an unfinished download leaves files with a dot beside a record.
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        yield prefix, {entry.name for entry in shown if entry.is_file()}
        parts = sorted((e.is_symlink(), e.name) for e in shown if e.is_dir())
        pending += [f"{prefix}{name}/" for _, name in reversed(parts)]


def _headers(folder: Path) -> dict[str, str]:
    """Find every header below a folder, without its suffix, and why it is no record by itself.

    Segments are none: they say neither whose they are nor what they show.
    """
    found: dict[str, str] = {}
    for prefix, files in _walk(folder):
        stems = [name[:-4] for name in files if name.endswith(".hea")]
        found.update((prefix + stem, "") for stem in stems)
        others = {name[:-4] for name in files if name.endswith((".dat", ".mat"))}
        for stem in {*stems} - others:  # a record of several segments has no signal file
            with open(folder / f"{prefix}{stem}.hea", errors="replace") as file:
                lines = [line.split()[0] for line in file.read(2**20).split("\n") if line.strip()]
            first, *segments = [line for line in lines if line[0] != "#"] or [""]
            if "/" in first:
                for segment in {*segments} & {*stems}:
                    found[prefix + segment] = f"a segment of {prefix}{stem}"
                found[prefix + stem] = "record of several segments"
    for path in found:
        if path.encode(errors="replace").decode() != path:
            name = f"{os.fsencode(path).decode('latin-1')}.hea"
            raise UserError(f"the file name {name} in {folder} is not in UTF-8: rename the file")
    return found


def _listing(
    table: pd.DataFrame, absent: tuple[str, ...], headers: Mapping[str, str] = MappingProxyType({})
) -> Listing:
    """List a table; what it does not tell is unknown, and each record is of another patient."""
    unknown: dict[str, Any] = {"patient": table["record"], "fold": 0, "age": float("nan")}
    unknown |= {"sex": "", "codes": "", "site": ""}
    table = table.assign(**{name: table.get(name, unknown[name]) for name in unknown})
    table["patient"] = table["patient"].fillna(table["record"])
    reasons = {f"{path}.hea": reason for path, reason in headers.items() if reason}
    out = table["path"].isin(reasons.keys())
    dropped = zip(table["record"][out], table["path"][out].map(reasons), strict=True)
    ordered = table.loc[~out, list(COLUMNS)].sort_values(["record", "path"], ignore_index=True)
    return Listing(ordered, absent, dropped=tuple(sorted(dropped)))


LAYOUTS: Mapping[str, Callable[[Path, DatasetCard], Listing]] = {
    **dict.fromkeys(("challenge", "ludb"), _challenge),
    "ptb-xl": _ptb_xl,
    "brugada-huca": _brugada_huca,
    **dict.fromkeys(("ptb", "incart"), _ptb_or_incart),
    "code-test": _code_test,
    "table": _table,
    "array": _array,
}


def list_records(card: DatasetCard, folder: Path) -> Listing:
    """List the records of a raw dataset, present and absent; UserError if none is there."""
    try:
        listing = LAYOUTS[card.layout](folder, card)
    except FileNotFoundError as error:
        raise UserError(f"{card.name} is incomplete: {error.filename} is missing") from error
    except PermissionError as error:
        raise UserError(f"{card.name} cannot be read: {reason(error, folder)}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:  # and those of pandas
        way = "correct that file" if card.layout in OWN_LAYOUTS else "get that file again"
        fault = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        said = f"a table of {card.name} in {folder} cannot be read ({fault.strip()}); {way}"
        raise UserError(said) from error
    if card.record_range:
        first, last = card.record_range
        inside = listing.table["record"].between(first, last)
        listing = replace(
            listing,
            table=listing.table[inside].reset_index(drop=True),
            absent=tuple(p for p in listing.absent if first <= p.rpartition("/")[2] <= last),
        )
    for name in card.also:
        listing = _joined(listing, folder, CATALOG[name])
    if listing.table.empty:
        raise UserError(f"{folder} holds no record of {card.name}{_what_is_there(folder, listing)}")
    return listing


def _what_is_there(folder: Path, listing: Listing) -> str:
    """Say what was looked for and what is there instead, an example each."""
    if listing.dropped:
        record, reason = listing.dropped[0]
        return f" that can be used; the first reason: {record}, {reason}"
    files = sorted(prefix + name for prefix, names in _walk(folder) for name in names)
    looked = f"{listing.absent[0]}.hea" if listing.absent else "WFDB headers (.hea)"
    headers = [name for name in files if name.endswith(".hea")]
    other = [name for name in files if not name.endswith((".csv", ".txt", ".md", "RECORDS"))]
    seen = (headers or other or files or ["no file at all"])[0]
    way = "the names must agree" if headers else "records are read from WFDB files with headers"
    return f": looked for {looked}, and there is {seen}; {way}"


def _joined(listing: Listing, folder: Path, other: DatasetCard) -> Listing:
    """Add the records of another dataset, under paths that lead to them from `folder`."""
    there = find(other, data_root())
    assert there is not None  # else `find` would not have found the first
    added = list_records(other, there)
    way = posixpath.relpath(there.as_posix(), folder.as_posix())
    table = added.table.assign(path=[f"{way}/{path}" for path in added.table["path"]])
    # What one of them has and the other lacks is not absent.
    whole = pd.concat([listing.table, table]).sort_values("record", ignore_index=True)
    present = {*whole["record"]}
    names = (posixpath.basename(path).partition("_")[0] for path in listing.absent)
    absent = (p for p, name in zip(listing.absent, names, strict=True) if name not in present)
    return replace(listing, table=whole, absent=tuple(absent))
