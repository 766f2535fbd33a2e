"""Splits of random tables: by patient, nested, every record tested once, stratified."""

import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import mistake

from ecgnb.data.splits import FOLDS, Split, assign_folds, source_split, subset, target_split
from ecgnb.errors import UserError

TABLES = range(5)


def random_table(seed):
    """A table of 240 patients with one to many records, and labels from common to rare."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 240, 600)
    labels = rng.random((600, 8)) < np.geomspace(0.4, 0.01, 8)
    table = pd.DataFrame({"patient": [f"p{patient:04d}" for patient in patients]})
    table["fold"] = assign_folds(table["patient"], labels, FOLDS, seed)
    return table, labels


def sides(split):
    return split.train, split.validation, split.test


def assert_apart_and_whole(table, split):
    """No patient stands on two sides, and every record on one."""
    patients = [set(table["patient"].iloc[side]) for side in sides(split)]
    assert len(set().union(*patients)) == sum(map(len, patients))
    together = np.concatenate(sides(split))
    np.testing.assert_array_equal(np.sort(together), np.arange(len(table)))


@pytest.mark.parametrize("seed", TABLES)
def test_folds_and_the_sides_made_of_them_hold_every_record_once_and_no_patient_twice(seed):
    table, labels = random_table(seed)
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    sizes = table["fold"].value_counts()
    assert sorted(sizes.index) == list(range(1, FOLDS + 1))
    assert sizes.min() > 50
    assert sizes.max() < 70
    source = source_split(table)
    assert_apart_and_whole(table, source)
    folds = [set(table["fold"].iloc[side]) for side in sides(source)]
    assert folds == [set(range(1, 9)), {9}, {10}]
    for first in (0, 3):
        splits = [target_split(table, labels, first + i) for i in range(5)]
        tested = np.concatenate([split.test for split in splits])
        np.testing.assert_array_equal(np.sort(tested), np.arange(len(table)))
        for split in splits:
            assert_apart_and_whole(table, split)


def test_subsets_are_nested_and_all_is_all_and_only_other_seeds_differ():
    table, labels = random_table(0)
    for seed in range(3):
        split = target_split(table, labels, seed)
        sizes = [10, 50, 100, 200, len(split.train)]
        parts = [subset(split, size) for size in sizes]
        assert [len(part) for part in parts] == sizes
        assert all(set(small) < set(large) for small, large in itertools.pairwise(parts))
        np.testing.assert_array_equal(subset(split, 0), split.train)
    one, same, other = (target_split(table, labels, seed) for seed in (0, 0, 5))
    for first, second in zip(sides(one), sides(same), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one.test, other.test)
    assert len(set(subset(one, 100)) & set(subset(other, 100))) < 60
    folds = [assign_folds(table["patient"], labels, FOLDS, seed) for seed in (0, 1)]
    assert (folds[0] == table["fold"]).all()
    assert (folds[1] != table["fold"]).any()


@pytest.mark.parametrize("size", [361, 10**6, -1])
def test_a_size_that_cannot_be_had_is_an_error(size):
    split = Split(np.arange(360), np.arange(0), np.arange(0))
    said = "less than none" if size < 0 else f"{size} is larger than the training set of 360"
    mistake(said, subset, split, size)


def imbalance(labels, parts):
    """Mean distance of a part's positives from their share, in units of its square root."""
    wanted = np.array([len(part) * labels.mean(axis=0) for part in parts])
    there = np.array([labels[part].sum(axis=0) for part in parts])
    return np.mean(np.abs(there - wanted) / np.sqrt(wanted))


def test_folds_and_subsets_are_stratified_better_than_by_chance():
    rng = np.random.default_rng(0)
    folds, dealt, subsets, drawn = [], [], [], []
    for seed in TABLES:
        table, labels = random_table(seed)
        patients = table["patient"].unique()
        by_chance = dict(zip(patients, rng.integers(1, FOLDS + 1, len(patients)), strict=True))
        for fold, found in ((table["fold"], folds), (table["patient"].map(by_chance), dealt)):
            found.append(imbalance(labels, [np.flatnonzero(fold == k + 1) for k in range(FOLDS)]))
        in_train = labels[target_split(table, labels, seed).train]
        subsets.append(imbalance(in_train, [np.arange(100)]))
        drawn += [imbalance(in_train, [rng.permutation(len(in_train))[:100]]) for _ in range(9)]
    assert np.mean(folds) < 0.5 * np.mean(dealt)
    assert np.mean(subsets) < 0.7 * np.mean(drawn)


def test_a_patient_on_two_sides_and_an_eleventh_fold_are_errors():
    table, labels = random_table(0)
    splits = (source_split, lambda rows: target_split(rows, labels, 0))
    name = table["patient"].value_counts().index[0]
    of_one = table.index[table["patient"] == name]
    for split, fold in zip(splits, (9, 1), strict=True):
        divided = table.assign(fold=table["fold"].where(table["patient"] != name, 10))
        divided.loc[of_one[0], "fold"] = fold
        mistake(f"patient {name} stands on two sides", split, divided)
        for wrong in (0, 11, -1):
            with pytest.raises(UserError, match=f"fold {wrong} is not one of 1 to 10"):
                split(table.assign(fold=[wrong, *table["fold"][1:]]))


@pytest.mark.parametrize("records", [1, 3, 11])
@pytest.mark.parametrize("classes", [0, 1, 8])
def test_tiny_tables_and_tables_without_labels(records, classes):
    patients = pd.Series([f"p{i}" for i in range(records)])
    labels = np.zeros((records, classes), dtype=bool)
    fold = assign_folds(patients, labels, FOLDS, 0)
    assert set(fold) <= set(range(1, FOLDS + 1))
    assert np.bincount(fold).max() <= -(-records // FOLDS)
    split = target_split(pd.DataFrame({"patient": patients, "fold": fold}), labels, 0)
    assert sum(map(len, sides(split))) == records
