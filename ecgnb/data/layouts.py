"""How the files of each layout are listed: which records there are, and what a table says of them.

One function a layout, from the folder of a dataset and its card to a `Listing`. A layout is for the
files of one publisher; ``table`` and ``array`` are for anybody's own.
"""

from __future__ import annotations

import ast
import functools
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.data import splits
from ecgnb.data.catalog import CATALOG, OWN_LAYOUTS, DatasetCard, data_root, find
from ecgnb.data.records import LEADS, RecordError
from ecgnb.errors import UserError

_LEADS = len(LEADS)


@dataclass(frozen=True)
class Tensor:
    """One array of signals: floating-point values are millivolts, whole numbers microvolts.

    Attributes
    ----------
    path : str
        A NumPy or an HDF5 file.
    name : str
        The array in an HDF5 file; empty for NumPy.
    records : int
        How many there are, on the first axis.
    leads_first : bool
        Whether the shape is (records, 12, samples) rather than (records, samples, 12).
    rate : float
        Sampling rate in Hz.
    leads : tuple of str
        Their order.
    """

    path: str
    name: str
    records: int
    leads_first: bool
    rate: float
    leads: tuple[str, ...]


def open_tensor(path: Path, name: str, rate: float, leads: tuple[str, ...]) -> Tensor:
    """Look at an array.

    Raises
    ------
    OSError
        If it is not there or cannot be read.
    ValueError
        If it is not an array of 12-lead signals.
    """
    array = _opened(str(path), name)
    shape = tuple(array.shape)
    twelve = [axis for axis in range(1, len(shape)) if shape[axis] == _LEADS]
    if len(shape) != 3 or len(twelve) != 1 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{path.name} holds {array.dtype} values of shape {shape}; it must hold numbers of "
            "shape (records, 12, samples) or (records, samples, 12)"
        )
    return Tensor(str(path), name, shape[0], twelve == [1], rate, leads)


# A process reads many records of one file.
@functools.lru_cache(maxsize=2)
def _opened(path: str, name: str) -> Any:
    if not name:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    import h5py  # for one dataset

    return h5py.File(path, "r")[name]


def read_microvolts(tensor: Tensor, record: int) -> npt.NDArray[np.float64]:
    """Read one record in the standard lead order; what it was filled up with is left out.

    Returns
    -------
    ndarray of float64, shape (samples, 12)
        Without samples at both ends that are 0, or missing, in all leads.

    Raises
    ------
    RecordError
        If nothing is left.
    """
    values = np.asarray(_opened(tensor.path, tensor.name)[record])
    scale = 1000.0 if values.dtype.kind == "f" else 1.0
    values = (values.T if tensor.leads_first else values).astype(np.float64) * scale
    used = np.flatnonzero(((values != 0) & ~np.isnan(values)).any(axis=1))
    if used.size == 0:
        raise RecordError("every sample is 0 or missing")
    order = [tensor.leads.index(lead) for lead in LEADS]
    return values[used[0] : used[-1] + 1, order]


COLUMNS = ("record", "path", "patient", "fold", "age", "sex", "codes")
_OLDEST = 90.0  # PTB-XL writes 300 for every age over 89
_SEXES = {"m": "male", "f": "female"}


@dataclass(frozen=True)
class Listing:
    """The records of a raw dataset.

    Attributes
    ----------
    table : DataFrame
        One row a record that is present, sorted by record id, with columns `COLUMNS`: ``path`` is
        the header relative to the dataset's folder, or the row of a `tensor`; ``fold`` is 0 where
        the dataset has none; ``age`` is in years; ``sex`` is ``female``, ``male`` or empty.
    absent : tuple of str
        Paths that a table or a ``RECORDS`` file names and that are not there.
    in_headers : bool
        Whether age, sex and codes must be read from the headers.
    tensor : Tensor or None
        The one array that holds all signals, where they are not in WFDB records.
    """

    table: pd.DataFrame
    absent: tuple[str, ...]
    in_headers: bool
    tensor: Tensor | None = None


