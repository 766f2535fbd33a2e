"""Networks that change hospital: no leak, a kept head, features that tell hospitals apart."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from tiny import do, lend_data, tiny

import ecgnb.study.train as trainer
from ecgnb.analysis.compare import pair, runs_table, summarise
from ecgnb.data.catalog import CATALOG, JOINT, card, parts
from ecgnb.errors import UserError
from ecgnb.models.build import build_model
from ecgnb.study.data import read_labels, read_table
from ecgnb.study.declare import load_study
from ecgnb.study.store import open_store
from ecgnb.study.train import Materials, execute
from ecgnb.training.metrics import tell_apart
from ecgnb.training.transfer import load_encoder

SIDE = {"label_set": "challenge-2021", "min_positives": 0, "updates": 3}


def two(arms=("scratch", "as-is", "finetune-whole"), updates=6, **changes):
    """The tiny study with two hospitals, each the source of the other."""
    side = SIDE | {"dataset": ["sim-north", "sim-south"]}
    asked = {"sizes": [0], "tells_hospitals": True, "min_test_positives": 4}
    changes = {"learning_rates": [0.01], "arms": list(arms)} | changes
    return tiny(asked, side | {"updates": updates}, side, **changes)


@pytest.fixture(scope="module")
def ran(common):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(lend_data(common / "two", common)))
        return do(two())


def test_several_datasets_make_a_pair_each():
    sides = [(pair.source.dataset, pair.target.dataset) for pair in two().pairs]
    assert sides == [("sim-south", "sim-north"), ("sim-north", "sim-south")]  # none with itself


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
    with pytest.raises(UserError, match="have patients in common"):
        tiny((), SIDE | {"dataset": source}, SIDE | {"dataset": target})


HERE = ("ptb-xl", "ptb-xl-filtered", "chapman-shaoxing", "cpsc2018", "brugada-huca")


def test_no_patient_of_a_target_stands_in_a_source():
    """By the records that are named, for all pairs of the studies with many hospitals."""
    studies = [load_study(name) for name in ("avetisyan2023", "jang2021", "clinical")]
    named = {one for name in studies[0].datasets for one in name.split(JOINT)}
    named = {name for name in named if CATALOG[name].simulated or name in HERE}
    for study in studies:
        for declared in study.pairs:
            sides = [
                {
                    (one.patients_of or one.name, patient)
                    for one in parts(card(side.dataset))
                    if one.name in named
                    for patient in read_table(study, one.name)["patient"]
                }
                for side in (declared.source, declared.target)
            ]
            assert not sides[0] & sides[1], (declared.source.dataset, declared.target.dataset)


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


def test_the_head_is_kept_where_it_should_be(lent, monkeypatch):
    seen = {}
    original = trainer.train_arm

    def watched(model, arm, *rest, **named):
        seen.setdefault(arm, model.head.weight.detach().clone())
        return original(model, arm, *rest, **named)

    monkeypatch.setattr(trainer, "train_arm", watched)
    study = two(["finetune-whole", "finetune"], updates=40, seeds=[0])
    materials = Materials(study, open_store())
    cells = {
        cell.arm: replace(cell, learning_rate=0.01, source_learning_rate=0.01)
        for cell in study.cells()
        if cell.dataset == "sim-south"
    }
    execute(materials, cells["finetune"].pretraining())
    seen.clear()
    for cell in cells.values():
        execute(materials, cell)
    spec = cells["finetune"]
    model = build_model("gru", "pooled", 26, 200, spec.seed)
    fresh = model.head.weight.detach().clone()
    path = materials.store.weights(spec.pretraining().key(materials.fingerprints))
    load_encoder(model, path, head=True)
    assert torch.equal(seen["finetune"], fresh)
    assert torch.equal(seen["finetune-whole"], model.head.weight)
    assert not torch.equal(model.head.weight, fresh)


def test_a_kept_head_needs_one_label_set():
    source = {"dataset": "ptb-xl", "label_set": "scp-all"}
    with pytest.raises(UserError, match="finetune-whole needs one label set"):
        tiny(source=source, target=SIDE, arms=["finetune-whole"])


def test_runs_tell_hospitals_apart_only_where_there_is_a_source(ran):
    for run in ran:
        assert ("hospital_auroc" in run.facts) == (run.spec.arm != "scratch")
    asked = [run for run in ran if run.spec.arm == "as-is"]
    told = {run.facts["hospital_auroc"] for run in asked}
    assert all(0 <= value <= 1 for value in told)
    assert len(told) > 1
    # A run that is asked is another run than one that is not; its pre-training is the same.
    spec = asked[0].spec
    unasked = replace(spec, tells_hospitals=False)
    prints = {"sim-north": "x", "sim-south": "y"}
    assert spec.key(prints) != unasked.key(prints)
    assert spec.pretraining() == unasked.pretraining()


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


def test_scores_by_class_and_f1_are_what_scikit_learn_says(ran, lent):
    study, results = two(), [run for run in ran if run.spec.seed == 0]
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
    wanted = roc_auc_score(labels[scored[0]], run.predictions[:, at[0]].astype(float))
    assert runs_table(study, [run], only=scored[:1])["score"].item() == pytest.approx(wanted)
    rare = next(name for name in run.classes if labels[name].sum() < 4)
    assert summarise(runs_table(study, [run], only=[rare])).empty
    runs = runs_table(study, results, "f1")
    both = summarise(pair(runs[runs["arm"] == "finetune-whole"], runs[runs["arm"] == "scratch"]))
    assert both["first"].iloc[0] == pytest.approx(run.facts["f1"])
