"""What the chapters say: curves, times and sentences, on runs whose truth is known."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import least_squares

from ecgnb.analysis import compare, curves
from ecgnb.analysis.bootstrap import REPLICATES
from ecgnb.analysis.compare import compare_arms, compare_families
from ecgnb.analysis.convergence import (
    break_even,
    median_time,
    summarise_times,
    times_to_target,
)
from ecgnb.analysis.curves import Curve, fit_curves, worth
from ecgnb.chapters import (
    common,
    diminishing,
    filtered,
    published,
)
from ecgnb.errors import UserError
from ecgnb.models import MODELS
from ecgnb.models.build import forward_gflop
from ecgnb.report import prose
from ecgnb.report.charts import draw_heads, draw_worth
from ecgnb.study.declare import load_study
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS

SIZES, SEEDS = (50, 100, 200, 400, 800), range(10)
SCRATCH, TUNED = Curve(0.05, 3.0, 0.7), Curve(0.05, 0.6, 0.45)
RECURRENT = 0.05  # how much more a recurrent network gains at every size


@pytest.fixture(scope="module")
def study():
    return load_study("demo", sizes=list(SIZES), seeds=list(SEEDS), heads=["pooled", "flattened"])


@pytest.fixture(scope="module")
def results(study):
    """Runs whose AUROC is that of two known curves, with the luck of a seed."""
    rng = np.random.default_rng(0)
    found = []
    for cell in study.cells():
        if cell.arm not in ("scratch", "finetune"):
            continue
        tuned = cell.arm == "finetune"
        error = float((TUNED if tuned else SCRATCH).error(cell.size))
        if tuned and MODELS[cell.model].family == "RNN" and cell.head == "pooled":
            error -= RECURRENT
        auroc = 1 - error + rng.normal(0, 0.002)
        updates = list(range(10, 101, 10))
        speed = 20 if tuned else 40
        levels = [auroc * (1 - np.exp(-update / speed)) for update in updates]
        history = {
            "update": updates,
            "seconds": [0.1 * update for update in updates],
            "validation_auroc": levels,
            "validation_f1": [0.6, 0.7, 0.5],
            "test_f1": [0.5, 0.6, 0.65 + 0.1 * tuned],
        }
        facts = {"auroc": auroc, "train_records": cell.size, "classes": 4, "device": "cpu"}
        facts |= {"weighted_f1": auroc, "validation_records": 100, "seconds": 1.0}
        facts |= {"package": "0", "torch": "0", "precision": "float32"}
        names = ("a", "b", "c", "d")
        records = tuple(f"r{k}" for k in range(cell.seed % 5, 500, 5))
        scores = np.zeros((len(records), 4), np.float16)
        key = f"{len(found):020d}"
        found.append(Result(key, cell, names, records, scores, history, facts))
    return found


@pytest.fixture(autouse=True)
def known_scores(monkeypatch):
    """Each run's AUROC is what its facts say, and patients move it a little."""

    def scored(study, run, metric, only):
        drawn = np.random.default_rng(run.spec.seed % 5).normal(0, 0.002, REPLICATES)
        return run.facts["auroc"], run.facts["auroc"] + drawn

    monkeypatch.setattr(compare, "_scored", scored)


def test_curves_are_found_from_their_points():
    sizes = np.array(SIZES, dtype=float)
    known = [SCRATCH, TUNED, Curve(0.0, 1.0, 0.3)]
    errors = np.array([curve.error(sizes) for curve in known])
    for curve, found in zip(known, fit_curves(sizes, errors), strict=True):
        assert found.error(sizes) == pytest.approx(curve.error(sizes), abs=1e-4)
        assert found.records(0.12) == pytest.approx(curve.records(0.12), rel=0.01)


def test_the_fit_is_that_of_a_general_optimiser():
    sizes, rng = np.array(SIZES, dtype=float), np.random.default_rng(0)
    errors = np.vstack([rng.uniform(0.05, 0.4, (10, 5)), np.sort(rng.uniform(0, 0.4, (10, 5)))])
    for own, found in zip(errors, fit_curves(sizes, errors), strict=True):
        missed = [
            least_squares(
                lambda x, own=own: x[0] + x[1] * (sizes / 50) ** -x[2] - own,
                [0.5 * own.min(), 0.5 * own.max(), steepness],
                bounds=([0, 0, 0.01], [1, 1, 2]),
            ).cost
            for steepness in (0.05, 0.5, 1.5)
        ]
        assert ((found.error(sizes) - own) ** 2).sum() / 2 < min(missed) + 1e-6


