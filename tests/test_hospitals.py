"""Networks that change hospital, and how hospitals differ."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import mistake
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, roc_auc_score
from tiny import do, lend_data, tiny

import ecgnb.study.train as trainer
from ecgnb.analysis import hospitals
from ecgnb.analysis.bootstrap import bootstrap_calibration_error
from ecgnb.analysis.compare import pair, runs_table, summarise
from ecgnb.data.catalog import card
from ecgnb.data.labels import LABEL_SETS, encode, meanings
from ecgnb.models.build import build_model
from ecgnb.study.data import read_labels, read_table
from ecgnb.study.declare import load_study
from ecgnb.study.store import open_store
from ecgnb.study.train import Materials, execute
from ecgnb.training.metrics import CALIBRATION_BINS, calibration_error, tell_apart
from ecgnb.training.transfer import load_encoder

SIDE = {"label_set": "challenge-2021", "min_positives": 0, "updates": 3}


def two(arms=("scratch", "as-is", "finetune-whole"), updates=6, **changes):
    """The tiny study with two hospitals, each the source of the other."""
    side = SIDE | {"dataset": ["sim-north", "sim-south"]}
    asked = {"sizes": [0], "tells_hospitals": True, "min_test_positives": 4}
    changes = {"learning_rates": [0.01], "arms": list(arms)} | changes
    return tiny(asked, side | {"updates": updates}, side, **changes)


@pytest.fixture(scope="module")
def crossed(common):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(lend_data(common / "two", common)))
        return do(two())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("ptb-xl-filtered", "ptb-xl"),
        ("ptb-xl", "chapman-shaoxing+ptb-xl-filtered"),
        ("sim-north+sim-south", "sim-south"),
        ("sim-south+ptb-xl", "sim-south"),
    ],
)
def test_two_datasets_of_one_hospital_are_no_source_and_target(source, target):
    assert card("ptb-xl-filtered").patients_of == "ptb-xl"
    mistake("patients in common", tiny, (), SIDE | {"dataset": source}, SIDE | {"dataset": target})


def test_pre_training_reads_nothing_of_the_hospital_that_is_held_out(lent, monkeypatch):
    study = two()
    materials = Materials(study, open_store())
    spec = next(cell for cell in study.cells() if cell.arm == "as-is")
    pretraining = spec.pretraining()
    read = [Mock(side_effect=getattr(materials, name)) for name in ("signals", "labels")]
    monkeypatch.setattr(materials, "signals", read[0])
    monkeypatch.setattr(materials, "labels", read[1])
    execute(materials, pretraining)
    datasets = {call.args[0] for one in read for call in one.call_args_list}
    assert datasets == {pretraining.dataset} != {spec.dataset}


def test_the_head_is_kept_where_it_should_be(lent):
    study = two(["finetune-whole", "finetune"], updates=40, seeds=[0])
    materials = Materials(study, open_store())
    cells = [cell for cell in study.cells() if cell.dataset == "sim-south"]
    cells = {cell.arm: replace(cell, source_learning_rate=0.01) for cell in cells}
    path = materials.store.weights(execute(materials, cells["finetune"].pretraining()))
    model = build_model("gru", "pooled", 26, 200, seed=0)
    fresh = model.head.weight.detach().clone()
    load_encoder(model, path, head=True)
    begun = {arm: trainer._build(materials, cell, 26).head for arm, cell in cells.items()}
    assert torch.equal(begun["finetune"].weight, fresh)
    assert torch.equal(begun["finetune-whole"].weight, model.head.weight)
    assert not torch.equal(model.head.weight, fresh)


def test_runs_tell_hospitals_apart_only_where_there_is_a_source(crossed):
    for run in crossed:
        assert ("hospital_auroc" in run.facts) == (run.spec.arm != "scratch")
    told = {run.facts["hospital_auroc"] for run in crossed if run.spec.arm == "as-is"}
    assert all(0 <= value <= 1 for value in told)
    assert len(told) > 1


def test_a_probe_finds_what_differs_and_only_that():
    rng = np.random.default_rng(0)
    same, alike = rng.normal(size=(2, 300, 20)).astype(np.float32)
    patients = np.arange(300)
    assert abs(tell_apart(same, alike, patients, patients) - 0.5) < 0.1
    shifted = alike + np.eye(20, dtype=np.float32)[3] * 4
    assert tell_apart(same, shifted, patients, patients) > 0.97


def test_a_probe_is_not_helped_by_knowing_a_patient():
    """Ten records of each of thirty patients, all patients drawn alike: nothing to be told."""
    rng = np.random.default_rng(1)
    means = rng.normal(size=(60, 50)) * 3
    records = np.repeat(means, 10, axis=0) + rng.normal(size=(600, 50)) * 0.1
    whose = np.repeat(np.arange(30), 10)
    sides = records[:300].astype(np.float32), records[300:].astype(np.float32)
    grouped = tell_apart(*sides, whose, whose)
    alone = tell_apart(*sides, np.arange(300), np.arange(300))
    assert alone > 0.95 > grouped + 0.2


def test_scores_by_class_and_f1_are_what_scikit_learn_says(crossed, lent):
    study, results = two(), [run for run in crossed if run.spec.seed == 0]
    run = next(run for run in results if run.spec.arm == "finetune-whole")
    table = read_table(study, run.spec.dataset).set_index("record", drop=False)
    labels = read_labels(table, run.spec.dataset, "challenge-2021", 0).loc[list(run.records)]
    scored = [name for name in run.classes if 4 <= labels[name].sum() <= len(labels) - 4]
    at = [run.classes.index(name) for name in scored]
    said = run.predictions[:, at].astype(float) >= np.array(run.facts["thresholds"])[at]
    expected = f1_score(labels[scored], said, average="macro")
    means = summarise(runs_table(study, [run], "f1"), ["arm"])
    assert means["mean"].item() == pytest.approx(expected) == pytest.approx(run.facts["f1"])
    assert means["low"].item() < expected < means["high"].item()
    for only in (scored[:1], scored[1:]):
        at = [run.classes.index(name) for name in only]
        wanted = roc_auc_score(labels[only], run.predictions[:, at].astype(float))
        assert runs_table(study, [run], only=only)["score"].item() == pytest.approx(wanted)
    rare = next(name for name in run.classes if labels[name].sum() < 4)
    assert summarise(runs_table(study, [run], only=[rare])).empty
    runs = runs_table(study, results, "f1")
    both = summarise(pair(runs[runs["arm"] == "finetune-whole"], runs[runs["arm"] == "scratch"]))
    assert both["first"].iloc[0] == pytest.approx(run.facts["f1"])


def test_diagnoses_that_all_sources_show(crossed, lent, monkeypatch):
    study, sets = two(), []
    for name in ("sim-north", "sim-south"):
        counts = read_labels(read_table(study, name), name, "challenge-2021", 0).sum()
        sets.append(tuple(counts.index[counts >= 20]))
        known = hospitals.source_diagnoses(study, name, "challenge-2021")
        assert known == sets[-1] != tuple(counts.index)
    came = [run.spec for run in crossed if run.spec.source]
    assert {*hospitals.shared_diagnoses(study, came)} == {*sets[0]} & {*sets[1]} != set()
    monkeypatch.setattr(hospitals, "_SHOWN", 10**6)
    assert not hospitals.shared_diagnoses(study, came)


def test_labels_tell_hospitals_apart_where_their_diagnoses_differ(crossed, lent, monkeypatch):
    def labels(study, dataset, label_set):
        records = read_table(study, dataset)["record"]
        share = 0.1 if dataset == "sim-north" else 0.9
        has = np.random.default_rng(0).random(len(records)) < share
        return pd.DataFrame({"AF": has}, index=records)

    monkeypatch.setattr(hospitals, "labels_of", labels)
    apart = hospitals.told_apart(two(), crossed)
    assert apart["labels"].between(0.8, 1).all()
    one = apart.iloc[0]
    cell = (one["source"], one["arm"])
    those = [run for run in crossed if (run.spec.source, run.spec.arm) == cell]
    told = [run.facts["hospital_auroc"] for run in those]
    assert one["mean"] == pytest.approx(np.mean(told))
    assert one["seeds"] == len(told) == 2
    assert not len(hospitals.told_apart(two(), [run for run in crossed if not run.spec.source]))


def test_calibration_error_and_curve_are_as_defined(crossed, lent):
    rng = np.random.default_rng(3)
    said = rng.random((400, 3))
    truth = rng.random((400, 3)) < said**2
    true, mean = calibration_curve(truth.ravel(), said.ravel(), n_bins=CALIBRATION_BINS)
    count = np.bincount((said.ravel() * CALIBRATION_BINS).astype(int), minlength=CALIBRATION_BINS)
    expected = (np.abs(true - mean) * count).sum() / truth.size
    assert calibration_error(truth, said) == pytest.approx(expected)
    assert calibration_error(truth, np.ones_like(said)) == pytest.approx(1 - truth.mean())
    drawn = bootstrap_calibration_error(truth, said, np.arange(400))
    assert abs(drawn.mean() - expected) < 0.02
    runs = [run for run in crossed if run.spec.arm == "scratch"]
    whole, some = (hospitals.reliability(two(), runs, only) for only in ((), ("NSR",)))
    assert 100 < some["count"].sum() < whole["count"].sum()


def test_classes_are_listed_with_what_they_consist_in():
    codes = pd.Series(["NORM:100 SR:0", "SR:0", "AFIB:100", "NT_:0 NDT:0", ""])
    found = meanings(codes, "scp", "challenge-2021").set_index(["label", "code"])["records"]
    assert found["NSR", "SR"] == 2
    assert found["NSR", "NORM"] == 1
    assert {code for label, code in found.index if label == "TAb"} == {"NT_", "NDT"}
    labels = encode(codes, "scp", "challenge-2021")
    assert set(found.index.get_level_values(0)) == set(labels.columns[labels.any()])
    table = hospitals.definitions(load_study("avetisyan2023"))
    assert {"ptb-xl", "cpsc2018", "chapman-shaoxing"} <= set(table["dataset"])
    assert "brugada-huca" not in set(table["dataset"])  # its labels are in no other vocabulary
    made_of = table.set_index(["dataset", "label"])["code"]
    assert {"NORM", "SR"} <= set(made_of["ptb-xl", "NSR"])
    assert table["label"].nunique() <= len(LABEL_SETS["challenge-2021"].classes)
