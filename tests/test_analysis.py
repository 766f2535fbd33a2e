"""Differences, intervals, verdicts, curves and times, against known truths."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import mistake
from scipy.optimize import least_squares
from sklearn.metrics import roc_auc_score

from ecgnb.analysis import compare, curves, statistics
from ecgnb.analysis.bootstrap import REPLICATES, bootstrap_auroc, weighted_auroc
from ecgnb.analysis.compare import average, corrected, log_error, pair, runs_table, summarise
from ecgnb.analysis.convergence import break_even, median_time, summarise_times, times_to_target
from ecgnb.analysis.curves import Curve, data_multipliers, fit_curves
from ecgnb.analysis.statistics import Fold, holm, paired_difference, power, seeds_needed, verdict
from ecgnb.errors import UserError
from ecgnb.models.build import forward_gflop
from ecgnb.report import notebook
from ecgnb.study.declare import load_study
from ecgnb.study.store import Result
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
    worlds = (_simulated(rng, seeds, 0.03, patients, luck, both) for _ in range(1000))
    found = list(map(paired_difference, worlds))
    covered = np.mean([one.low < 0.03 < one.high for one in found])
    assert 0.93 <= covered <= (0.97 if seeds >= 5 else 1)


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
    rng, sought = np.random.default_rng(4), statistics.DETECTABLE
    found = [paired_difference(_simulated(rng, seeds, sought, 0.01, 0.02)) for _ in range(600)]
    rate = np.mean([not one.low < 0 < one.high for one in found])
    known = paired_difference(_simulated(rng, 200, sought, 0.01, 0.02))
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
    assert summarise(_runs([0.7, 0.9], fold=0))["mean"].item() == pytest.approx(0.8)
    same, none = summarise(pair(first, first)), summarise(pair(first[:0], first[:0]))
    assert same["verdict"].item() == "equivalent"
    assert list(none.columns) == list(same.columns)
    unscored = first.assign(score=[*first["score"][:-4], np.nan, *first["score"][-3:]])
    assert summarise(pair(unscored, _runs([0.7] * 7))).empty


def test_rows_that_are_no_comparison_are_refused():
    twice = pd.concat([_runs([0.7] * 5), _runs([0.7] * 5, updates=9)])
    mistake(r"has a seed twice; add to `by`.*updates", summarise, twice, ["model"])
    other = _runs([0.7]).assign(run=[SimpleNamespace(key="o", records=("c",), classes=("x",))])
    with pytest.raises(ValueError, match="run and o were not tested alike"):
        pair(_runs([0.8]), other)


def test_networks_are_averaged_over_seeds_that_all_have():
    both = pd.concat([_runs([0.7] * 6), _runs([0.9] * 5, model="lstm")])
    mean = average(both, ["model"], ["size"])
    assert mean["score"].tolist() == pytest.approx([0.8] * 5)
    assert summarise(mean, ["size"])["mean"].item() == pytest.approx(0.8)
    more = average(_runs([0.6] * 5 + [0.1] * 5), ["model"], ["size"])
    change, nothing = (summarise(pair(mean, side, ["size"]), ["size"]) for side in (more, more[:0]))
    assert change["mean"].item() == pytest.approx(0.2)
    assert change["seeds"].item() == 5
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


SIZES, SEEDS = (50, 100, 200, 400, 800), range(10)
SCRATCH, TUNED = Curve(0.05, 3.0, 0.7), Curve(0.05, 0.6, 0.45)


def _run(place, cell, auroc, **others):
    tuned = cell.arm == "finetune"
    update = np.arange(10, 101, 10)
    levels = auroc * (1 - np.exp(-update / (20 if tuned else 40)))
    history = {"update": update, "seconds": 0.1 * update, "validation_auroc": levels}
    facts = {"auroc": auroc, "train_records": cell.size or 900}
    records = tuple(f"r{k}" for k in range(cell.seed % 5, 500, 5))
    scores = np.zeros((len(records), 4), np.float16)
    return Result(f"{place:020d}", cell, tuple("abcd"), records, scores, history, facts | others)


@pytest.fixture(scope="module")
def study():
    asked = {"heads": ["pooled", "flattened"], "arms": ["scratch", "finetune"]}
    return load_study("demo", sizes=list(SIZES), seeds=list(SEEDS), **asked)


@pytest.fixture(scope="module")
def results(study):
    """Runs of all cells, their AUROC that of a known curve but for a seed's luck."""
    curve, rng = {"scratch": SCRATCH, "finetune": TUNED}, np.random.default_rng(0)
    return [
        _run(place, cell, 1 - float(curve[cell.arm].error(cell.size)) + rng.normal(0, 0.002))
        for place, cell in enumerate(study.cells())
    ]


