"""Native diagnostic codes into label sets.

Every dataset labels its records in its own vocabulary. A record's native codes are held as one
string of tokens separated by spaces, ``CODE`` or ``CODE:value``:

``scp``
    ``NORM:100 LVOLT:0 SR:0``, SCP-ECG statements with their likelihood in percent (0: not given,
    the rule for rhythm and form, so that only the diagnostic superclasses ask for more than 0), and
    ``AXIS-LAD`` / ``AXIS-RAD`` where PTB-XL's ``heart_axis`` column says so
``snomed``, ``cpsc``
    ``164889003 59118001``, SNOMED CT codes; ``AF RBBB``, the nine names of CPSC2018, or such codes
``code-test``, ``ptb``
    ``1dAVb SB``, or ``NORM`` where all six columns are 0; the reason for admission
``brugada``
    ``brugada:2 basal_pattern:1 sudden_death:0``, the columns of ``metadata.csv``
``own``, ``text``
    whatever codes a dataset of one's own has, ``CODE:0`` for one that it has not; none, but
    findings in free text

A *label set* is the list of classes a task predicts. The tables are data, in ``labels.toml``.
``challenge-2021`` is the common vocabulary of all datasets. It has one extension to the Challenge:
164884008 (ventricular ectopics) counts as PVC, without which PTB-XL and CPSC2018 would have none.
75532003 (ventricular escape beat) is not a premature beat and does not count.
"""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

import numpy as np
import pandas as pd

from ecgnb.errors import UserError, look_up