def test_no_number_of_records_gets_under_the_floor():
    assert SCRATCH.records(0.04) == np.inf
    with pytest.raises(ValueError, match="3 sizes"):
        fit_curves(np.array([50.0, 100.0]), np.array([[0.2, 0.1]]))


def test_the_multiple_is_that_of_the_known_curves(study, results):
    found = {(one.model, one.head): one for one in worth(study, results)}
    one = found["resnet1d18", "pooled"]
    sizes = np.array(SIZES, dtype=float)
    expected = np.array([SCRATCH.records(float(e)) for e in TUNED.error(sizes)]) / sizes
    value, low, high = one.multiples
    assert value[:3] == pytest.approx(expected[:3], rel=0.1)
    assert ((low <= expected) & (expected <= high)).sum() >= 4
    gone = SCRATCH.error(sizes) - TUNED.error(sizes) < 0.01
    assert one.vanishes[1] <= sizes[gone][0] * 1.2
    # Where the recurrent network always gains, no size is large enough.
    assert found["gru", "pooled"].vanishes[0] == np.inf


@pytest.mark.parametrize("rounds", [1, 2])
def test_intervals_of_multiples_cover_the_truth(study, results, monkeypatch, rounds):
    """Whether the seeds are one a fifth or several; patients and luck are shared by the sizes."""
    monkeypatch.setattr(curves, "_REPLICATES", 200)
    rng = np.random.default_rng(rounds)
    sizes = np.array(SIZES, dtype=float)
    expected = np.array([SCRATCH.records(float(e)) for e in TUNED.error(sizes)]) / sizes
    runs = [run for run in results if run.spec.model == "resnet1d18" and run.spec.seed < 5 * rounds]
    hits = []
    for _ in range(100):
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
        one = worth(study, runs)[0]
        hits.append((one.multiples[1] <= expected) & (expected <= one.multiples[2]))
    assert 0.93 <= np.mean(hits) <= 0.98


def test_one_seed_has_no_interval(study, results):
    one = worth(study, [run for run in results if run.spec.seed == 0])[0]
    assert np.isnan(one.multiples[1:]).all()
    assert np.isfinite(one.multiples[0]).all()
    assert diminishing._read(one)["interval"] == "not known with one seed"
    assert diminishing._read(one)["interval "] == "not known with one seed"
    assert len(draw_worth([one]).axes) == 1


def test_a_gain_that_shrinks_is_said_to_shrink(study, results):
    change = diminishing.shrinking(study, results)
    assert set(change["verdict"]) == {"helps"}
    assert change["head"].tolist() == ["pooled", "pooled", "flattened"]
    text = diminishing.shrinking_answer(change, worth(study, results)).data
    assert text.startswith("**Yes** for ResNet1d18 (+0.")
    assert "whose gain shrinks. In brackets stand the gains with 50 and with 800 training" in text
    assert "stand after Holm's correction for all 3 comparisons." in text
    table = diminishing.shrinking_table(change, [])
    assert table["the gain"].tolist() == ["shrinks"] * 3
    assert table["records"].tolist() == ["50 to 800"] * 3
    turned = change.assign(difference=-change["difference"], verdict="harms")
    turned["verdict"] = ["harms", "equivalent", "undecided"]
    text = diminishing.shrinking_answer(turned, []).data
    said = re.sub(r" \([+-]0\.\d+ to [+-]?0\.\d+\)", "", text)
    assert said.startswith(
        "**No** for ResNet1d18, whose gain grows; **no** for GRU, whose gain stays; "
        "**undecided** for GRU (flattened head). In brackets"
    )
    words = diminishing.shrinking_table(turned, [])["the gain"].tolist()
    assert words == ["grows", "stays", "undecided"]


