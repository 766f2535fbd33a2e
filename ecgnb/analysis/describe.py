"""What the source and the target of a study are like: their records, labels and examples."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.data.catalog import JOINT, DatasetCard, card
from ecgnb.data.labels import LABEL_SETS, full_name
from ecgnb.data.prepare import DATASET
from ecgnb.data.records import read_header
from ecgnb.errors import UserError
from ecgnb.study.data import example_headers, read_labels, read_record, read_table
from ecgnb.study.spec import Side, Study
from ecgnb.training.metrics import UNLABELLED

COMMON = "challenge-2021"  # the label set in which datasets of other vocabularies are compared
_EXAMPLES = ("AF", "LBBB")


@dataclass(frozen=True)
class Described:
    """The source or the target of a study, with its records and labels."""

    card: DatasetCard
    side: Side
    table: pd.DataFrame  # one row a record
    # its own, as they are learnt; none of a source that is learnt from without labels
    labels: pd.DataFrame
    common: pd.DataFrame  # those of `COMMON`; none for records whose codes it does not read

    @property
    def name(self) -> str:
        """The dataset's short title."""
        return self.card.short_title

    @property
    def parts(self) -> list[DatasetCard]:
        """The cards of the datasets that it is joined of; its own if it is one."""
        return [card(name) for name in self.card.name.split(JOINT)]


def describe(study: Study) -> tuple[Described, Described]:
    """Read the records and labels of the source and the target of a study's first pair."""
    found = []
    for side in (study.pairs[0].source, study.pairs[0].target):
        table = read_table(study, side.dataset)
        labels, common = _labels(table, side, side.min_positives), _common(table, side.dataset)
        found.append(Described(card(side.dataset), side, table, labels, common))
    return found[0], found[1]


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
    it has no such class, if they have one name, which never means two things. The columns are
    ``label``, ``finding``, ``target`` and ``source``: records with it, missing where the two
    datasets cannot be compared.
    """
    same = source.side.label_set == target.side.label_set
    theirs = _labels(source.table, source.side)
    # One row for each code that the target, or each part of it, uses.
    lists = target.table.assign(codes=target.table["codes"].str.split())
    which = [name for name in (DATASET, "codes") if name in lists]
    codes = lists.explode("codes").dropna(subset="codes")
    codes = codes.drop_duplicates(which).reset_index(drop=True)
    own, common = _labels(codes, target.side), _common(codes, target.side.dataset)
    rows = []
    for label, count in target.labels.sum().sort_values(ascending=False, kind="stable").items():
        classes = common.columns[common[own[label]].any()]
        seen = None
        if len(classes):
            seen = int(source.common[classes].any(axis=1).sum())
        elif same or label in theirs:
            seen = int(theirs[label].sum()) if label in theirs else 0
        rows.append((label, full_name(str(label)), int(count), seen))
    table = pd.DataFrame(rows, columns=["label", "finding", "target", "source"])
    return table.astype({"source": "Int64"})


@dataclass(frozen=True)
class Example:
    """One record, as the networks of a study see it."""

    record: str
    signals: npt.NDArray[np.float64]  # in microvolts, shape (12, samples)
    rate: float  # in Hz
    recorded: str  # at which rate, and what was done to it since
    age: float  # in years; NaN if unknown
    sex: str  # ``female``, ``male`` or empty
    # Full names of its own labels, or of its common ones if it is learnt from without any.
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
    Raises a UserError if no record has the label.
    """
    both = side.labels.combine_first(side.common)
    if label not in both:
        raise UserError(f"{label} is not a label here; choose one of {', '.join(map(str, both))}")
    names = side.table["record"]
    if len(side.parts) == 1:  # in a joined table they name their datasets already
        names = f"{side.card.name}/" + names
    candidates = both[label].to_numpy(dtype=bool).copy()
    if stored := example_headers(study, *(part.name for part in side.parts)):
        candidates &= names.isin(list(stored)).to_numpy()
    every = side.common if side.labels.empty else _labels(side.table, side.side)
    findings = every.sum(axis=1).to_numpy()
    if not candidates.any():
        raise UserError(f"no example of {full_name(label)} in {side.card.title}")
    row = int(np.flatnonzero(candidates)[findings[candidates].argmin()])
    facts, name = side.table.iloc[row], names.iloc[row]
    rates = {read_header(stored[name]).sampling_rate} if stored else {*side.card.sampling_rates}
    own = tuple(full_name(str(one)) for one in every.columns[every.iloc[row]])
    native = " or ".join(f"{rate:g} Hz" for rate in sorted(rates)) or "made"
    band = "0.5 to 40 Hz" if study.data.band else "no filter added"
    recorded = f"{native}, drawn at {study.data.rate:g} Hz, {band}"
    person = float(facts["age"]), str(facts["sex"])
    signals = read_record(study, name)
    return Example(facts["record"], signals, study.data.rate, recorded, *person, own)