@pytest.fixture(autouse=True)
def known_scores(monkeypatch):
    """Each run's AUROC is what its facts say, and patients move it a little."""

    def scored(study, run, metric, only):
        drawn = np.random.default_rng(run.spec.seed % 5).normal(0, 0.002, REPLICATES)
        return run.facts["auroc"], run.facts["auroc"] + drawn

    monkeypatch.setattr(compare, "_scored", scored)


def test_curves_are_found_from_their_points_as_by_a_general_optimiser():
    sizes, rng = np.array(SIZES, dtype=float), np.random.default_rng(0)
    known = [SCRATCH, TUNED, Curve(0.0, 1.0, 0.3)]
    errors = [curve.error(sizes) for curve in known]
    noise = rng.uniform(0.05, 0.4, (10, 5))
    errors = np.vstack([errors, noise, np.sort(rng.uniform(0, 0.4, (10, 5)))])
    fitted = fit_curves(sizes, errors)
    for curve, found in zip(known, fitted, strict=False):
        assert found.error(sizes) == pytest.approx(curve.error(sizes), abs=1e-4)
        assert found.records(0.12) == pytest.approx(curve.records(0.12), rel=0.01)
    for own, found in zip(errors, fitted, strict=True):
        missed = [
            least_squares(
                lambda x, own=own: x[0] + x[1] * (sizes / 50) ** -x[2] - own,
                [0.5 * own.min(), 0.5 * own.max(), steepness],
                bounds=([0, 0, 0.01], [1, 1, 2]),
            ).cost
            for steepness in (0.05, 0.5, 1.5)
        ]
        assert ((found.error(sizes) - own) ** 2).sum() / 2 < min(missed) + 1e-6


def test_what_is_too_few_for_a_number_a_curve_or_an_interval(study, results):
    assert SCRATCH.records(0.04) == np.inf
    few = [run for run in results if run.spec.size in (50, 100)]
    assert data_multipliers(study, few) == []
    with pytest.raises(ValueError, match="3 sizes"):
        fit_curves(np.array([50.0, 100.0]), np.array([[0.2, 0.1]]))
    one = data_multipliers(study, [run for run in results if run.spec.seed == 0])[0]
    assert np.isnan(one.multiples[1:]).all()
    assert np.isfinite(one.multiples[0]).all()
    with pytest.raises(UserError, match="at least 2 seeds"):
        times_to_target(study, [run for run in results if run.spec.seed % 5 == 0])


@pytest.mark.parametrize("rounds", [1, 2])
def test_multiples_are_those_of_the_known_curves_and_their_intervals_cover_them(
    study, results, monkeypatch, rounds
):
    """Whether the seeds are one a fifth or several; patients and luck are shared by the sizes."""
    monkeypatch.setattr(curves, "_REPLICATES", 200)
    rng = np.random.default_rng(rounds)
    sizes = np.array(SIZES, dtype=float)
    expected = np.array([SCRATCH.records(float(e)) for e in TUNED.error(sizes)]) / sizes
    runs = [run for run in results if run.spec.model == "resnet1d18" and run.spec.seed < 5 * rounds]
    found = []
    for _ in range(60):
        patients, luck = rng.normal(0, 0.01, (5, 2)), rng.normal(0, 0.012, (10, 2))
        moved = {}
        for run in runs:
            tuned, fifth = int(run.spec.arm == "finetune"), run.spec.seed % 5
            error = (TUNED if tuned else SCRATCH).error(run.facts["train_records"])
            error += patients[fifth, tuned] + luck[run.spec.seed, tuned] + rng.normal(0, 0.006)
            # The same drawn patients for all runs of an arm and a fifth.
            drawn = np.random.default_rng((fifth, tuned)).normal(0, 0.01, REPLICATES)
            moved[run.key] = 1 - error, 1 - error + drawn
        monkeypatch.setattr(compare, "_scored", lambda study, run, *_, moved=moved: moved[run.key])
        found.append(data_multipliers(study, runs)[0].multiples)
    values, low, high = np.moveaxis(found, 1, 0)
    assert np.median(values[:, :3], axis=0) == pytest.approx(expected[:3], rel=0.1)
    assert 0.93 <= ((low <= expected) & (expected <= high)).mean() <= 0.98


def two_arms(results, repetitions, speed, seeds):
    """Runs of two arms from one noisy learning curve, a cell a repetition; the second is faster."""
    rng = np.random.default_rng(1)
    known = {run.spec.arm: run for run in results if run.spec.model == "resnet1d18"}
    update = np.arange(20, 301, 20)
    found = []
    for repetition in range(repetitions):
        easy = rng.normal(0, 0.015, 5)  # what the patients of a fifth do to every run
        for (arm, run), seed in itertools.product(known.items(), range(seeds)):
            best = 0.3 + easy[seed % 5] + rng.normal(0, 0.015)
            scale = 60 * np.exp(rng.normal(0, 0.3)) / (speed if arm == "finetune" else 1)
            levels = 0.5 + best * (1 - np.exp(-update / scale)) + rng.normal(0, 0.008, len(update))
            history = {**run.history, "update": update, "validation_auroc": levels}
            spec = replace(run.spec, size=repetition + 1, seed=seed)
            found.append(replace(run, spec=spec, history=history))
    return found


