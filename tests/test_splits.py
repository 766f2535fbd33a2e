"""Splits of random tables: by patient, nested, every record tested once, stratified."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from ecgnb.data.splits import FOLDS, Split, assign_folds, source_split, subset, target_split
from ecgnb.errors import UserError

TABLES = range(5)


def random_table(seed, records=600, each=2.5):
    """A table of patients with one to many records, and labels from common to rare."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, max(1, int(records / each)), records)
    labels = rng.random((records, 8)) < np.geomspace(0.4, 0.01, 8)
    table = pd.DataFrame({"patient": [f"p{patient:04d}" for patient in patients]})
    table["fold"] = assign_folds(table["patient"], labels, FOLDS, seed)
    return table, labels


def sides(split):
    return split.train, split.validation, split.test


def assert_apart(table, split):
    train, validation, test = (set(table["patient"].iloc[side]) for side in sides(split))
    assert not train & validation
    assert not train & test
    assert not validation & test


@pytest.mark.parametrize("seed", TABLES)
def test_no_patient_stands_in_two_folds_and_folds_are_about_equal(seed):
    table, _ = random_table(seed)
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    sizes = table["fold"].value_counts()
    assert sorted(sizes.index) == list(range(1, FOLDS + 1))
    assert sizes.min() > 50
    assert sizes.max() < 70


@pytest.mark.parametrize("seed", TABLES)
def test_source_split_uses_every_record_once_and_no_patient_twice(seed):
    table, _ = random_table(seed)
    split = source_split(table)
    assert_apart(table, split)
    np.testing.assert_array_equal(np.sort(np.concatenate(sides(split))), np.arange(len(table)))
    assert set(table["fold"].iloc[split.train]) == set(range(1, 9))
    assert set(table["fold"].iloc[split.validation]) == {9}
    assert set(table["fold"].iloc[split.test]) == {10}


@pytest.mark.parametrize("seed", TABLES)
def test_target_split_tests_every_record_exactly_once_over_five_seeds(seed):
    table, labels = random_table(seed)
    for first in (0, 3):
        splits = [target_split(table, labels, first + i) for i in range(5)]
        tested = np.concatenate([split.test for split in splits])
        np.testing.assert_array_equal(np.sort(tested), np.arange(len(table)))
        for split in splits:
            assert_apart(table, split)
            together = np.concatenate(sides(split))
            np.testing.assert_array_equal(np.sort(together), np.arange(len(table)))


def test_subsets_are_nested_and_all_is_all():
    table, labels = random_table(0)
    for seed in range(3):
        split = target_split(table, labels, seed)
        sizes = [10, 50, 100, 200, len(split.train)]
        parts = [subset(split, size) for size in sizes]
        assert [len(part) for part in parts] == sizes
        for small, large in itertools.pairwise(parts):
            assert set(small) < set(large)
        np.testing.assert_array_equal(subset(split, 0), split.train)


def test_subsets_differ_from_seed_to_seed_beyond_their_fifth():
    table, labels = random_table(0)
    one, other = (target_split(table, labels, seed) for seed in (0, 5))
    np.testing.assert_array_equal(one.test, other.test)
    assert len(set(subset(one, 100)) & set(subset(other, 100))) < 60


@pytest.mark.parametrize("size", [361, 10**6])
def test_a_size_larger_than_the_training_set_is_an_error(size):
    split = Split(np.arange(360), np.arange(0), np.arange(0))
    with pytest.raises(UserError, match=f"{size} is larger than the training set of 360"):
        subset(split, size)
    with pytest.raises(UserError, match="less than none"):
        subset(split, -1)


def imbalance(labels, parts):
    """Mean distance of a part's positives from their share, in units of its square root."""
    wanted = np.array([[len(part) * labels[:, k].mean() for k in range(8)] for part in parts])
    there = np.array([labels[part].sum(axis=0) for part in parts])
    return float(np.mean(np.abs(there - wanted) / np.sqrt(wanted)))


def test_folds_and_subsets_are_stratified_better_than_by_chance():
    rng = np.random.default_rng(0)
    folds, dealt, subsets, drawn = [], [], [], []
    for seed in TABLES:
        table, labels = random_table(seed)
        fold = table["fold"].to_numpy()
        folds.append(imbalance(labels, [np.flatnonzero(fold == k + 1) for k in range(FOLDS)]))
        patients = table["patient"].unique()
        random_fold = dict(zip(patients, rng.integers(0, FOLDS, len(patients)), strict=True))
        fold = table["patient"].map(random_fold).to_numpy()
        dealt.append(imbalance(labels, [np.flatnonzero(fold == k) for k in range(FOLDS)]))
        split = target_split(table, labels, seed)
        in_train = labels[split.train]
        subsets.append(imbalance(in_train, [np.arange(100)]))
        drawn.append(
            np.mean([imbalance(in_train, [rng.permutation(len(in_train))[:100]]) for _ in range(9)])
        )
    assert np.mean(folds) < 0.5 * np.mean(dealt)
    assert np.mean(subsets) < 0.7 * np.mean(drawn)


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    table, labels = random_table(0)
    again, _ = random_table(0)
    pd.testing.assert_frame_equal(table, again)
    one, same, another = (target_split(table, labels, seed) for seed in (1, 1, 6))
    for first, second in zip(sides(one), sides(same), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (one.train != another.train).any()
    other = assign_folds(table["patient"], labels, FOLDS, 1)
    assert (other != table["fold"]).any()


def test_a_patient_on_two_sides_is_an_error():
    table, labels = random_table(0)
    of_one = table.index[table["patient"] == table["patient"].value_counts().index[0]]
    table.loc[of_one[0], "fold"] = 9
    table.loc[of_one[1:], "fold"] = 10
    name = table.loc[of_one[0], "patient"]
    with pytest.raises(UserError, match=f"patient {name} stands on two sides"):
        source_split(table)
    table.loc[of_one[0], "fold"] = 1
    with pytest.raises(UserError, match=f"patient {name} stands on two sides"):
        target_split(table, labels, 0)
    for fold in (0, 11, -1):
        for split in (source_split, lambda rows: target_split(rows, labels, 0)):
            with pytest.raises(UserError, match=f"fold {fold} is not one of 1 to 10"):
                split(table.assign(fold=[fold, *table["fold"][1:]]))


@pytest.mark.parametrize("records", [1, 3, 11])
@pytest.mark.parametrize("classes", [0, 1, 8])
def test_tiny_tables_and_tables_without_labels(records, classes):
    patients = pd.Series([f"p{i}" for i in range(records)])
    fold = assign_folds(patients, np.zeros((records, classes), dtype=bool), FOLDS, 0)
    assert set(fold) <= set(range(1, FOLDS + 1))
    assert np.bincount(fold).max() <= -(-records // FOLDS)
    table = pd.DataFrame({"patient": patients, "fold": fold})
    split = target_split(table, np.zeros((records, classes), dtype=bool), 0)
    assert sum(map(len, sides(split))) == records
