"""What the chapters say: curves, times and sentences, on runs whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from ecgnb.chapters import architecture, common, convergence, diminishing, published
from ecgnb.charts import draw_heads, draw_times, draw_worth
from ecgnb.models import MODELS
from ecgnb.models.build import forward_gflop
from ecgnb.study import curves, scores
from ecgnb.study.compare import compare_arms
from ecgnb.study.convergence import break_even, summarise_times, times_to_target
from ecgnb.study.curves import Curve, fit_curve, worth
from ecgnb.study.declare import load_study
from ecgnb.study.resampling import REPLICATES
from ecgnb.study.result import Result
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

    monkeypatch.setattr(scores, "_scored", scored)


@pytest.mark.parametrize("curve", [SCRATCH, TUNED, Curve(0.0, 1.0, 0.3)])
def test_a_curve_is_found_from_its_points(curve):
    sizes = np.array(SIZES, dtype=float)
    found = fit_curve(sizes, curve.error(sizes))
    assert found.error(sizes) == pytest.approx(curve.error(sizes), abs=1e-4)
    assert found.records(0.12) == pytest.approx(curve.records(0.12), rel=0.05)


def test_no_number_of_records_gets_under_the_floor():
    assert SCRATCH.records(0.04) == np.inf
    with pytest.raises(ValueError, match="3 sizes"):
        fit_curve(np.array([50.0, 100.0]), np.array([0.2, 0.1]))


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


def test_a_gain_that_shrinks_is_said_to_shrink(study, results):
    gain, change = compare_arms(study, results), diminishing.shrinking(study, results)
    assert set(change["verdict"]) == {"helps"}
    text = diminishing.shrinking_answer(gain, change, worth(study, results)).data
    assert text.count("it **shrinks**") == len(change) == 3
    turned = change.assign(difference=-change["difference"], verdict="harms")
    assert "it **grows**" in diminishing.shrinking_answer(gain, turned, []).data


def test_times_until_the_level_of_scratch(study, results):
    times = times_to_target(study, results)
    summary = summarise_times(times)
    assert (summary["other"] < summary["scratch"]).all()
    assert (summary["saved"] > 0.3).all()
    assert (summary["p"] < 0.01).all()
    assert times.loc[times["arm"] == "scratch", "reached"].all()


def test_a_run_that_never_gets_there_is_censored(study, results):
    """It counts as later than all that was seen, not as one that needed its last update."""
    poor = [
        replace(run, history={**run.history, "validation_auroc": [0.5] * 10})
        if run.spec.arm == "finetune"
        else run
        for run in results
    ]
    summary = summarise_times(times_to_target(study, poor))
    assert (summary["never"] == len(SEEDS)).all()
    assert summary["other"].isna().all()
    assert "over half never" in str(
        convergence.convergence_table(
            summary, break_even(study, poor, times_to_target(study, poor))
        ).to_numpy()
    )


def test_break_even_counts_the_pretraining(study, results):
    times = times_to_target(study, results)
    costs = break_even(study, results, times)
    row = costs[(costs["model"] == "resnet1d18") & (costs["size"] == 50)].iloc[0]
    forward = forward_gflop("resnet1d18", "pooled", 4, study.data.samples)
    assert row["pretraining_gflop"] == pytest.approx(3 * forward * 32 * 240)
    chosen = times[(times["model"] == "resnet1d18") & (times["size"] == 50)]
    means = chosen.groupby("arm")["updates"].mean()
    saved = 3 * forward * 32 * (means["scratch"] - means["finetune"])
    assert row["targets"] == pytest.approx(row["pretraining_gflop"] / saved)


def test_networks_that_gain_more_are_said_to(study, results):
    table = architecture.families(study, results)
    by_architecture = table[table["question"] == "architecture"]
    assert by_architecture["difference"].to_numpy() == pytest.approx(-RECURRENT, abs=0.004)
    assert set(by_architecture["verdict"]) == {"harms"}
    by_head = table[table["question"] == "head"]
    assert by_head["difference"].to_numpy() == pytest.approx(RECURRENT, abs=0.004)
    text = architecture.families_answer(study, table).data
    assert f"profits **less** at {len(SIZES)} of" in text
    assert f"profits **more** at {len(SIZES)} of" in text
    replaced = architecture.replaced_table(study, results).set_index("network")
    assert float(replaced.loc["GRU (flattened head)", "replaced at transfer"][:-1]) > 80
    assert float(replaced.loc["ResNet1d18", "replaced at transfer"][:-1]) < 1


def test_choosing_on_the_test_set_flatters(study, results):
    found = published.flattery(results)
    # Validation liked the second epoch best, the test set the third.
    assert found["honest"].to_numpy() == pytest.approx(0.6)
    assert set(found["published"].round(2)) == {0.65, 0.75}
    text = published.flattery_answer(study, found).data
    assert "+0.050 from scratch and +0.150 fine-tuned" in text
    assert "mean gain from fine-tuning is +0.100 as published and +0.000" in text
    assert "has not been run" in published.flattery_answer(study, found.iloc[:0]).data


def test_the_published_reading_has_a_winner_everywhere(study, results):
    text = published.published_view(study, [run for run in results if run.spec.size < 200]).data
    assert "wins in 6 of 6" in text


def test_figures_and_texts_of_the_chapters(study, results):
    gain, found = compare_arms(study, results), worth(study, results)
    times = times_to_target(study, results)
    assert len(draw_worth(found).axes) == 1
    assert len(draw_times(times).axes) == 3
    heads = draw_heads(gain)
    assert [axes.get_title(loc="left") for axes in heads.axes] == ["pooled head", "flattened head"]
    for caption, alt in (
        diminishing.worth_text(study, found),
        convergence.times_text(study, times),
        common.gains_text(study, gain),
    ):
        assert "sim-north" not in caption
        assert "GRU" in alt
    lists = [
        diminishing.limits(study, results, found),
        convergence.limits(study, results),
        architecture.limits(study, results),
    ]
    assert all("simulated" in text.data for text in lists)


def test_no_curve_is_fitted_to_two_sizes(study, results):
    few = [run for run in results if run.spec.size in (50, 100)]
    assert curves.worth(study, few) == []
    assert "three parameters" not in diminishing.limits(study, few, []).data
    assert {run.spec.arm for run in few} <= set(ARMS)
