"""Differences, intervals and verdicts, against known truths."""

from types import SimpleNamespace

import coverage  # of benchmarks/, which pyproject.toml lets tests import
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ecgnb.analysis.bootstrap import REPLICATES, bootstrap_auroc, weighted_auroc
from ecgnb.analysis.compare import average, corrected, log_error, pair, summarise
from ecgnb.analysis.statistics import (
    DETECTABLE,
    Fold,
    holm,
    paired_difference,
    power,
    seeds_needed,
    verdict,
)
from ecgnb.errors import UserError
from ecgnb.training.metrics import auroc


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
    assert weighted_auroc(truth, scores, weights.T.astype(np.float32)) == pytest.approx(expected)


def test_bootstrap_draws_the_same_patients_whatever_the_scores():
    rng = np.random.default_rng(0)
    truth = rng.random((80, 3)) < 0.4
    scores = rng.random((80, 3)) + truth
    drawn = bootstrap_auroc(truth, scores, np.arange(80))
    assert drawn.shape == (REPLICATES,)
    assert np.array_equal(drawn, bootstrap_auroc(truth, 2 * scores + 1, np.arange(80)))
    assert drawn.mean() == pytest.approx(auroc(truth, scores).mean(), abs=0.01)


def test_patients_are_drawn_not_records():
    """Every record twice, as two patients or as one: one patient's records are no new evidence."""
    rng = np.random.default_rng(1)
    truth = rng.random((150, 4)) < 0.3
    scores = truth + rng.normal(size=truth.shape)
    single = bootstrap_auroc(truth, scores, np.arange(150)).std()
    twice = [np.tile(part, (2, 1)) for part in (truth, scores)]
    as_one = bootstrap_auroc(*twice, np.tile(np.arange(150), 2)).std()
    assert as_one == pytest.approx(single, rel=0.1)
    assert bootstrap_auroc(*twice, np.arange(300)).std() < 0.8 * single


def _simulated(rng, seeds, truth=0.0, patients=0.02, luck=0.0, both=0.0):
    """Five folds, or fewer if there are fewer seeds, of differences with a known truth.

    `patients`, `luck` and `both` are standard deviations: what the patients of a fold do to all
    seeds, what the training of a seed does, and what a network does on some patients only.
    """
    folds = []
    for _ in range(min(seeds, 5)):
        count = max(seeds // 5, 1)
        shared = rng.normal(0, patients)
        own = rng.normal(0, np.hypot(luck, both), count)
        drawn = rng.normal(0, patients, 200) + rng.normal(0, both, (count, 200))
        folds.append(Fold(truth + shared + own, truth + shared + own[:, None] + drawn))
    return folds


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 40])
@pytest.mark.parametrize(
    ("patients", "luck", "both"),
    [(0.02, 0, 0), (0.02, 0.02, 0), (0.02, 0.04, 0.01), (0.01, 0.08, 0)],
)
def test_intervals_cover_the_truth_at_their_rate(seeds, patients, luck, both):
    """With few seeds they may do so more often."""
    rng = np.random.default_rng(8)
    found = [
        paired_difference(_simulated(rng, seeds, 0.03, patients, luck, both)) for _ in range(1000)
    ]
    covered = np.mean([one.low < 0.03 < one.high for one in found])
    assert 0.93 <= covered <= (0.97 if seeds >= 5 else 1)


@pytest.mark.slow
def test_intervals_cover_the_truth_though_fifths_share_training_records():
    """Cross-validated classifiers, whose training sets overlap: the larger, the more."""
    row = coverage.cross_validated(720, 0.05, 1, np.random.default_rng(1))
    assert 0.93 <= row["covered"] <= 0.97


def test_one_seed_decides_nothing():
    alone = paired_difference(_simulated(np.random.default_rng(0), 1, truth=0.5))
    assert (alone.verdict, alone.p, alone.low) == ("undecided", 1, -np.inf)
    assert alone.equivalence_p >= 0.5
    assert np.isnan(seeds_needed(alone))


def test_folds_weigh_alike():
    folds = _simulated(np.random.default_rng(0), 10)
    folds[0] = Fold(folds[0].differences[:1], folds[0].replicates[:1])
    with pytest.raises(ValueError, match="unequal"):
        paired_difference(folds)


def test_luck_and_patients_are_told_apart():
    rng = np.random.default_rng(2)
    found = [paired_difference(_simulated(rng, 40, patients=0.02, luck=0.05)) for _ in range(50)]
    assert np.mean([one.patient_deviation for one in found]) == pytest.approx(0.02, rel=0.1)
    assert np.mean([one.seed_deviation for one in found]) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("seeds", [5, 20])
def test_power_is_the_rate_at_which_a_difference_is_found(seeds):
    rng = np.random.default_rng(4)
    found = [paired_difference(_simulated(rng, seeds, DETECTABLE, 0.01, 0.02)) for _ in range(600)]
    rate = np.mean([not one.low < 0 < one.high for one in found])
    known = paired_difference(_simulated(rng, 200, DETECTABLE, 0.01, 0.02))
    assert power(known, seeds) == pytest.approx(rate, abs=0.06)


