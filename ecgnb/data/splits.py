"""Who trains, who validates, who tests: by patient, stratified, in nested training subsets."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.errors import UserError

FOLDS = 10
_CHUNK = 25  # training records a stratified portion: nested subsets grow by such portions

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row numbers of a dataset's table; `train` is in the order in which subsets grow."""

    train: Indices
    validation: Indices
    test: Indices


def assign_folds(
    patients: pd.Series, labels: npt.NDArray[np.bool_], folds: int, seed: int
) -> Indices:
    """Divide patients into folds of about equal size and equal label counts.

    Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011) over patients instead of
    records: the rarest label that is left is dealt out first, each patient to the fold that still
    wants it most; the seed breaks ties. Labels are (records, classes). Returns the fold of each
    record, 1 to `folds`.
    """
    codes, unique = pd.factorize(patients)
    counts = np.zeros((len(unique), labels.shape[1] + 1))
    np.add.at(counts, codes, np.column_stack([labels, np.ones(len(codes))]))
    rng = np.random.default_rng(seed)
    wanted = np.tile(counts.sum(axis=0) / folds, (folds, 1))
    open_ = np.ones(len(unique), dtype=bool)
    fold_of = np.zeros(len(unique), dtype=np.int64)
    while open_.any():
        left = counts[open_].sum(axis=0)
        # The last column counts records, so patients without any label are dealt out last.
        label = int(np.argmin(np.where(left > 0, left, np.inf)))
        for patient in rng.permutation(np.flatnonzero(open_ & (counts[:, label] > 0))):
            # The last key is asked first.
            best = int(np.lexsort((rng.random(folds), wanted[:, -1], wanted[:, label]))[-1])
            fold_of[patient] = best + 1
            wanted[best] -= counts[patient]
            open_[patient] = False
    return fold_of[codes]


def source_split(table: pd.DataFrame) -> Split:
    """Split a dataset for pre-training: folds 1-8 train, 9 validates, 10 tests.

    Raises UserError if a patient stands on two sides, or a fold is not one of 1 to 10.
    """
    fold = _folds(table)
    return _split(table, *(np.flatnonzero(part) for part in (fold <= 8, fold == 9, fold == 10)))


def target_split(table: pd.DataFrame, labels: npt.NDArray[np.bool_], seed: int) -> Split:
    """Split a target: its own fifth tests for each seed, the next fifth validates.

    Over five seeds in a row every record is tested once. The rest trains, in a stratified random
    order of this seed; the first n of it are the training subset of size n, so subsets are nested.
    The table has columns ``fold`` (1 to 10) and ``patient``; labels, (records, classes), stratify.

    Raises UserError if a patient stands on two sides, or a fold is not one of 1 to 10.
    """
    fifth = (_folds(table) - 1) // 2
    test = fifth == seed % 5
    validation = fifth == (seed + 1) % 5
    pool = np.flatnonzero(~test & ~validation)
    portions = max(1, len(pool) // _CHUNK)
    portion = assign_folds(table["patient"].iloc[pool], labels[pool], portions, seed)
    shuffled = np.random.default_rng(seed).permutation(len(pool))
    order = shuffled[np.argsort(portion[shuffled], kind="stable")]
    return _split(table, pool[order], np.flatnonzero(validation), np.flatnonzero(test))


def subset(split: Split, size: int) -> Indices:
    """Take the first `size` training records, 0 for all; UserError if there are fewer."""
    if size < 0:
        raise UserError(f"a training size of {size} is less than none; choose 0 for all")
    if size > len(split.train):
        raise UserError(
            f"a training size of {size} is larger than the training set of {len(split.train)}; "
            "choose a smaller size, or 0 for all"
        )
    return split.train[: size or None]


def _folds(table: pd.DataFrame) -> Indices:
    fold = table["fold"].to_numpy()
    if strange := set(fold) - set(range(1, FOLDS + 1)):
        raise UserError(f"fold {min(strange)} is not one of 1 to {FOLDS}; correct the table")
    return fold


def _split(table: pd.DataFrame, *rows: Indices) -> Split:
    for first, second in combinations([set(table["patient"].iloc[part]) for part in rows], 2):
        if shared := first & second:
            raise UserError(
                f"patient {min(shared)} stands on two sides of the split; give all records of a "
                "patient the same fold"
            )
    return Split(*rows)
