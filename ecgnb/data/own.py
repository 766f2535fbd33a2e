"""The table that describes a dataset of one's own; nothing in it is passed over in silence."""

import csv
import difflib
import errno
import io
import os
import posixpath
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.data import splits
from ecgnb.data.labels import split_codes

_COLUMNS = ("record", "patient", "fold", "age", "sex", "codes")
# Other names of our columns, letters and digits alone.
_OTHER_NAMES = {
    "record": "recordid recordname records ecgid filename file id name",
    "patient": "patientid patientnumber patientenid patientennummer patientennr pat patid "
    "patnr pid mrn nhc participant participantid subject subjectid person personid fallnummer",
    "fold": "folds stratfold cvfold",
    "age": "ages ageyears ageinyears alter edad",
    "sex": "gender geschlecht sexo",
    "codes": "code labels diagnoses dx scpcodes",
}
_NEAR = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}
EMPTY = re.compile(r"none|nan|n/?a|[-?.]*", re.I)  # how other programs write a cell without any
_SITE = "site|cent(er|re|ro)|hospital|device|gerät|klinik|standort|equipo"
_YES, _NO = ("1", "1.0", "yes", "true"), ("0", "0.0", "no", "false")
# A column of zeros and ones under such a name is no diagnosis.
_NO_CLASS = re.compile(
    r"(is)?(gender|geschlecht|sexe?|sexo|(sex)?(fe)?male|site|cent(er|re)|hospital|device|nurse|set|"
    r"unnamed|data|train(ing)?|test|val(id)?|validation|split|fold|height|weight|bmi|id|index|"
    r"year)(set|\d*)"
)


def sites(table: pd.DataFrame) -> pd.Series | str:
    """Say where each record was made, as far as columns do: it may give its label away."""
    names = [name for name in table if re.fullmatch(_SITE, _plain(str(name)))]
    return table[names].agg(" ".join, axis=1).str.strip() if names else ""