def test_the_numbers_of_a_change_are_of_the_same_seeds(study, results):
    """More seeds at one size move its gain, and must not move the change."""
    fewer = [run for run in results if run.spec.size != 800 or run.spec.seed < 5]
    change = diminishing.shrinking(study, fewer)
    assert (change["seeds"] == 5).all()
    difference = change["gain_few"] - change["gain_many"]
    assert difference.to_numpy() == pytest.approx(change["difference"].to_numpy())
    assert diminishing.shrinking_table(change, [])["seeds"].tolist() == [5] * 3


def test_no_more_records_are_said_than_there_are(study, results):
    one = replace(
        worth(study, results)[0],
        multiples=np.array([[20.0] + [3.0] * 4, [4.0] * 5, [np.inf] * 5]),
        vanishes=(np.inf, np.inf, np.inf),
    )
    other = replace(one, model="gru", multiples=one.multiples / 10, vanishes=(120.0, 90.0, 300.0))
    assert diminishing._worth_sentence([other, one]) == (
        "By the fitted curves, pre-training is worth, with 50 training records, 2.0 times as many "
        "for GRU and more than 16.0, all that there are, for ResNet1d18."
    )
    assert diminishing._vanishes_sentence([one]) == (
        "With all there are, the gain is over 0.01 for ResNet1d18."
    )
    assert diminishing._vanishes_sentence([one, replace(other, errors=0 * other.errors)]) == (
        "The gain is under 0.01 from this many on: 120 for GRU; with all there are, it is over "
        "0.01 for ResNet1d18."
    )
    read = diminishing._read(one)
    assert read["interval"] == "4.0 to more than 16.0 times"
    assert read["gain under 0.01 from"] == read["interval "] == "not reached"
    table = diminishing.worth_reading_table([one])
    assert table["interval"].tolist()[-1] == "more than 1.0 times at both ends"
    assert table["worth"].tolist()[1:3] == ["3.0 times", "3.0 times"]
    assert "GRU" not in (alt := diminishing.worth_text(study, [one])[1])
    assert alt.endswith("at 800: more than 1.0 times.")


def test_a_gain_that_the_curves_miss_is_told(study, results):
    one = worth(study, results)[0]
    errors = np.array([[0.3, 0.2, 0.15, 0.1, 0.1], [0.2, 0.15, 0.13, 0.1, 0.08]])
    one = replace(one, errors=errors, vanishes=(350, 200, np.inf))
    assert diminishing._vanishes_sentence([one]) == (
        "The gain is under 0.01 from this many on: 350 for ResNet1d18 (yet +0.020 was measured "
        "with 800: the curves miss it)."
    )
    assert diminishing._read(one)["interval "] == "200 to not reached"
    later = replace(one, vanishes=(900, 200, np.inf))
    assert "yet" not in diminishing._vanishes_sentence([later])


def test_times_until_the_level_of_scratch(study, results):
    summary = summarise_times(times_to_target(study, results))
    assert (summary["other_median"] < summary["scratch_median"]).all()
    assert (summary["saved"] > 0.3).all()
    assert (summary["p"] <= summary["p_holm"]).all()
    assert (summary["p_holm"] < 0.05).all()
    saved = summary["scratch_mean"] - summary["other_mean"]
    assert ((summary["low"] < saved) & (saved < summary["high"])).all()
    assert summary["saved"].to_numpy() == pytest.approx(saved / summary["scratch_mean"])


def two_arms(results, repetitions, speed, seeds=10):
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


@pytest.mark.parametrize("seeds", [5, 20])
def test_neither_of_two_equal_arms_is_sooner_beyond_chance(study, results, seeds):
    runs = two_arms(results, 300, speed=1, seeds=seeds)
    summary = summarise_times(times_to_target(study, runs))
    found = (summary["p"] < 0.05).mean()
    assert found < 0.075  # that is 0.05 and two standard errors of 300 repetitions
    excludes = (summary["low"] > 0) | (summary["high"] < 0)
    assert excludes.mean() == found
    difference = summary["scratch_mean"] - summary["other_mean"]
    assert abs(difference.mean()) < 3 * difference.std() / np.sqrt(len(summary))
    assert abs(summary["scratch_never"].sum() / summary["other_never"].sum() - 1) < 0.1