def test_more_seeds_average_luck_out_but_not_patients():
    rng = np.random.default_rng(5)
    lucky = paired_difference(_simulated(rng, 40, patients=0.005, luck=0.05))
    needed = int(seeds_needed(lucky))
    assert power(lucky, needed) >= 0.8 > power(lucky, needed - 5)
    few_patients = paired_difference(_simulated(rng, 40, patients=0.08, luck=0.01))
    assert seeds_needed(few_patients) == np.inf
    # What a network does on some patients only looks like the patients' part, and is not.
    rng = np.random.default_rng(11)
    once = paired_difference(_simulated(rng, 5, patients=0.005, both=0.03))
    assert np.isnan(seeds_needed(once))
    often = paired_difference(_simulated(rng, 40, patients=0.005, both=0.03))
    assert seeds_needed(often) <= 60
    enough = paired_difference(_simulated(rng, 5, patients=0.001))
    assert seeds_needed(enough) == 5


def test_two_equal_arms_seldom_differ_in_a_family():
    rng = np.random.default_rng(6)
    wrong = kept = 0
    for _ in range(80):
        found = [paired_difference(_simulated(rng, 10, luck=0.02)) for _ in range(8)]
        table = pd.DataFrame(corrected(found))
        decided = table["verdict"].isin(["helps", "harms"])
        wrong += decided.any()
        kept += (decided & table["holds"]).any()
    assert wrong > 16
    assert kept < 10


def test_p_values_agree_with_the_verdict():
    rng = np.random.default_rng(7)
    for _ in range(100):
        one = paired_difference(_simulated(rng, 5, rng.normal(0, 0.02), 0.003, 0.003))
        assert (one.p < 0.05) == (not one.low < 0 < one.high)
        assert (one.equivalence_p < 0.025) == (one.verdict == "equivalent")


def _runs(scores, **values):
    """Rows of `runs_table`: a score for each seed, on test sets that differ in nothing."""
    run = SimpleNamespace(key="run", records=("a", "b"), classes=("x",))
    columns = {"source": "", "source_label_set": "", "target": "here", "label_set": "all"}
    columns |= {"min_positives": 0, "size": 50, "updates": 3, "model": "gru", "head": "pooled"}
    seeds = np.arange(len(scores))
    table = pd.DataFrame({"seed": seeds, "fold": seeds % 5, "records": 50, "score": scores})
    boot = [one + np.random.default_rng(7).normal(0, 0.01, 200) for one in scores]
    return table.assign(**columns | values, boot=boot, run=[run] * len(scores))


def test_runs_are_paired_by_seed_and_unfinished_rounds_left_out():
    first = _runs([0.8, 0.8, 0.8, 0.8, 0.8, 0.9, 0.5], source="there")
    row = summarise(pair(first, _runs([0.7] * 7))).iloc[0]
    assert (row["seeds"], row["source"], row["records"], row["tested"]) == (5, "there", 50, 10)
    assert [row["mean"], row["first"], row["second"]] == pytest.approx([0.1, 0.8, 0.7])
    assert row["verdict"] == "helps"
    same, none = summarise(pair(first, first)), summarise(pair(first[:0], first[:0]))
    assert same["verdict"].item() == "equivalent"
    assert list(none.columns) == list(same.columns)
    unscored = first.assign(score=[*first["score"][:-4], np.nan, *first["score"][-3:]])
    assert summarise(pair(unscored, _runs([0.7] * 7))).empty


def test_rows_that_are_no_comparison_are_refused():
    twice = pd.concat([_runs([0.7] * 5), _runs([0.7] * 5, updates=9)])
    with pytest.raises(UserError, match=r"has a seed twice; add to `by`.*updates"):
        summarise(twice, ["model"])
    other = _runs([0.7]).assign(run=[SimpleNamespace(key="o", records=("c",), classes=("x",))])
    with pytest.raises(ValueError, match="run and o were not tested alike"):
        pair(_runs([0.8]), other)


def test_networks_are_averaged_over_seeds_that_all_have():
    both = pd.concat([_runs([0.7] * 6), _runs([0.9] * 5, model="lstm")])
    mean = average(both, ["model"], ["size"])
    assert mean["score"].tolist() == pytest.approx([0.8] * 5)
    assert summarise(mean, ["size"])["mean"].item() == pytest.approx(0.8)
    sides = [average(_runs([0.6] * some, size=50), ["model"], ["size"]) for some in (5, 0)]
    change, nothing = (summarise(pair(mean, side, ["size"]), ["size"]) for side in sides)
    assert change["mean"].item() == pytest.approx(0.2)
    assert nothing.empty


def test_equal_gains_are_unequal_on_the_scale_of_error():
    runs = [log_error(_runs([score] * 5)) for score in (0.6, 0.65, 0.9, 0.95)]
    gains = pair(runs[1], runs[0]), pair(runs[3], runs[2])
    poor, good = (summarise(one, margin=0.1)["mean"].item() for one in gains)
    assert [poor, good] == pytest.approx([np.log(0.4 / 0.35), np.log(0.1 / 0.05)])
    assert summarise(gains[0], margin=0.2)["verdict"].item() == "equivalent"


def test_corrections_are_in_the_order_given_and_that_of_benjamini_and_hochberg_is_smaller():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert len(holm([])) == 0
    assert holm([0.01, 0.02, 0.03, 0.5], "fdr_bh") == pytest.approx([0.04, 0.04, 0.04, 0.5])
    sizes = [pair(_runs([0.8] * 5, size=n), _runs([0.7] * 5, size=n)) for n in (5, 9)]
    table = summarise(pd.concat(sizes))
    assert (table["p_bh"] <= table["p_holm"]).all()
