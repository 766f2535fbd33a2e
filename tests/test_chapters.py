"""What the chapters say: curves, times and sentences, on runs whose truth is known."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from ecgnb.analysis import compare, curves
from ecgnb.analysis.bootstrap import REPLICATES
from ecgnb.analysis.compare import FROM, NET, pair, runs_table, summarise
from ecgnb.analysis.convergence import break_even, median_time, summarise_times, times_to_target
from ecgnb.analysis.curves import Curve, data_multipliers, fit_curves
from ecgnb.errors import UserError
from ecgnb.models.build import forward_gflop
from ecgnb.report import notebook
from ecgnb.study.declare import load_study
from ecgnb.study.store import Result

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
    errors = np.vstack(
        [errors, rng.uniform(0.05, 0.4, (10, 5)), np.sort(rng.uniform(0, 0.4, (10, 5)))]
    )
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


def test_a_change_of_the_gain_is_over_the_seeds_that_both_sizes_have(study, results):
    """More seeds at one size move its gain, and must not move the change."""
    fewer = [run for run in results if run.spec.size != 800 or run.spec.seed < 5]
    runs = runs_table(study, fewer)
    gains = pair(runs[runs["arm"] == "finetune"], runs[runs["arm"] == "scratch"])
    ends = [gains[gains["size"] == size] for size in (50, 800)]
    change = summarise(pair(*ends, on=[*FROM, *NET, "target"]), [*FROM, *NET, "target"])
    assert (change["seeds"] == 5).all()
    assert set(change["verdict"]) == {"helps"}
    difference = change["first"] - change["second"]
    assert difference.to_numpy() == pytest.approx(change["mean"].to_numpy())


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