def test_an_arm_twice_as_fast_is_found(study, results):
    summary = summarise_times(times_to_target(study, two_arms(results, 50, speed=2, seeds=40)))
    assert (summary["saved"] > 0).all()
    assert ((summary["p"] < 0.05) & (summary["low"] > 0)).mean() > 0.7


def test_times_are_tested_over_the_fifths(study, results):
    times = times_to_target(study, two_arms(results, 1, speed=2, seeds=20))
    row = summarise_times(times).iloc[0]
    means = times.groupby([times["seed"] % 5, "arm"])["updates"].mean().unstack()
    expected = stats.ttest_1samp(means["scratch"] - means["finetune"], 0)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert tuple(row[["low", "high"]]) == pytest.approx(tuple(expected.confidence_interval()))


def test_a_run_that_never_gets_there_is_censored(study, results):
    """In the median it counts as later than all that was seen, in the mean with its last update."""
    poor = [
        replace(run, history={**run.history, "validation_auroc": [0.5] * 10})
        if run.spec.arm == "finetune"
        else run
        for run in results
    ]
    times = times_to_target(study, poor)
    summary, costs = summarise_times(times), break_even(study, poor, times)
    assert (summary["other_never"] == len(SEEDS)).all()
    assert summary["other_median"].isna().all()
    assert (summary["other_mean"] == 100).all()
    assert np.isinf(costs[["targets", "most"]]).all(axis=None)


def test_half_of_the_runs_are_enough_for_a_median():
    """Of 24, the product of shares is a little over one half for a computer."""
    runs = pd.DataFrame({"updates": 10 * np.arange(1, 25), "reached": True})
    assert median_time(runs) == 120
    assert median_time(runs.assign(reached=runs["updates"] <= 120)) == 120
    assert np.isnan(median_time(runs.assign(reached=runs["updates"] <= 110)))


def test_seeds_of_one_fifth_are_too_few(study, results):
    with pytest.raises(UserError, match="at least 2 seeds"):
        times_to_target(study, [run for run in results if run.spec.seed % 5 == 0])


def test_break_even_counts_the_pretraining(study, results):
    times = times_to_target(study, results)
    costs = break_even(study, results, times)
    row = costs[(costs["model"] == "resnet1d18") & (costs["size"] == 50)].iloc[0]
    forward = forward_gflop("resnet1d18", "pooled", 4, study.data.samples)
    update = 3 * forward * study.batch_size
    pretraining = update * study.pairs[0].source.updates
    assert row["pretraining_gflop"] == pytest.approx(pretraining)
    chosen = times[(times["model"] == "resnet1d18") & (times["size"] == 50)]
    means = chosen.groupby("arm")["updates"].mean()
    saved = update * (means["scratch"] - means["finetune"])
    assert row["targets"] == pytest.approx(row["pretraining_gflop"] / saved)
    saved = (
        summarise_times(times).set_index(["model", "head", "size"]).loc["resnet1d18", "pooled", 50]
    )
    ends = row["pretraining_gflop"] / (update * saved[["high", "low"]].to_numpy(float))
    assert row[["fewest", "most"]].to_numpy(float) == pytest.approx(ends)
    assert row["fewest"] < row["targets"] < row["most"]


def test_networks_that_gain_more_are_said_to(study, results):
    families = compare_families(study, results)
    assert families["difference"].to_numpy() == pytest.approx(-RECURRENT, abs=0.004)
    assert set(zip(families["networks"], families["others"], strict=True)) == {
        (("resnet1d18",), ("gru",))
    }


def test_choosing_on_the_test_set_flatters(study, results):
    found = published.flattery(results)
    # Validation liked the second epoch best, the test set the third.
    assert found["honest"].to_numpy() == pytest.approx(0.6)
    assert set(found["published"].round(2)) == {0.65, 0.75}
    text = published.flattery_answer(study, found).data
    assert "+0.050 from scratch and +0.150 fine-tuned" in text
    assert "mean gain from fine-tuning is +0.100 as published and 0.000" in text
    assert "has not been run" in published.flattery_answer(study, found.iloc[:0]).data