@pytest.mark.parametrize("seeds", [5, 10])
def test_neither_of_two_equal_arms_is_sooner_beyond_chance(study, results, seeds):
    runs = two_arms(results, 200, speed=1, seeds=seeds)
    summary = summarise_times(times_to_target(study, runs))
    found = (summary["p"] < 0.05).mean()
    assert found < 0.08  # that is 0.05 and two standard errors of 200 repetitions
    excludes = (summary["low"] > 0) | (summary["high"] < 0)
    assert excludes.mean() == found
    difference = summary["scratch_mean"] - summary["other_mean"]
    assert abs(difference.mean()) < 3 * difference.std() / np.sqrt(len(summary))
    assert abs(summary["scratch_never"].sum() / summary["other_never"].sum() - 1) < 0.1


def test_an_arm_twice_as_fast_is_found(study, results):
    summary = summarise_times(times_to_target(study, two_arms(results, 50, speed=2, seeds=40)))
    saved = summary["scratch_mean"] - summary["other_mean"]
    assert ((summary["low"] < saved) & (saved < summary["high"])).all()
    assert summary["saved"].to_numpy() == pytest.approx(saved / summary["scratch_mean"])
    assert (summary["saved"] > 0).all()
    assert (summary["other_median"] < summary["scratch_median"]).mean() > 0.9
    assert (summary["p"] <= summary["p_holm"]).all()
    assert ((summary["p"] < 0.05) & (summary["low"] > 0)).mean() > 0.7


def test_a_run_that_never_gets_there_is_censored(study, results):
    """In the median it counts as later than all that was seen, in the mean with its last update."""
    poor = {"scratch": {}, "finetune": {"validation_auroc": [0.5] * 10}}
    poorer = [replace(run, history=run.history | poor[run.spec.arm]) for run in results]
    times = times_to_target(study, poorer)
    summary, costs = summarise_times(times), break_even(times)
    assert (summary["other_never"] == len(SEEDS)).all()
    assert summary["other_median"].isna().all()
    assert (summary["other_mean"] == 100).all()
    assert np.isinf(costs[["targets", "most"]]).all(axis=None)


def test_half_of_the_runs_are_enough_for_a_median():
    runs = pd.DataFrame({"updates": 10 * np.arange(1, 25), "reached": True})
    assert median_time(runs) == 120
    assert median_time(runs.assign(reached=runs["updates"] <= 120)) == 120
    assert np.isnan(median_time(runs.assign(reached=runs["updates"] <= 110)))


def test_break_even_counts_the_pretraining(study, results):
    times = times_to_target(study, [run for run in results if run.spec.model == "resnet1d18"])
    costs = break_even(times)
    row = costs[costs["size"] == 50].iloc[0]
    forward = forward_gflop("resnet1d18", "pooled", 4, study.data.samples)
    update = 3 * forward * study.batch_size
    pretraining = update * study.pairs[0].source.updates
    assert row["pretraining_gflop"] == pytest.approx(pretraining)
    means = times[times["size"] == 50].groupby("arm")["updates"].mean()
    saved = update * (means["scratch"] - means["finetune"])
    assert row["targets"] == pytest.approx(row["pretraining_gflop"] / saved)
    summary = summarise_times(times).set_index(["model", "head", "size"])
    saved = summary.loc["resnet1d18", "pooled", 50]
    ends = row["pretraining_gflop"] / (update * saved[["high", "low"]].to_numpy(float))
    assert row[["fewest", "most"]].to_numpy(float) == pytest.approx(ends)
    assert row["fewest"] < row["targets"] < row["most"]


def test_a_size_has_one_number_of_training_records():
    study = load_study("demo", models=["resnet1d18", "gru"], heads=["pooled"], sizes=[0], seeds=5)
    runs = [
        _run(place, cell, 0.8, train_records=715 + (cell.seed > 1))
        for place, cell in enumerate(study.cells())
        if cell.model == "gru" or cell.seed < 2
    ]
    runs = runs_table(study, runs)
    gain = summarise(pair(runs[runs["arm"] == "finetune"], runs[runs["arm"] == "scratch"]))
    assert gain["records"].tolist() == [716, 716]


def test_a_companion_is_found_by_its_name(tmp_path, monkeypatch):
    study, runs = notebook.companion(load_study("nguyen2025"), "paper")
    assert (study.name, runs) == ("nguyen2025", [])
    monkeypatch.setenv("ECGNB_RESULTS", str(tmp_path))  # where nothing was recorded
    study, runs = notebook.companion(load_study("clinical"), "paper")
    assert (study.name, runs) == ("clinical", [])
