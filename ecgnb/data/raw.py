"""What a raw dataset lists: one row a record, before any signal is read.

Each layout of files has one function here. Columns of a listing: ``record`` (id), ``path`` (the
header, relative to the dataset's folder), ``patient``, ``fold`` (0 where the dataset has none),
``age`` in years, ``sex`` (``female``, ``male`` or empty) and ``codes`` (see `ecgnb.data.labels`).
Where a dataset keeps age, sex and codes in its headers, `ecgnb.data.convert` fills them in later.
"""

from __future__ import annotations

import ast
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ecgnb.data.catalog import CATALOG, DatasetCard, data_root, find
from ecgnb.errors import UserError

COLUMNS = ("record", "path", "patient", "fold", "age", "sex", "codes")
_OLDEST = 90.0  # PTB-XL writes 300 for every age over 89


@dataclass(frozen=True)
class Listing:
    """The records of a raw dataset.

    Attributes
    ----------
    table : DataFrame
        One row a record that is present, sorted by record id.
    absent : tuple of str
        Paths that a table or a ``RECORDS`` file names and that are not there.
    in_headers : bool
        Whether age, sex and codes must be read from the headers.
    """

    table: pd.DataFrame
    absent: tuple[str, ...]
    in_headers: bool


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
        If the layout cannot be read, a table is missing or no record is there.
    """
    if card.layout not in _LAYOUTS:
        raise UserError(
            f"{card.name} has the layout {card.layout!r}, which ecgnb cannot read yet; layouts it "
            f"reads: {', '.join(sorted(_LAYOUTS))}"
        )
    try:
        listing = _LAYOUTS[card.layout](folder)
    except FileNotFoundError as error:
        raise UserError(f"{card.name} is incomplete: {error.filename} is missing") from error
    except (OSError, KeyError, TypeError, ValueError, SyntaxError) as error:  # and those of pandas
        raise UserError(
            f"a table of {card.name} in {folder} cannot be read "
            f"({type(error).__name__}: {error}); get that file again"
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


def _ptb_xl(folder: Path) -> Listing:
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


def _challenge(folder: Path) -> Listing:
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


def _brugada_huca(folder: Path) -> Listing:
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
    return found


def _listing(table: pd.DataFrame, absent: tuple[str, ...], *, in_headers: bool) -> Listing:
    ordered = table[list(COLUMNS)].sort_values(["record", "path"], ignore_index=True)
    return Listing(ordered, absent, in_headers)


_LAYOUTS: dict[str, Callable[[Path], Listing]] = {
    "ptb-xl": _ptb_xl,
    "challenge": _challenge,
    "brugada-huca": _brugada_huca,
}