def _ptb_xl(folder: Path, card: DatasetCard) -> Listing:
    table = pd.read_csv(folder / "ptbxl_database.csv")
    there = _headers(folder)
    # Only one of the two sampling rates may have been downloaded; the published 100 Hz comes first.
    column = "filename_lr" if table["filename_lr"].isin(there).any() else "filename_hr"
    present = table[column].isin(there)
    used = table[present]
    axis = used["heart_axis"].map(_axis_codes)
    scp = used["scp_codes"].map(_scp_codes)
    age = used["age"].astype(float)
    listed = pd.DataFrame(
        {
            "record": used["ecg_id"].map("{:05d}".format),
            "path": used[column] + ".hea",
            "patient": used["patient_id"].map("p{:05.0f}".format),
            "fold": used["strat_fold"].astype(int),
            "age": age.where(age <= _OLDEST, _OLDEST).where(age.notna()),
            "sex": used["sex"].map({0: "male", 1: "female"}).fillna(""),
            "codes": (scp + " " + axis).str.strip(),
        }
    )
    return _listing(listed, tuple(table[column][~present]), in_headers=False)


def _scp_codes(text: str) -> str:
    return " ".join(f"{code}:{value:.0f}" for code, value in ast.literal_eval(text).items())


def _axis_codes(axis: object) -> str:
    if axis in ("LAD", "ALAD"):
        return "AXIS-LAD"
    return "AXIS-RAD" if axis in ("RAD", "ARAD") else ""


def _challenge(folder: Path, card: DatasetCard) -> Listing:
    there = _headers(folder)
    names = [path.rpartition("/")[2] for path in there]
    # One record a patient, unless a header says otherwise.
    table = pd.DataFrame({"record": names, "path": [f"{path}.hea" for path in there]}, dtype=str)
    table = table.assign(patient=table["record"], fold=0, age=float("nan"), sex="", codes="")
    absent = tuple(name for name in _named_in_records_files(folder) if name not in there)
    return _listing(table, absent, in_headers=True)


def _named_in_records_files(folder: Path) -> list[str]:
    """Follow ``RECORDS`` files, whose lines are records or folders with such a file."""
    named: list[str] = []
    pending, seen = [""], {""}
    while pending:
        part = pending.pop()
        try:
            lines = (folder / part / "RECORDS").read_text(errors="replace").split()
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
    table = pd.read_csv(folder / "metadata.csv", dtype={"patient_id": str})
    there = _headers(folder)
    paths = "files/" + table["patient_id"] + "/" + table["patient_id"]
    findings = ("brugada", "basal_pattern", "sudden_death")
    codes = [
        " ".join(f"{name}:{int(value)}" for name, value in zip(findings, row, strict=True))
        for row in table[list(findings)].fillna(0).itertuples(index=False)
    ]
    listed = pd.DataFrame(
        {
            "record": table["patient_id"],
            "path": paths + ".hea",
            "patient": table["patient_id"],
            "fold": 0,
            "age": float("nan"),
            "sex": "",
            "codes": codes,
        }
    )
    present = paths.isin(there)
    return _listing(listed[present], tuple(paths[~present]), in_headers=False)


def _ptb(folder: Path, card: DatasetCard) -> Listing:
    """As `_challenge`, but each patient has a folder, and record names are told apart by it."""
    listing = _challenge(folder, card)
    folders = listing.table["path"].str.split("/").str[-2]
    return replace(listing, table=listing.table.assign(patient=folders))


_CODE_TEST_LEADS = ("I", "II", "III", "aVL", "aVF", "aVR", "V1", "V2", "V3", "V4", "V5", "V6")


