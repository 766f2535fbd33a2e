"""What the source and the target of a study are like: their records, labels and examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.data.catalog import JOINT, DatasetCard, card
from ecgnb.data.labels import LABEL_SETS, full_name, unknown_codes
from ecgnb.data.prepare import DATASET
from ecgnb.data.records import read_header
from ecgnb.errors import UserError
from ecgnb.study.data import example_headers, open_dataset, read_example, read_labels, read_table
from ecgnb.study.spec import Side, Study
from ecgnb.training.metrics import UNLABELLED

COMMON = "challenge-2021"
"""The label set in which datasets of different vocabularies are compared."""

_EXAMPLES = ("AF", "LBBB")


@dataclass(frozen=True)
class Described:
    """The source or the target of a study, with its records and labels.

    Attributes
    ----------
    card : DatasetCard
    side : Side
    table : DataFrame
        One row a record.
    labels, common : DataFrame of bool
        Its own labels, as they are learnt, and those of the label set `COMMON`. A source that is
        learnt from without labels has none of the first, and records whose codes `COMMON` does not
        read have none of the second.
    """

    card: DatasetCard
    side: Side
    table: pd.DataFrame
    labels: pd.DataFrame
    common: pd.DataFrame

    @property
    def name(self) -> str:
        """The dataset's short title."""
        return self.card.short_title

    @property
    def parts(self) -> list[DatasetCard]:
        """The cards of the datasets that it is joined of; its own if it is one."""
        return [card(name) for name in self.card.name.split(JOINT)]

    @property
    def unknown_codes(self) -> list[str]:
        """The codes that no table knows."""
        codes = [(_records_of(one, self.table)["codes"], one.vocabulary) for one in self.parts]
        return list(dict.fromkeys(code for each in codes for code in unknown_codes(*each)))


def describe(study: Study) -> tuple[Described, Described]:
    """Read the records and labels of the source and the target of a study's first pair."""
    pair = study.pairs[0]
    source, target = (_described(study, side) for side in (pair.source, pair.target))
    return source, target


def _described(study: Study, side: Side) -> Described:
    table = read_table(study, side.dataset)
    return Described(
        card=card(side.dataset),
        side=side,
        table=table,
        labels=_labels(table, side, side.min_positives),
        common=_common(table, side.dataset),
    )


def _labels(table: pd.DataFrame, side: Side, min_positives: int = 0) -> pd.DataFrame:
    """Return a dataset's own labels; no column where it is learnt from without any."""
    if side.label_set == UNLABELLED:
        return pd.DataFrame(index=table.index)
    return read_labels(table, side.dataset, side.label_set, min_positives)