def test_the_published_reading_has_a_winner_everywhere(study, results):
    text = published.published_view(study, [run for run in results if run.spec.size < 200]).data
    assert "wins in 6 of 6" in text
    assert "*helps* in 6 and *harms* in 0 of the 6; in 0 of these 6" in text


def test_the_published_reading_of_the_other_questions(study, results):
    pooled = [run for run in results if run.spec.head == "pooled"]
    text = published.published_shrinking(study, pooled).data
    assert "ResNet1d18: +" in text
    assert "The last is smaller than the first" in text
    text = published.published_families(study, results).data
    assert "ResNet1d18 +" in text
    assert "GRU (flattened head) +" in text
    assert "GRU +" not in text
    assert "not all in this study" in published.published_families(study, pooled).data


def test_the_published_reading_of_convergence_is_off_a_test_curve(study, results, monkeypatch):
    monkeypatch.setattr(published, "published_runs", lambda _: results)
    text = published.published_times(study).data
    # Fine-tuned, 0.75 in the third epoch; from scratch 0.65 there, and 0.6 in the second.
    assert (
        "ResNet1d18 with 50 records: fine-tuned after 3 epochs, from scratch after 3 epochs" in text
    )
    monkeypatch.setattr(published, "published_runs", lambda _: [])
    assert "has not been run" in published.published_times(study).data


def made(study, level):
    """Runs of all cells of a study, their AUROC at a level of their own but for some luck."""
    rng = np.random.default_rng(0)
    return [
        Result(
            key=f"{place:020d}",
            spec=cell,
            classes=("a",),
            records=tuple(f"r{number}" for number in range(cell.seed % 5, 50, 5)),
            predictions=np.zeros((10, 1), np.float16),
            history={},
            facts={
                "auroc": level(cell) + rng.normal(0, 0.001),
                "train_records": cell.size or 900,
                "classes": 1,
            },
        )
        for place, cell in enumerate(study.cells())
    ]


def test_a_family_gains_what_its_networks_gain_on_average():
    networks = {"models": ["resnet1d18", "resnet1d50", "gru", "lstm"], "heads": ["pooled"]}
    study = load_study("demo", **networks, sizes=[50, 200], seeds=5)
    gains = {"resnet1d18": 0.05, "resnet1d50": 0.2, "gru": 0.01, "lstm": 0.05}
    runs = made(study, lambda cell: 0.7 + gains[cell.model] * (cell.arm == "finetune"))

    found = compare_families(study, runs)
    assert found["networks"].tolist() == [("resnet1d18", "resnet1d50")] * 2
    assert found["others"].tolist() == [("gru", "lstm")] * 2
    assert found["difference"].to_numpy() == pytest.approx([0.125 - 0.03] * 2, abs=0.004)

    # A network that was not tested on all patients does not keep the others from being so.
    fewer = [run for run in runs if run.spec.model != "resnet1d50" or run.spec.seed < 3]
    found = compare_families(study, fewer)
    assert found["networks"].tolist() == [("resnet1d18",)] * 2
    assert found["difference"].to_numpy() == pytest.approx([0.05 - 0.03] * 2, abs=0.004)
    assert compare_families(study, [r for r in runs if r.spec.model == "gru"]).empty


def test_a_size_has_one_number_of_training_records():
    """Also where a network was tested on fifths whose training sets are smaller."""
    study = load_study("demo", models=["resnet1d18", "gru"], heads=["pooled"], sizes=[0], seeds=5)
    runs = [
        replace(run, facts={**run.facts, "train_records": 715 + (run.spec.seed > 1)})
        for run in made(study, lambda cell: 0.8)
        if run.spec.model == "gru" or run.spec.seed < 2
    ]
    gain = compare_arms(study, runs)
    assert gain["records"].tolist() == [716, 716]
    fewer, all_ = sorted(gain["tested"])
    assert f" which together test on {fewer:,} to {all_:,} records of " in prose.answer(gain).data


