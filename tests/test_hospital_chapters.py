"""The chapters on the autoencoder and on other hospitals say what the numbers say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from ecgnb.analysis import compare, hospitals
from ecgnb.analysis.bootstrap import REPLICATES, bootstrap_calibration_error
from ecgnb.chapters import (
    calibration,
    diagnoses,
    generalisation,
    own_records,
    sources,
)
from ecgnb.data.labels import LABEL_SETS, encode, meanings
from ecgnb.report.charts import draw_matrix
from ecgnb.study.data import Drawn, read_labels, read_table
from ecgnb.study.declare import chapter_study, load_study
from ecgnb.study.store import Result
from ecgnb.training.metrics import CALIBRATION_BINS, calibration_error


def _result(cell, number, facts, probabilities=None, records=("r",), classes=("a",)):
    said = np.zeros((len(records), len(classes))) if probabilities is None else probabilities
    known = {"train_records": cell.size or 900, "classes": len(classes), "validation_auroc": 0.5}
    known |= {"seconds": 1.0, "package": "0", "torch": "0", "precision": "bf16", "device": "cpu"}
    return Result(
        f"{number:020d}", cell, classes, records, said.astype(np.float16), {}, {**known, **facts}
    )


@pytest.fixture
def known_scores(monkeypatch):
    def scored(study, run, metric, only):
        drawn = np.random.default_rng(run.spec.seed % 5).normal(0, 0.002, REPLICATES)
        return run.facts[metric], run.facts[metric] + drawn

    monkeypatch.setattr(compare, "_scored", scored)


def test_explained_variance_of_one_record():
    wave = np.sin(np.linspace(0, 20, 200))
    assert Drawn("a/b", "", wave, np.zeros(200)).explained == 0
    assert Drawn("a/b", "", wave, wave / 2).explained == pytest.approx(0.75)


@pytest.fixture(scope="module")
def two_hospitals(common):
    """Made scores on two simulated hospitals: as good as their labels, with more or less noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(common / "two_hospitals"))
        study = load_study("demo-generalisation")
        study = replace(study, data=replace(study.data, simulated_records=600))
        noise = {"scratch": 0.6, "as-is": 0.9, "finetune": 0.3, "finetune-whole": 0.3}
        results = []
        for number, cell in enumerate(study.cells()):
            table = read_table(study, cell.dataset)
            labels = read_labels(table, cell.dataset, cell.label_set, 0)
            rows = ((table["fold"] - 1) // 2 == cell.seed % 5).to_numpy()
            rng = np.random.default_rng(number)
            said = labels[rows].to_numpy() * 0.3 + 0.3 * rng.random((rows.sum(), labels.shape[1]))
            said += noise[cell.arm] * rng.random(said.shape) * 0.4
            facts = {"auroc": 0.5, "f1": 0.5}
            if cell.arm != "scratch":
                facts["hospital_auroc"] = 0.6 + 0.1 * (cell.arm == "as-is")
            records = tuple(table["record"][rows])
            results.append(_result(cell, number, facts, said.clip(0, 1), records, tuple(labels)))
        yield study, results


def test_the_matrix_is_what_scikit_learn_says(two_hospitals):
    study, results = two_hospitals
    found = hospitals.matrix(study, results).set_index(["source", "target"])
    row = found.loc["sim-north", "sim-south"]
    counts = read_labels(read_table(study, "sim-north"), "sim-north", "challenge-2021", 0).sum()
    taught = set(counts.index[counts >= hospitals.TAUGHT])
    assert taught
    assert set(row["names"]) <= taught
    runs = [run for run in results if run.spec.arm == "as-is" and run.spec.dataset == "sim-south"]
    table = read_table(study, "sim-south").set_index("record", drop=False)
    labels = read_labels(table, "sim-south", "challenge-2021", 0)
    means = []
    for run in runs:
        truth = labels.loc[list(run.records)]
        use = [n for n in truth if n in taught and 10 <= truth[n].sum() <= len(truth) - 10]
        at = [run.classes.index(name) for name in use]
        means.append(roc_auc_score(truth[use], run.predictions[:, at].astype(float)))
    assert row["as_is"] == pytest.approx(np.mean(means))
    assert row["verdict"] == "harms"  # there is more noise as it came
    text = generalisation.answer(study, results, found.reset_index()).data
    assert "from simulated to simulated ECGs: of 2, it **falls** in 2" in text
    assert "In short" in text
    assert "it **helps** with 900" in text
    assert "many hospitals" not in text  # this study has single sources only
    assert draw_matrix(hospitals.singles(found.reset_index())).axes


def test_a_study_without_such_runs_says_so(two_hospitals):
    study, results = two_hospitals
    plain = [run for run in results if run.spec.arm in ("scratch", "finetune")]
    found = hospitals.matrix(study, plain)
    assert not len(found)
    assert "is asked at another hospital" in generalisation.answer(study, plain, found).data
    cell, _ = sources.main_cells(study, plain)
    assert "No network" in calibration.calibration_answer(study, plain, cell).data
    assert "No run of this study was asked" in diagnoses.apart_answer(pd.DataFrame()).data
    assert not len(hospitals.told_apart(study, [replace(r, facts={}) for r in plain]))


def test_diagnoses_gain_one_by_one(two_hospitals):
    study, results = two_hospitals
    cell, small = sources.main_cells(study, results)
    assert (cell.size, small.size) == (0, 50)
    tuned = hospitals.diagnoses(study, results, small, "finetune", "scratch")
    assert (tuned["difference"] > 0).all()
    common = tuned.loc[tuned["in_target"].idxmax(), "label"]
    assert common == "NSR"
    came = hospitals.diagnoses(study, results, cell, "as-is", "scratch")
    text = diagnoses.gains_answer(tuned, came, small.size).data
    assert "sinus rhythm" in text
    assert text.count("rank correlation") == 2 * (len(tuned) > 3) + (len(came) > 3)
    shown = diagnoses.diagnoses_table(came, "as it came", "its own", generalisation.FALLS)
    assert set(shown["verdict"]) <= set(generalisation.FALLS.values())
    apart = hospitals.told_apart(study, results)
    assert set(apart["mean"].round(6)) == {0.6, 0.7}
    text = diagnoses.apart_answer(apart).data
    assert "0.70 before fine-tuning" in text
    alone = apart["labels"].iloc[0]
    assert 0.5 < alone < 1  # they differ in what is common there
    assert f"labels alone {alone:.2f}" in text
    unlike = apart.assign(labels=np.nan)
    assert "share no label" in diagnoses.apart_answer(unlike).data
    assert set(diagnoses.apart_table(unlike)["labels alone"]) == {"–"}


def test_untaught_diagnoses_are_not_asked_of_a_network_as_it_came(two_hospitals, monkeypatch):
    study, results = two_hospitals
    cell, _ = sources.main_cells(study, results)
    before = hospitals.diagnoses(study, results, cell, "as-is", "scratch")
    monkeypatch.setattr(hospitals, "TAUGHT", int(before["in_source"].median()) + 1)
    after = hospitals.diagnoses(study, results, cell, "as-is", "scratch")
    taught = hospitals.taught(study, cell.source, cell.taught)
    assert set(after["label"]) == set(before["label"]) & set(taught) != set(before["label"])
    tuned = hospitals.diagnoses(study, results, cell, "finetune", "scratch")
    assert set(tuned["label"]) == set(before["label"])
    curve = calibration.curves(study, results, cell)["from scratch"]
    scored = [run for run in results if run.spec.arm == "scratch" and run.spec.size == cell.size]
    scored = [run for run in scored if run.spec.dataset == cell.target]
    assert curve["count"].sum() < hospitals.reliability(study, scored)["count"].sum()
    monkeypatch.setattr(hospitals, "TAUGHT", 10**6)
    assert not len(hospitals.matrix(study, results))
    assert "as-is" not in set(own_records.levels(study, results, cell.target)["arm"])
    assert "No network" in calibration.calibration_answer(study, results, cell).data


def test_records_of_ones_own_are_counted_on_what_the_source_has_taught(two_hospitals):
    study, results = two_hospitals
    cell, _ = sources.main_cells(study, results)
    levels = own_records.levels(study, results, cell.target)
    found = hospitals.matrix(study, results).set_index(["source", "target"])
    row = found.loc[cell.source, cell.target]
    whole = levels[levels["whole"]].set_index("arm")["mean"]
    assert whole["scratch"] == pytest.approx(row["own"])
    assert whole["as-is"] == pytest.approx(row["as_is"])
    assert "all sources have taught" in own_records.levels_text(cell.target, levels)[0]
    text = generalisation.answer(study, results, found.reset_index()).data
    assert "is by the means as good as one trained from scratch on 50 or fewer" in text
    plain = [run for run in results if run.spec.arm in ("scratch", "finetune")]
    without = own_records.levels(study, plain, cell.target)
    assert "taught" not in own_records.levels_text(cell.target, without)[0]


def test_a_level_is_reached_between_two_sizes():
    rows = pd.DataFrame({"records": [200, 50, 100], "mean": [0.9, 0.7, 0.8]})
    assert hospitals.reached(rows, 0.85) == (100, 200)
    assert hospitals.reached(rows, 0.7) == (0, 50)
    assert hospitals.reached(rows, 0.95) == (200, None)


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
    cell, _ = sources.main_cells(study, results)
    curves = calibration.curves(study, results, cell)
    assert list(curves) == ["as it came", "fine-tuned", "fine-tuned, head kept", "from scratch"]
    assert all(curve["count"].sum() > 100 for curve in curves.values())


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
    shown = diagnoses.definitions_table(table).set_index("diagnosis")
    assert "normal ECG" in shown.loc["sinus rhythm", "PTB-XL"]
    assert shown.loc["sinus bradycardia", "CPSC2018"] == "–"
    text = diagnoses.definitions_answer(table).data
    assert "sinus rhythm" in text
    assert f"of {table['label'].nunique()} classes" in text
    assert table["label"].nunique() <= len(LABEL_SETS["challenge-2021"].classes)


def test_chapters_have_studies_of_their_own():
    for name in ("clinical", "demo"):
        study = load_study(name)
        own = {chapter: chapter_study(study, chapter).name for chapter, _ in study.chapters}
        assert list(own) == ["autoencoder", "generalisation"]
        assert len(set(own.values())) == 2
    assert chapter_study(load_study("demo"), "small_data").name == "demo"