def _common(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return the labels of `COMMON`, none for records whose codes it does not read."""
    label_set = LABEL_SETS[COMMON]
    labels = pd.DataFrame(False, table.index, list(label_set.classes))
    for name in dataset.split(JOINT):
        rows = _records_of(card(name), table)
        if card(name).vocabulary in label_set.vocabularies:
            labels.loc[rows.index] = read_labels(rows, name, COMMON, 0)
    return labels


def _records_of(part: DatasetCard, table: pd.DataFrame) -> pd.DataFrame:
    return table[table[DATASET] == part.name] if DATASET in table else table


def shares(source: Described, target: Described) -> pd.DataFrame:
    """Return the share of records with each common label, commonest in the target first."""
    table = pd.DataFrame({side.name: side.common.mean() for side in (source, target)})
    table = table[table.max(axis=1) > 0].sort_values([target.name, source.name], ascending=False)
    return table.rename(index=full_name)


def counterparts(source: Described, target: Described) -> pd.DataFrame:
    """Tabulate the target's labels, and how many records of the source show the same finding.

    Labels are the same if the common label set `COMMON` puts their codes into one class, or, where
    it has no such class, if both datasets are read with one label set and it gives them one name.

    Returns
    -------
    DataFrame
        Columns ``label``, ``finding``, ``target`` and ``source``: records with it, missing where
        the two datasets cannot be compared.
    """
    same = source.side.label_set == target.side.label_set
    theirs = _labels(source.table, source.side)
    codes = _single_codes(target.table)
    own, common = _labels(codes, target.side), _common(codes, target.side.dataset)
    rows = []
    for label, count in target.labels.sum().sort_values(ascending=False, kind="stable").items():
        classes = common.columns[common[own[label]].any()]
        seen = None
        if len(classes):
            seen = int(source.common[classes].any(axis=1).sum())
        elif same:
            seen = int(theirs[label].sum()) if label in theirs else 0
        rows.append((label, full_name(str(label)), int(count), seen))
    table = pd.DataFrame(rows, columns=["label", "finding", "target", "source"])
    return table.astype({"source": "Int64"})


def _single_codes(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one row for each code that a dataset, or each part of it, uses."""
    several = table.assign(codes=table["codes"].str.split()).explode("codes").dropna(subset="codes")
    which = [name for name in (DATASET, "codes") if name in table]
    return several.drop_duplicates(which).reset_index(drop=True)


@dataclass(frozen=True)
class Example:
    """One record, as the networks of a study see it.

    Attributes
    ----------
    record : str
    signals : ndarray, shape (12, samples)
        In microvolts.
    rate : float
        In Hz.
    recorded : str
        At which rate it was recorded, and what was done to it since.
    age : float
        In years; NaN if unknown.
    sex : str
        ``female``, ``male`` or empty.
    findings : tuple of str
        Full names of its own labels, or of its common ones if it is learnt from without any.
    """

    record: str
    signals: npt.NDArray[np.float64]
    rate: float
    recorded: str
    age: float
    sex: str
    findings: tuple[str, ...]


def find_examples(
    study: Study, source: Described, target: Described
) -> list[tuple[Described, Example]]:
    """Find an ECG of each dataset with one diagnosis: atrial fibrillation where both have it.

    Else it is left bundle branch block, the finding that both have most, or else its own commonest.
    """
    table = pd.DataFrame({side.name: side.common.sum() for side in (source, target)})
    shared = table.min(axis=1).sort_values(ascending=False, kind="stable")
    labels = [*(name for name in _EXAMPLES if shared[name]), *shared[shared > 0].index]
    return [
        (side, find_example(study, side, label))
        for side in (source, target)
        for label in [*labels, *side.labels.sum().nlargest(1).index][:1]
    ]


def find_example(study: Study, side: Described, label: str) -> Example:
    """Find a record with a common label, or one of its own, and as few others as possible.

    A recorded study takes it from ``results/examples``, where raw files of a few records are.

    Raises
    ------
    UserError
        If no record has the label.
    """
    both = side.labels.combine_first(side.common)
    if label not in both:
        raise UserError(f"{label} is not a label here; choose one of {', '.join(map(str, both))}")
    stored = _stored(study, side)
    candidates = both[label].to_numpy(dtype=bool).copy()
    if stored:
        candidates &= side.table["record"].isin(list(stored)).to_numpy()
    every = side.common if side.labels.empty else _labels(side.table, side.side)
    findings = every.sum(axis=1).to_numpy()
    if not candidates.any():
        raise UserError(f"no example of {full_name(label)} in {side.card.title}")
    row = int(np.flatnonzero(candidates)[findings[candidates].argmin()])
    facts = side.table.iloc[row]
    rates = {*side.card.sampling_rates}
    if stored:
        signals = read_example(study, stored[facts["record"]])
        rates = {read_header(stored[facts["record"]]).sampling_rate}
    else:
        signals = open_dataset(study, side.card.name).signals[row].astype(np.float64)
    own = tuple(full_name(str(name)) for name in every.columns[every.iloc[row]])
    native = " or ".join(f"{rate:g} Hz" for rate in sorted(rates)) or "made"
    band = "0.5 to 40 Hz" if study.data.band else "no filter added"
    recorded = f"{native}, drawn at {study.data.rate:g} Hz, {band}"
    person = float(facts["age"]), str(facts["sex"])
    return Example(facts["record"], signals, study.data.rate, recorded, *person, own)


def _stored(study: Study, side: Described) -> dict[str, Path]:
    """Return the headers of the records in ``results/examples``, by their names in the table."""
    if len(side.parts) == 1:
        return example_headers(study, side.card.name)
    return {
        f"{one.name}/{record}": header
        for one in side.parts
        for record, header in example_headers(study, one.name).items()
    }
