"""How hospitals differ: the matrix, calibration, what tells them apart, what their classes mean."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from ecgnb.analysis import hospitals
from ecgnb.analysis.bootstrap import bootstrap_calibration_error
from ecgnb.analysis.compare import pair, runs_table, summarise
from ecgnb.data.labels import LABEL_SETS, encode, meanings
from ecgnb.study.data import Drawn, read_labels, read_table
from ecgnb.study.declare import load_study
from ecgnb.study.store import Result
from ecgnb.training.metrics import CALIBRATION_BINS, calibration_error


def test_explained_variance_of_one_record():
    wave = np.sin(np.linspace(0, 20, 200))
    assert Drawn("a/b", "", wave, np.zeros(200)).explained == 0
    assert Drawn("a/b", "", wave, wave / 2).explained == pytest.approx(0.75)


@pytest.fixture(scope="module")
def made(common):
    """Made scores on two simulated hospitals: as good as their labels, with more or less noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(common / "two_hospitals"))
        study = load_study("demo-generalisation")
        study = replace(study, data=replace(study.data, simulated_records=600))
        noise = {"scratch": 0.6, "as-is": 0.9, "finetune": 0.3, "finetune-whole": 0.3}
        results = []
        for number, cell in enumerate(cell for cell in study.cells() if cell.arm in noise):
            table = read_table(study, cell.dataset)
            labels = read_labels(table, cell.dataset, cell.label_set, 0)
            rows = ((table["fold"] - 1) // 2 == cell.seed % 5).to_numpy()
            rng = np.random.default_rng(number)
            said = labels[rows].to_numpy() * 0.3 + 0.3 * rng.random((rows.sum(), labels.shape[1]))
            said += noise[cell.arm] * rng.random(said.shape) * 0.4
            said = said.clip(0, 1).astype(np.float16)
            facts = {"train_records": cell.size or 900}
            if cell.arm != "scratch":
                facts["hospital_auroc"] = 0.6 + 0.1 * (cell.arm == "as-is")
            records = tuple(table["record"][rows])
            results.append(Result(str(number), cell, tuple(labels), records, said, {}, facts))
    return study, results


@pytest.fixture
def two_hospitals(made, common, monkeypatch):
    """In the cache that has their records."""
    monkeypatch.setenv("ECGNB_CACHE", str(common / "two_hospitals"))
    return made


def test_what_a_source_taught_is_compared_with_training_from_scratch(two_hospitals):
    study, results = two_hospitals
    counts = read_labels(read_table(study, "sim-north"), "sim-north", "challenge-2021", 0).sum()
    taught = set(counts.index[counts >= hospitals.TAUGHT])
    assert taught == set(hospitals.taught(study, "sim-north", "challenge-2021"))
    runs = runs_table(study, results, only=taught)
    came, own = (runs[(runs["arm"] == arm) & (runs["size"] == 0)] for arm in ("as-is", "scratch"))
    assert set(summarise(pair(came, own))["verdict"]) == {"harms"}  # there is more noise as it came
    plain = [run for run in results if run.spec.arm == "scratch"]
    assert not len(hospitals.told_apart(study, plain))


def test_labels_tell_hospitals_apart_where_their_diagnoses_differ(two_hospitals):
    apart = hospitals.told_apart(*two_hospitals)
    assert set(apart["mean"].round(6)) == {0.6, 0.7}
    assert apart["labels"].between(0.5, 1, inclusive="neither").all()


def test_only_what_the_source_has_is_asked_of_a_network_as_it_came(two_hospitals, monkeypatch):
    study, results = two_hospitals
    monkeypatch.setattr(hospitals, "TAUGHT", 10**6)
    assert not hospitals.taught_by_all(study, [run.spec for run in results if run.spec.source])


def test_calibration_error_and_curve_are_as_defined(two_hospitals):
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
    study, results = two_hospitals
    runs = [run for run in results if run.spec.arm == "scratch" and run.spec.size == 0]
    whole, some = (hospitals.reliability(study, runs, only) for only in ((), ("NSR",)))
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