def _code_test(folder: Path, card: DatasetCard) -> Listing:
    gold = pd.read_csv(folder / "annotations" / "gold_standard.csv").astype(bool)
    facts = pd.read_csv(folder / "attributes.csv")
    codes = [" ".join(gold.columns[row]) or "NORM" for row in gold.to_numpy()]
    table = pd.DataFrame({"age": facts["age"], "sex": facts["sex"], "codes": codes})
    tensor = open_tensor(
        folder / "ecg_tracings.hdf5", "tracings", card.sampling_rates[0], _CODE_TEST_LEADS
    )
    return _own_table(table, None, tensor)


def _table(folder: Path, card: DatasetCard) -> Listing:
    """WFDB records anywhere below the folder, described by ``records.csv``."""
    return _own_table(_read_own(folder), sorted(_headers(folder)), None)


def _array(folder: Path, card: DatasetCard) -> Listing:
    """One array, ``signals.npy``, whose records ``records.csv`` describes in the same order."""
    if not card.sampling_rates:
        raise ValueError("the card of an array must give its sampling_rates")
    tensor = open_tensor(folder / "signals.npy", "", card.sampling_rates[0], LEADS)
    return _own_table(_read_own(folder), None, tensor)


def _read_own(folder: Path) -> pd.DataFrame:
    texts = dict.fromkeys(("record", "patient", "sex", "codes"), str)
    try:
        return pd.read_csv(folder / "records.csv", dtype=texts)
    except UnicodeDecodeError as error:
        raise ValueError("records.csv is not in UTF-8") from error


def _own_table(table: pd.DataFrame, headers: list[str] | None, tensor: Tensor | None) -> Listing:
    """Bring a table to `COLUMNS`: whatever it does not say is unknown.

    Records are found by the names of their headers, or in an array by their order. Without a
    column ``codes``, every other column of zeros and ones is a class.
    """
    count = len(table)
    if tensor is not None and tensor.records != count:
        raise ValueError(f"{tensor.records} records in the array, but {count} rows in the table")
    record = table.get("record", pd.Series([f"{row:06d}" for row in range(count)]))
    paths = _by_name(headers or [])
    codes = table["codes"].fillna("") if "codes" in table else _codes_of_columns(table)
    listed = pd.DataFrame(
        {
            "record": record,
            "path": record.map(paths) if tensor is None else [str(row) for row in range(count)],
            "patient": table.get("patient", record).fillna(record),
            "fold": _own_folds(table),
            "age": table.get("age", pd.Series(np.nan, table.index)).astype(float),
            "sex": table.get("sex", pd.Series("", table.index)).str.lower().str[:1].map(_SEXES),
            "codes": codes,
        }
    ).fillna({"sex": ""})
    here = listed["path"].notna()
    return replace(
        _listing(listed[here], tuple(record[~here]), in_headers=False),
        tensor=tensor,
    )


def _own_folds(table: pd.DataFrame) -> pd.Series | int:
    """Return the folds that a table gives; 0 if it gives none."""
    if "fold" not in table:
        return 0
    wanted = range(1, splits.FOLDS + 1)
    folds = pd.to_numeric(table["fold"], errors="coerce")
    strange = table["fold"][~folds.isin(wanted)]
    if len(strange):
        fault = f"holds {'nothing' if pd.isna(strange.iloc[0]) else strange.iloc[0]} in a row"
    elif absent := {*wanted} - {*folds}:
        fault = f"never holds {min(absent)}"
    else:
        return folds.astype(int)
    raise ValueError(
        f"the column 'fold' {fault}; it must divide the records into 1 to {splits.FOLDS}, or be "
        "left out"
    )


def _by_name(headers: list[str]) -> dict[str, str]:
    """Find headers by their path, or by their name alone where no two have the same."""
    short = [path.rpartition("/")[2] for path in headers]
    count = Counter(short)
    found = {name: path for name, path in zip(short, headers, strict=True) if count[name] == 1}
    found |= {path: path for path in headers}
    return {name: f"{path}.hea" for name, path in found.items()}


