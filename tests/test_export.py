"""A network taken home says of records what its run said, and refuses what it is not for."""

import json
import os
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import as_fifo, edit, mistake, write_record
from typer.testing import CliRunner

from ecgnb.cli import app
from ecgnb.data.records import LEADS
from ecgnb.export import CARD, ONNX, WEIGHTS, Network, _chosen, export, predict_records, write_onnx
from ecgnb.models import MODELS
from ecgnb.models.build import build_model
from ecgnb.study.data import open_dataset
from ecgnb.study.declare import load_study
from ecgnb.study.run import run_study
from ecgnb.study.spec import changed
from ecgnb.study.store import hash_of
from ecgnb.training.transfer import save_weights

TINY = str(Path(__file__).with_name("tiny.toml"))


def study():
    return load_study(TINY)


def test_runs_that_differ_in_more_than_their_seed_are_not_chosen_as_one():
    chosen, among = _chosen(load_study("clinical-sources"), {})
    assert len({str(changed(run.spec, seed=0)) for run in chosen}) == 1
    assert len({run.spec.seed for run in chosen}) == len(chosen) < len(among)


@pytest.fixture(scope="module")
def home(common):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(common / "exported"))
        run_study(study(), workers=1, progress=False)
        result = export(study(), common / "taken", arm="finetune")
    return common / "exported", common / "taken", result


@pytest.fixture
def taken(home, monkeypatch, tmp_path):
    monkeypatch.setenv("ECGNB_CACHE", str(home[0]))
    shutil.copytree(home[1], tmp_path / "elsewhere")
    return tmp_path / "elsewhere", home[2]


def test_predictions_are_those_of_the_run(taken, home):
    folder, run = taken
    data = open_dataset(study(), "sim-south")
    (raw,) = (home[0] / "simulated").glob("sim-south-*")
    headers = {path.stem: path for path in raw.rglob("*.hea")}
    table, refused = predict_records(folder, [str(headers[one]) for one in run.records])
    assert not refused
    assert list(table) == ["record", *run.classes, "flags"]
    said = table[list(run.classes)].to_numpy()
    assert np.abs(said - run.predictions.astype(float)).max() < 5e-4  # kept in 16 bits
    rows = data.table.set_index("record").index.get_indexer(list(run.records))
    whole = Network(folder).ask(np.asarray(data.signals)[rows])
    assert np.abs(said - whole).max() < 1e-5


@pytest.mark.parametrize("arm", ["finetune", "scratch", "random-probe"])
def test_every_arm_is_exported_as_it_ran(home, monkeypatch, tmp_path, arm):
    monkeypatch.setenv("ECGNB_CACHE", str(home[0]))
    run = export(study(), tmp_path / "out", arm=arm)
    facts = json.loads((tmp_path / "out" / CARD).read_text())
    assert (facts["run"]["arm"], facts["run"]["seed"], facts["apart"]) == (arm, 0, 0)
    data = open_dataset(study(), "sim-south")
    rows = data.table.set_index("record").index.get_indexer(list(run.records))
    said = Network(tmp_path / "out").ask(np.asarray(data.signals)[rows])
    assert np.abs(said - run.predictions.astype(float)).max() < 2e-3


def test_the_card_says_what_the_network_is(taken):
    facts = json.loads((taken[0] / CARD).read_text())
    assert facts["input"]["leads"] == list(LEADS)
    assert facts["input"]["options"]["rate"] == 50
    assert {one["name"] for one in facts["data"]} == {"sim-north", "sim-south"}
    for one in facts["classes"]:
        assert 0 <= one["threshold"] <= 1
        assert one["auroc"] is None or one["low"] <= one["auroc"] <= one["high"]