def check_file(path: Path) -> Path:
    """Refuse what is not there, and pipes and devices, from which a reader would wait for ever."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path


def read_own(path: Path) -> pd.DataFrame:
    """Read a table as text without blanks at its ends; row `i` stands in line `i` + 2."""
    try:
        text = check_file(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not in UTF-8") from error
    separator = max(",;\t", key=text.partition("\n")[0].count)
    told = io.StringIO(re.sub(rf'" +(?=[{separator}\n])', '"', text))
    csv.field_size_limit(2**30)
    try:  # pandas takes all that stands between two lone quotes for one cell
        deque(csv.reader(told, delimiter=separator, strict=True, skipinitialspace=True), maxlen=0)
    except csv.Error as error:
        raise ValueError(f"{path.name} has a quote that does not end a cell: {error}") from error
    rows = pd.read_csv(
        io.StringIO(text), sep=separator, dtype=str, header=None, na_filter=False,
        skipinitialspace=True, skip_blank_lines=False,
    )  # fmt: skip
    rows = rows.fillna("").apply(lambda column: column.str.strip())
    held = (rows.iloc[1:] != "").any()
    for name in rows.columns[rows.iloc[0].str.lower().isin(_COLUMNS)]:
        if rows[name].str.contains("\n").any():
            raise ValueError(f"a cell of '{rows[name][0]}' has two lines: is a quote alone?")
    names = [
        name.lower() if name.lower() in _COLUMNS else name or f"unnamed {at}" * bool(held[at])
        for at, name in rows.iloc[0].items()
    ]
    if again := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise ValueError(f"{path.name} has two columns '{again[0]}': keep one")
    for name in {*names} - {*_COLUMNS}:
        plain = _plain(name)
        near = difflib.get_close_matches(plain, ("record", "patient"), n=1, cutoff=0.8)
        wanted = _NEAR.get(plain, *near or [""])
        if wanted and wanted not in names:
            raise ValueError(
                f"{path.name} has a column '{name}': call it '{wanted}', or leave it out"
            )
    table = rows.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    return table.loc[(table != "").any(axis=1), [*filter(None, names)]]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def cells(read: Callable[[str], Any], table: pd.DataFrame, name: str, notes: list[str]) -> Any:
    """Read a column cell by cell; what is not understood is unknown, and noted."""
    cells = table.get(name, pd.Series("", table.index))
    values = cells.map(read)
    strange = cells[(cells != "") & (values.isna() | (values == ""))]
    if len(strange):
        notes.append(f"{name}: {len(strange)} not understood (first: '{strange.iloc[0]}')")
    return values


def folds(table: pd.DataFrame) -> pd.Series | int:
    """Return the folds that a table gives; 0 if it gives none."""
    if "fold" not in table:
        return 0
    wanted = range(1, splits.FOLDS + 1)
    folds = pd.to_numeric(table["fold"], errors="coerce")
    strange = table["fold"][~folds.isin(wanted)]
    if len(strange):
        fault = f"holds {strange.iloc[0] or 'nothing'} in row {strange.index[0] + 2}"
    elif absent := {*wanted} - {*folds}:
        fault = f"never holds {min(absent)}"
    else:
        return folds.astype(int)
    raise ValueError(
        f"the column 'fold' {fault}; it must divide the records into 1 to {splits.FOLDS}, or be "
        "left out"
    )


def by_name(names: pd.Series, headers: Iterable[str]) -> tuple[pd.Series, pd.Series]:
    """Return names without what is no part of them (``./``, ``.hea``), and the headers of each."""
    paths, short = {*headers}, defaultdict(list)
    for path in sorted(paths):
        short[path.rpartition("/")[2]].append(path)
    plain = names.str.replace("\\", "/").map(lambda name: name and posixpath.normpath(name))
    bare = plain.str.replace(r"\.(hea|dat|mat)$", "", regex=True, case=False)
    clean = plain.where(plain.isin(paths) | plain.isin(short.keys()), bare)
    whole = clean.map(lambda name: [name] if name in paths else short.get(name, []))
    return clean, whole.map(lambda found: [f"{path}.hea" for path in found])


def stated(cells: pd.Series) -> npt.NDArray[np.bool_]:
    """Read a class; ValueError names a cell that says neither yes nor no."""
    check(cells, (*_YES, *_NO), "1 or 0, or leave the column out if it is no class")
    return cells.str.lower().isin(_YES).to_numpy()


def check(cells: pd.Series, known: Iterable[str], wanted: str) -> None:
    """Raise a ValueError that names the first cell that holds nothing known."""
    wrong = cells[~cells.str.lower().isin(known)]
    if len(wrong):
        cell = f"'{wrong.iloc[0]}'" if wrong.iloc[0] else "nothing"
        where = f"row {wrong.index[0] + 2} of the column '{cells.name}'"
        raise ValueError(f"{where} holds {cell}: write {wanted}")


def codes(table: pd.DataFrame) -> tuple[pd.Series, dict[Any, str], list[str]]:
    """Read the codes of each row, why some cannot be read, and which columns were left out."""
    left, wrong = {}, dict[Any, str]()
    names = [str(name) for name in table if name not in _COLUMNS]
    if "codes" in table:
        left = dict.fromkeys(names, "codes are given")
        codes = [""] * len(table)
        for at, (row, text) in enumerate(table["codes"].items()):
            try:
                codes[at] = " ".join(c for c in split_codes(text) if not EMPTY.fullmatch(c))
            except ValueError as error:
                wrong[row] = str(error)
    else:
        for name in names:
            known = table[name].str.lower().isin((*_YES, *_NO))
            if _NO_CLASS.fullmatch(_plain(name)):
                left[name] = "by its name no diagnosis"
            elif 2 * known.sum() <= (table[name] != "").sum():
                left[name] = "not 0 or 1"
        classes = [name for name in names if name not in left]
        if not classes:
            raise ValueError("there is neither a column 'codes' nor a column of zeros and ones")
        tokens = np.array([re.sub(r"[\s:,;|]+", "-", name) for name in classes])
        if again := [name for name, count in Counter(tokens.tolist()).items() if count > 1]:
            raise ValueError(f"two columns make one class '{again[0]}': keep one")
        rows = np.column_stack([stated(table[name]) for name in classes])
        codes = [" ".join(tokens[row]) for row in rows]
    said = ", ".join(f"{name} ({why})" for name, why in left.items())
    series = pd.Series(codes, table.index, dtype=object)
    return series, wrong, [f"columns left out: {said}"] if left else []