def _codes_of_columns(table: pd.DataFrame) -> pd.Series:
    others = [name for name in table if name not in COLUMNS]
    classes = [name for name in others if table[name].dropna().isin([0, 1]).all()]
    if not classes:
        raise ValueError("there is neither a column 'codes' nor a column of zeros and ones")
    names = [str(name).strip().replace(" ", "-").replace(":", "-") for name in classes]
    stated = table[classes].fillna(0).astype(bool).to_numpy()
    return pd.Series(
        [" ".join(np.array(names)[row]) for row in stated], index=table.index, dtype=object
    )


def _headers(folder: Path) -> set[str]:
    """Find every header below a folder: its path relative to the folder, without the suffix."""
    found: set[str] = set()
    for parent, folders, files in os.walk(folder):
        folders.sort()
        part = Path(parent).relative_to(folder).as_posix()
        prefix = "" if part == "." else f"{part}/"
        # A dot begins the name of what a Mac or an unfinished download leaves beside a header.
        names = (name for name in files if name.endswith(".hea") and not name.startswith("."))
        found.update(f"{prefix}{name[:-4]}" for name in names)
    for path in found:
        if path.encode(errors="replace").decode() != path:
            name = os.fsencode(path).decode("latin-1")
            raise UserError(
                f"the file name {name}.hea in {folder} is not in UTF-8: rename the file"
            )
    return found


def _listing(table: pd.DataFrame, absent: tuple[str, ...], *, in_headers: bool) -> Listing:
    ordered = table[list(COLUMNS)].sort_values(["record", "path"], ignore_index=True)
    return Listing(ordered, absent, in_headers)


LAYOUTS: Mapping[str, Callable[[Path, DatasetCard], Listing]] = MappingProxyType(
    {
        "ptb-xl": _ptb_xl,
        "challenge": _challenge,
        "brugada-huca": _brugada_huca,
        "ptb": _ptb,
        "incart": _challenge,  # who shares a patient, its headers say
        "ludb": _challenge,
        "code-test": _code_test,
        "table": _table,
        "array": _array,
    }
)


def list_records(card: DatasetCard, folder: Path) -> Listing:
    """List the records of a raw dataset, present and absent.

    Parameters
    ----------
    card : DatasetCard
        What the dataset is.
    folder : Path
        Where its files are.

    Raises
    ------
    UserError
        If a table is missing or cannot be read, or no record is there.
    """
    try:
        listing = LAYOUTS[card.layout](folder, card)
    except FileNotFoundError as error:
        raise UserError(f"{card.name} is incomplete: {error.filename} is missing") from error
    except (OSError, KeyError, TypeError, ValueError, SyntaxError) as error:  # and those of pandas
        way = "correct that file" if card.layout in OWN_LAYOUTS else "get that file again"
        raise UserError(
            f"a table of {card.name} in {folder} cannot be read "
            f"({type(error).__name__}: {error}); {way}"
        ) from error
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
        raise UserError(f"{folder} holds no record of {card.name}; look at `ecgnb datasets`")
    return listing


def _joined(listing: Listing, folder: Path, other: DatasetCard) -> Listing:
    """Add the records of another dataset, under paths that lead to them from `folder`."""
    there = find(other, data_root())
    assert there is not None  # else `find` would not have found the first
    added = list_records(other, there)
    way = posixpath.relpath(there.as_posix(), folder.as_posix())
    table = added.table.assign(path=[f"{way}/{path}" for path in added.table["path"]])
    # What one of them has and the other lacks is not absent.
    present = set(table["record"]) | set(listing.table["record"])
    absent = tuple(
        path for path in listing.absent if posixpath.basename(path).partition("_")[0] not in present
    )
    whole = pd.concat([listing.table, table], ignore_index=True).sort_values("record")
    return Listing(whole.reset_index(drop=True), absent, listing.in_headers)