def test_arrays_need_their_rate_and_a_likely_amplitude(taken, tmp_path):
    data = open_dataset(study(), "sim-south")
    signals = np.asarray(data.signals[:20])
    np.save(tmp_path / "whole.npy", signals)
    np.save(tmp_path / "milli.npy", signals / 1000)
    np.save(tmp_path / "volts.npy", signals / 1e6)
    mistake("add --rate", predict_records, taken[0], [str(tmp_path / "whole.npy")])
    whole, milli = (
        predict_records(taken[0], [str(tmp_path / f"{name}.npy")], rate=50)[0]
        for name in ("whole", "milli")
    )
    classes = list(taken[1].classes)
    assert np.abs(whole[classes] - milli[classes]).to_numpy().max() < 1e-5
    mistake("check the unit", predict_records, taken[0], [str(tmp_path / "volts.npy")], rate=50)
    mistake("sampled at 20 Hz", predict_records, taken[0], [str(tmp_path / "whole.npy")], rate=20)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"leads": ["I", "II", "III"]}, "missing among I, II, III"),
        ({"gain": "1000/bar"}, "unknown unit: bar"),
        ({"gain": "1000/NU"}, "z-scored"),
        ({"rate": 40}, "sampled at 40 Hz, and the network wants 50"),
        ({"samples": 100}, "shorter than 2 s"),
    ],
)
def test_what_the_network_is_not_for_is_refused(taken, tmp_path, changes, reason):
    write_record(tmp_path, "good")
    write_record(tmp_path, "bad", **changes)
    asked = ["predict", *map(str, (taken[0], tmp_path / "good", tmp_path / "bad"))]
    said = CliRunner().invoke(app, asked)
    assert list(pd.read_csv(StringIO(said.stdout))["record"]) == [str(tmp_path / "good")]
    assert reason in said.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        as_fifo,
        lambda path: path.write_text("[" * 9999),
        lambda path: edit(path, '"outputs": [', '"outputs": 5, "were": ['),
        lambda path: edit(path, '"head"', '"heads"'),
        lambda path: edit(path, '"name": "NSR"', '"name": "none"'),
        lambda path: edit(path, '"lowest_rate": ', '"lowest_rate": "low", "was": '),
    ],
)
def test_a_network_that_is_none_or_changed_is_refused(taken, spoil):
    network = taken[0] / WEIGHTS
    whole = network.read_bytes()
    network.write_bytes(whole[:-1] + b"?")
    mistake("export it again", Network, taken[0])
    network.write_bytes(whole)
    spoil(taken[0] / CARD)
    mistake("holds no exported network", Network, taken[0])


def test_names_of_files_are_text_in_the_table(taken, tmp_path):
    """None steers a terminal, and what is no text ends nothing."""
    write_record(tmp_path / "records", "r")
    for name in ("a\x1b[31mb", os.fsdecode(b"\xff")):
        for suffix in (".hea", ".dat"):
            os.link(tmp_path / "records" / f"r{suffix}", tmp_path / "records" / f"{name}{suffix}")
    edit(taken[0] / CARD, "NSR", "NSR\\u001b]")
    asked = ["predict", str(taken[0]), str(tmp_path / "records")]
    said = CliRunner().invoke(app, asked).stdout
    CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out.csv")])
    assert said == (tmp_path / "out.csv").read_text()
    assert "\x1b" not in said
    table = pd.read_csv(StringIO(said))
    assert "NSR\\x1b]" in table
    names = [name.rpartition("/")[2] for name in table["record"]]
    assert names == ["a\\x1b[31mb", "r", "\\xdcff"]


def test_a_study_without_such_a_run_exports_none(taken, tmp_path, monkeypatch):
    mistake("are arm finetune, random-probe, scratch", export, study(), tmp_path, arm="as-is")
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "empty"))
    mistake("`ecgnb run tiny` trains them", export, study(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("model", ["gru", "bilstm", "resnet1d18"])
def test_a_network_says_the_same_as_onnx(taken, monkeypatch, model):
    runtime = pytest.importorskip("onnxruntime")
    facts = json.loads((taken[0] / CARD).read_text())
    head = MODELS[model].heads[0]
    built = build_model(model, head, len(facts["outputs"]), facts["input"]["samples"], 0)
    save_weights(built, taken[0] / WEIGHTS, facts["run"])
    facts["run"] |= {"model": model, "head": head}
    facts["weights"] = hash_of(taken[0] / WEIGHTS)
    (taken[0] / CARD).write_text(json.dumps(facts))
    write_onnx(taken[0])
    signals = np.asarray(open_dataset(study(), "sim-south").signals[:30])
    asked = runtime.InferenceSession(taken[0] / ONNX).run(None, {"microvolts": signals})[0]
    assert np.abs(asked - Network(taken[0]).ask(signals)).max() < 1e-5
    monkeypatch.setattr("ecgnb.export.find_spec", lambda name: None)
    mistake("pip install onnx", write_onnx, taken[0])
