"""Differences, intervals and verdicts, against known truths."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ecgnb.study.statistics import Fold, paired_difference, verdict, weighted_auroc


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.02, 0.05, "helps"),
        (-0.05, -0.02, "harms"),
        (-0.005, 0.005, "equivalent"),
        (0.001, 0.009, "equivalent"),  # real, and too small to matter
        (-0.02, 0.02, "undecided"),
        (0.001, 0.02, "helps"),
    ],
)
def test_verdict(low, high, expected):
    assert verdict(low, high) == expected


def test_weighted_auroc_is_that_of_repeated_records():
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.3
    scores = rng.random(60).round(1)  # with ties
    weights = rng.integers(0, 3, (5, 60))
    expected = [roc_auc_score(np.repeat(truth, w), np.repeat(scores, w)) for w in weights]
    assert weighted_auroc(truth, scores, weights.astype(float)) == pytest.approx(expected)


def _folds(rng, seeds, records, shift, luck):
    """Two arms that see the same patients; the first is better by `shift` on average.

    `luck` is what the training of one seed adds to its arm.
    """
    folds = []
    for _ in range(seeds):
        truth = rng.random((records, 4)) < 0.3
        common = rng.normal(size=truth.shape)
        arms = [
            truth * (1 + change + luck * rng.normal())
            + 0.7 * common
            + 0.7 * rng.normal(size=truth.shape)
            for change in (shift, 0)
        ]
        folds.append(Fold(truth, arms[0], arms[1], np.arange(records)))
    return folds


def test_the_same_scores_are_equivalent():
    truth = np.random.default_rng(0).random((100, 2)) < 0.5
    scores = np.random.default_rng(1).random((100, 2))
    difference = paired_difference([Fold(truth, scores, scores, np.arange(100))] * 5)
    assert difference.mean == 0
    assert difference.verdict == "equivalent"


def test_a_large_difference_helps_and_its_reverse_harms():
    rng = np.random.default_rng(0)
    folds = _folds(rng, seeds=5, records=200, shift=1.0, luck=0.05)
    assert paired_difference(folds).verdict == "helps"
    turned = [Fold(fold.truth, fold.second, fold.first, fold.patients) for fold in folds]
    assert paired_difference(turned).verdict == "harms"
    assert paired_difference(turned).mean == pytest.approx(-paired_difference(folds).mean)


@pytest.mark.parametrize("luck", [0.0, 0.3])
def test_intervals_cover_no_difference_at_their_rate(luck):
    """Two arms that are equally good, where patients rule the chance and where training does."""
    rng = np.random.default_rng(3)
    repetitions = 80
    found = [paired_difference(_folds(rng, 5, 100, 0, luck), seed=k) for k in range(repetitions)]
    covered = np.mean([one.low < 0 < one.high for one in found])
    # Three standard errors of such a share: what a true 95 % gives almost always.
    assert covered > 0.95 - 3 * np.sqrt(0.95 * 0.05 / repetitions)
    if luck == 0:
        assert np.mean([one.seed_deviation for one in found]) < 0.02


def test_patients_are_drawn_not_records():
    """Every record twice, as two patients or as one: one patient's records are no new evidence."""
    rng = np.random.default_rng(1)
    one = _folds(rng, 1, 150, 0.2, 0)[0]
    twice = [np.tile(part, (2, 1)) for part in (one.truth, one.first, one.second)]
    as_one = Fold(*twice, np.tile(np.arange(150), 2))
    as_two = Fold(*twice, np.arange(300))
    single = paired_difference([one]).patient_deviation
    assert paired_difference([as_one]).patient_deviation == pytest.approx(single, rel=0.1)
    assert paired_difference([as_two]).patient_deviation < 0.8 * single