_TABLES = tomllib.loads(files(__package__).joinpath("labels.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task, and how they are read from native codes."""

    name: str
    description: str  # one sentence for tables
    vocabularies: list[str]  # it can be read from
    codes: str  # the vocabulary in which `members` is written
    members: Mapping[str, list[str]]  # the codes that make each class
    positive: bool = False  # whether a code counts only with a value above 0

    @property
    def classes(self) -> tuple[str, ...]:
        """In order; empty if they are found in the data, one a code."""
        return tuple(self.members)


LABEL_SETS: Mapping[str, LabelSet] = MappingProxyType(
    {n: LabelSet(n, members=t.pop("classes", {}), **t) for n, t in _TABLES["label-sets"].items()}
)
"""The label sets by name; the page on datasets lists them."""

# The Challenge's copy of PTB has its codes in SNOMED CT.
_TABLES["to-snomed"]["ptb"] |= {code: code for code in _TABLES["snomed"]}
# The codes each vocabulary knows: whatever else occurs is reported by `unknown_codes`.
_KNOWN: dict[str, set[str]] = {name: {*_TABLES[name]} for name in ("scp", "snomed", "brugada")}
_KNOWN["scp"] |= {*_TABLES["scp-axis"]}
_KNOWN |= {name: {*_TABLES["to-snomed"][name]} for name in ("cpsc", "code-test", "ptb")}
_WITHOUT_TABLE = ("own", "text")  # every code is as good as another, or there is none
VOCABULARIES: tuple[str, ...] = (*_KNOWN, *_WITHOUT_TABLE)


label_set = functools.partial(look_up, "label set", LABEL_SETS)


def default_label_set(vocabulary: str) -> str:
    """Return the label set for a vocabulary: the one that finds its classes in the data, if any."""
    able = [entry for entry in LABEL_SETS.values() if vocabulary in entry.vocabularies]
    if not able:
        way = "such a dataset can only be an unlabelled source"
        raise UserError(f"No label set reads the vocabulary '{vocabulary}': {way}.")
    return min(able, key=lambda entry: len(entry.classes)).name


def encode(
    codes: pd.Series, vocabulary: str, label_set: str, min_positives: int = 0
) -> pd.DataFrame:
    """Turn the native codes of each record, missing or empty for none, into one column a class.

    `label_set` is one of `LABEL_SETS`. One of fixed classes keeps them all, in its order, so that
    two datasets agree; one found in the data leaves out classes with fewer than `min_positives`
    records, and has the others in alphabetical order. Returns booleans, (records, classes), with
    the index of `codes`. Raises UserError if the label set or the vocabulary is unknown, the one
    cannot be read from the other, or a value after the colon is not a number.
    """
    chosen = _readable(label_set, vocabulary)
    tokens = _stated(codes, vocabulary, chosen)
    classes = _classes_of(tokens["code"], vocabulary, chosen)
    names = list(chosen.classes) or sorted(classes.dropna().unique())
    column = pd.Index(names).get_indexer(pd.Index(classes))
    found = column >= 0
    labels = np.zeros((len(codes), len(names)), dtype=bool)
    labels[tokens["row"].to_numpy()[found], column[found]] = True
    whole = pd.DataFrame(labels, index=codes.index, columns=names)
    return whole if chosen.classes else whole.loc[:, labels.sum(axis=0) >= min_positives]


def split_codes(text: str) -> list[str]:
    """Split the codes of one record, at blanks, commas, semicolons, bars, brackets and quotes.

    Raises ValueError if one of them is neither ``CODE`` nor ``CODE:number``.
    """
    codes = re.sub(r"""[][{}'",;|]""", " ", text).split()
    if wrong := [code for code in codes if ":" in code and not _VALUED.fullmatch(code)]:
        raise ValueError(f"the code '{wrong[0]}' has no number after its colon")
    return codes


_VALUED = re.compile(r"[^:]+:[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.I)


def meanings(codes: pd.Series, vocabulary: str, label_set: str) -> pd.DataFrame:
    """Count the ``records`` of each ``label`` and native ``code``, the commonest code first."""
    chosen = _readable(label_set, vocabulary)
    tokens = _stated(codes, vocabulary, chosen)
    named = tokens.assign(label=_classes_of(tokens["code"], vocabulary, chosen)).dropna()
    counts = named.drop_duplicates(["row", "code"]).value_counts(["label", "code"])
    return counts.rename("records").reset_index()


def unknown_codes(codes: pd.Series, vocabulary: str) -> dict[str, int]:
    """Count the records of each code that the tables do not know, the commonest first."""
    if vocabulary in _WITHOUT_TABLE:
        return {}
    tokens = _tokens(codes).drop_duplicates(["row", "code"])
    unknown = tokens.loc[~tokens["code"].isin(_KNOWN[vocabulary]), "code"]
    counts = unknown.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return {str(code): int(count) for code, count in counts.items()}


def full_name(class_name: str) -> str:
    """Return the full name of a class, or of a native code; the name itself where none is known."""
    return _FULL_NAMES.get(class_name, class_name)


# A test sees that no two tables disagree.
_FULL_NAMES = {code: full for code, (_, full) in _TABLES["snomed"].items()}
_FULL_NAMES |= dict(_TABLES["snomed"].values())
for _table in ("brugada", "scp-axis", "scp", "class-names"):
    _FULL_NAMES |= _TABLES[_table]


def _readable(name: str, vocabulary: str) -> LabelSet:
    """Return the label set if it can be read from this vocabulary, else raise UserError."""
    chosen = label_set(name)
    if vocabulary in chosen.vocabularies:
        return chosen
    able = [other.name for other in LABEL_SETS.values() if vocabulary in other.vocabularies]
    instead = f"use {' or '.join(able)}" if able else "no label set reads that vocabulary"
    raise UserError(
        f"The label set '{name}' is read from {' or '.join(chosen.vocabularies)} codes and this "
        f"dataset has '{vocabulary}' codes: {instead}."
    )


def _tokens(codes: pd.Series) -> pd.DataFrame:
    """Split the codes into a long table: row (position of the record), code, value, 1 if none."""
    split = [
        (row, *token.partition(":"))
        for row, text in enumerate(codes.fillna("").astype(str))
        for token in text.split()
    ]
    tokens = pd.DataFrame(split, columns=["row", "code", "colon", "value"]).astype({"row": int})
    value = pd.to_numeric(tokens["value"].where(tokens["colon"] != "", "1"), errors="coerce")
    if value.isna().any():
        wrong = tokens[value.isna()].iloc[0]
        raise UserError(
            f"The code '{wrong['code']}:{wrong['value']}' of record {codes.index[wrong['row']]} "
            "has no number after its colon: write CODE or CODE:number."
        )
    return tokens[["row", "code"]].assign(value=value)


def _stated(codes: pd.Series, vocabulary: str, chosen: LabelSet) -> pd.DataFrame:
    tokens = _tokens(codes)
    return tokens[tokens["value"] > 0] if chosen.positive or vocabulary == "own" else tokens


def _classes_of(codes: pd.Series, vocabulary: str, chosen: LabelSet) -> pd.Series:
    """Map each native code to its class; missing where it has none."""
    if vocabulary == "own" and chosen.classes:  # a code of one's own that has the class's name
        return codes.where(codes.isin(chosen.classes))
    if chosen.codes == "snomed" and vocabulary != "snomed":
        codes = codes.map(_TABLES["to-snomed"][vocabulary])
    if chosen.members:
        return codes.map({code: label for label, own in chosen.members.items() for code in own})
    if chosen.codes == "snomed":
        short = {code: abbreviation for code, (abbreviation, _) in _TABLES["snomed"].items()}
        return codes.map(short).fillna(codes)
    # AXIS tokens come from another column of the table: they are not statements of the record.
    return codes.where(~codes.isin(list(_TABLES["scp-axis"])))