def test_the_network_is_named_that_is_better_untaught_than_most_are_taught():
    networks = {"models": ["resnet1d18", "gru", "lstm", "resnet1d50"], "heads": ["pooled"]}
    study = load_study("demo", **networks, sizes=[50, 200])
    levels = {"resnet1d18": 0.85, "resnet1d50": 0.88, "gru": 0.7, "lstm": 0.75}

    def said(levels):
        taught = made(study, lambda cell: levels[cell.model] + 0.05 * (cell.arm == "finetune"))
        return prose.choice(study, taught).data

    # ResNet1d50 from scratch is better than the same two, and named later.
    assert said(levels).startswith(
        "**Choose the network first.** ResNet1d18 (convolutional) from scratch is better than GRU "
        "(recurrent) and LSTM (recurrent) fine-tuned, at every number of training records (+0.0"
    )
    assert said({**levels, "gru": 0.84, "lstm": 0.87}) == ""
    assert prose.choice(study, []).data == ""


def test_a_network_is_named_with_its_head():
    study = load_study("demo", models=["gru"], heads=["pooled", "flattened"], sizes=[50, 200])
    gains = {"pooled": 0.1, "flattened": 0.25}
    runs = made(study, lambda cell: 0.7 + gains[cell.head] * (cell.arm == "finetune"))
    text = prose.answer(compare_arms(study, runs)).data
    (line,) = re.findall("^- .*", text, re.MULTILINE)
    said = re.search(r"GRU \((.+) and (.+)\) and GRU \(flattened head\) \((.+) and (.+)\)", line)
    assert said
    assert [round(float(one), 2) for one in said.groups()] == [0.1, 0.1, 0.25, 0.25]
    assert re.search(r"fine-tuned for GRU; .+ for GRU \(flattened head\)\.$", text, re.MULTILINE)


def test_a_larger_source_is_compared_with_what_it_extends():
    study = load_study("clinical-filtered")
    level = {"": 0.7, "ptb-xl": 0.75, "ptb-xl-extended": 0.79, "chapman-shaoxing": 0.7}
    found = made(study, lambda cell: level[cell.source])
    table = filtered.extended(study, found)
    assert set(table["source"] + ">" + table["other"]) == {"ptb-xl-extended>ptb-xl"}
    assert table["difference"].to_numpy() == pytest.approx([0.04] * 3, abs=0.003)
    assert set(table["verdict"]) == {"helps"}
    text = filtered.filtered_answer(study, found).data
    assert "*helps*) and +0.0" in text
    assert text.count("**Does a larger source teach more?**") == 1
    assert text.count("fine-tuning **helps**") == 2  # to Chapman-Shaoxing, from either source
    assert "no other records" in filtered.filtered_answer(study, []).data


def test_a_companion_is_found_by_its_name(tmp_path, monkeypatch):
    study, runs = common.companion(load_study("nguyen2025"), "paper")
    assert (study.name, runs) == ("nguyen2025", [])
    monkeypatch.setenv("ECGNB_RESULTS", str(tmp_path))  # where nothing was recorded
    study, runs = common.companion(load_study("clinical"), "paper")
    assert (study.name, runs) == ("clinical-paper", [])


def test_figures_and_texts_of_the_chapters(study, results):
    gain, found = compare_arms(study, results), worth(study, results)
    assert len(draw_worth(found).axes) == 1
    heads = draw_heads(gain)
    assert [axes.get_title(loc="left") for axes in heads.axes] == ["pooled head", "flattened head"]
    for caption, alt in (
        diminishing.worth_text(study, found),
        common.gains_text(study, gain),
    ):
        assert "sim-north" not in caption
        assert "GRU" in alt
    lists = [
        diminishing.limits(study, results, found),
    ]
    assert all("simulated" in text.data for text in lists)


def test_no_curve_is_fitted_to_two_sizes(study, results):
    few = [run for run in results if run.spec.size in (50, 100)]
    assert curves.worth(study, few) == []
    assert "parameters" not in diminishing.limits(study, few, []).data
    assert {run.spec.arm for run in few} <= set(ARMS)


def test_a_curve_of_as_many_points_as_parameters_is_not_checked(study, results):
    some = [run for run in results if run.spec.size in (50, 100, 200)]
    for runs, unchecked in ((some, True), (results, False)):
        text = diminishing.limits(study, runs, curves.worth(study, runs)).data
        assert "Each curve has 3 parameters" in text
        assert ("nothing checks its form" in text) is unchecked
