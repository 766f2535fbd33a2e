"""Datasets of one's own, and layouts that no real records are at hand for."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import h5py
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import WriteRecord

from ecgnb.data import catalog, layouts
from ecgnb.data.arrays import Options
from ecgnb.data.catalog import data_root
from ecgnb.data.layouts import LAYOUTS
from ecgnb.data.prepare import prepare
from ecgnb.data.records import LEADS
from ecgnb.errors import UserError
from ecgnb.simulate.hospital import write_hospital
from ecgnb.study.declare import load_study

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ECGNB_DATA."""
    folder = tmp_path / "ecg"
    folder.mkdir()
    monkeypatch.setenv("ECGNB_DATA", str(folder))
    return folder


def write_card(root: Path, layout: str, extra: str = "") -> None:
    (root / "mine.toml").write_text(
        f'[mine]\ntitle = "My hospital"\nlayout = "{layout}"\nvocabulary = "own"\n{extra}'
    )


def waves(count: int, samples: int = 2000) -> np.ndarray:
    """Signals in microvolts, (records, samples, 12), none of which begins or ends with 0."""
    return np.random.default_rng(0).integers(1, 900, (count, samples, 12)).astype(np.int16)


def blocks_of_the_page() -> tuple[str, str]:
    """The card and the study of the page for readers with data of their own."""
    page = (ROOT / "book" / "own_data.md").read_text()
    card, declared = (block.partition("```")[0] for block in page.split("```toml\n")[1:])
    return card, declared


def test_every_layout_of_a_card_can_be_read():
    assert set(catalog.LAYOUTS) == set(LAYOUTS)


@pytest.mark.parametrize("leads_first", [False, True])
@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_an_array_and_a_table(root, leads_first, kind):
    (root / "mine").mkdir()
    signals = waves(30)
    signals[3, 1500:] = 0  # filled up
    signals[4] = 0
    stored = signals if kind == "int16" else (signals / 1000).astype(kind)
    np.save(root / "mine" / "signals.npy", stored.transpose(0, 2, 1) if leads_first else stored)
    table = pd.DataFrame(
        {"patient": np.arange(30) // 2, "age": 50, "sex": "F", "long QT": np.arange(30) % 2}
    )
    table["site"] = "north"  # neither 0 nor 1: not a class
    table.to_csv(root / "mine" / "records.csv", index=False)
    write_card(root, "array", "sampling_rates = [200]\n")
    prepared = prepare("mine", Options(rate=200, antialias=False))
    assert prepared.manifest["dropped"] == [
        {"record": "000004", "reason": "every sample is 0 or missing"}
    ]
    assert np.array_equal(prepared.signals[0], signals[0].T)
    assert prepared.table["flags"].tolist()[2:4] == ["unlabelled", "padded"]
    assert prepared.table["codes"].iloc[1] == "long-QT"
    assert (prepared.table["sex"] == "female").all()
    folds = prepared.table.groupby("patient")["fold"].nunique()
    assert (folds == 1).all()


def test_records_and_a_table(root, write_record: WriteRecord):
    for name in ("a/R1", "a/R2", "b/R1"):
        write_record(root / "mine" / name[0], name[2:])
    pd.DataFrame(
        {"record": ["a/R1", "R2", "b/R1", "R1", "R9"], "codes": ["AF", "AF SB", "", "", ""]}
    ).to_csv(root / "mine" / "records.csv", index=False)
    write_card(root, "table")
    prepared = prepare("mine")
    assert list(prepared.table["record"]) == ["R2", "a/R1", "b/R1"]
    assert list(prepared.table["codes"]) == ["AF SB", "AF", ""]
    assert prepared.manifest["counts"]["absent"] == 2  # "R1" may be either


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("rows", "3 records in the array, but 2 rows in the table"),
        ("shape", r"holds int16 values of shape \(3, 12, 12\)"),
        ("rate", "must give its sampling_rates"),
        ("classes", "neither a column 'codes' nor a column of zeros and ones"),
        ("table", "records.csv is missing"),
        ("array", "signals.npy is missing"),
        ("folder", "My hospital is not in"),
    ],
)
def test_what_is_wrong_is_said(root, spoil, message):
    if spoil != "folder":
        (root / "mine").mkdir()
        if spoil != "array":
            shape = (3, 12, 12) if spoil == "shape" else (3, 12, 500)
            np.save(root / "mine" / "signals.npy", np.ones(shape, dtype=np.int16))
        if spoil != "table":
            rows = 2 if spoil == "rows" else 3
            column = "age" if spoil == "classes" else "AF"
            table = pd.DataFrame({column: [0, 50, 1][:rows]})
            table.to_csv(root / "mine" / "records.csv", index=False)
    write_card(root, "array", "" if spoil == "rate" else "sampling_rates = [100]\n")
    with pytest.raises(UserError, match=message):
        prepare("mine")


@pytest.mark.parametrize(
    ("folds", "fault"),
    [
        (range(10), "holds 0 in a row"),
        ([*range(1, 10), None], "holds nothing in a row"),
        ([*range(1, 10), "test"], "holds test in a row"),
        ([1.5, *range(2, 11)], "holds 1.5 in a row"),
        ([1, 2, 3, 4, 5] * 2, "never holds 6"),
    ],
)
def test_folds_are_1_to_10_or_left_out(root, folds, fault):
    (root / "mine").mkdir()
    np.save(root / "mine" / "signals.npy", waves(10, 1000))
    table = pd.DataFrame({"AF": [0, 1] * 5, "fold": range(1, 11)}).sample(frac=1, random_state=0)
    table.to_csv(root / "mine" / "records.csv", index=False)
    write_card(root, "array", "sampling_rates = [100]\n")
    assert prepare("mine").table["fold"].tolist() == table["fold"].tolist()
    table.assign(fold=list(folds)).to_csv(root / "mine" / "records.csv", index=False)
    with pytest.raises(UserError, match=f"'fold' {fault}; .* 1 to 10, or be left out.*correct"):
        prepare("mine")


def test_what_is_not_in_utf_8_is_named(root, write_record: WriteRecord):
    table = write_record(root / "mine", "R1").with_name("records.csv")
    write_card(root, "table")
    table.write_bytes("record,Müdigkeit\nR1,1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"records\.csv is not in UTF-8.*correct that file"):
        prepare("mine")
    table.write_text("record,Müdigkeit\nR1,1\n", encoding="utf-8")
    assert prepare("mine").table["codes"].tolist() == ["Müdigkeit"]
    with open(os.fsencode(root / "mine") + "/Müller.hea".encode("latin-1"), "wb"):
        pass
    with pytest.raises(UserError, match=r"the file name Müller.hea in .* rename the file"):
        prepare("mine")


def test_ptb(root, write_record: WriteRecord):
    reasons = ("Myocardial infarction", "Healthy control", "Heart failure (NYHA 2)")
    leads = [*(lead.lower() for lead in LEADS), "vx", "vy", "vz"]
    for patient, reason in enumerate(reasons, start=1):
        for record in ("s1_re", "s2_re"):
            write_record(
                root / "ptb" / f"patient00{patient}",
                f"{record}{patient}",
                rate=1000,
                samples=12_000,
                leads=leads,
                comments=("age: 81", "sex: female", f"Reason for admission: {reason}"),
            )
    prepared = prepare("ptb")
    assert list(prepared.table["patient"].unique()) == ["patient001", "patient002", "patient003"]
    by_patient = prepared.table.groupby("patient")["codes"].first()
    assert list(by_patient) == ["myocardial-infarction", "healthy-control", "heart-failure-nyha-2"]
    assert (prepared.table["age"] == 81).all()
    assert (prepared.table["sex"] == "female").all()


def test_incart_tells_its_patients(root, write_record: WriteRecord):
    said = "<age>: 65 <sex>: F <diagnoses> Coronary artery disease"
    for number, patient in enumerate((1, 1, 2), start=1):
        write_record(
            root / "incartdb",
            f"I0{number}",
            rate=257,
            samples=257 * 60,
            codes="",
            comments=(said, f"patient {patient}", "PVCs, noise"),
        )
    table = prepare("incart").table
    assert list(table["patient"]) == ["1", "1", "2"]
    assert (table["age"] == 65).all()
    assert (table["codes"] == "").all()


def test_code_test(root):
    folder = root / "code-test" / "data"
    (folder / "annotations").mkdir(parents=True)
    values = np.zeros((4, 4096, 12), dtype=np.float32)
    values[:, 48:4048] = waves(4, 4000) / 1000
    values[1, :648] = values[1, 3448:] = 0  # seven seconds
    order = layouts._CODE_TEST_LEADS
    with h5py.File(folder / "ecg_tracings.hdf5", "w") as file:
        file["tracings"] = values
    names = ["1dAVb", "RBBB", "LBBB", "SB", "AF", "ST"]
    stated = np.eye(4, 6, dtype=int)
    stated[3] = 0
    pd.DataFrame(stated, columns=names).to_csv(
        folder / "annotations" / "gold_standard.csv", index=False
    )
    pd.DataFrame({"age": [20, 30, 40, 50], "sex": ["M", "F", "M", "F"]}).to_csv(
        folder / "attributes.csv", index=False
    )
    prepared = prepare("code-test", Options(rate=400, antialias=False))
    assert list(prepared.table["codes"]) == ["1dAVb", "RBBB", "LBBB", "NORM"]
    assert list(prepared.table["sex"]) == ["male", "female", "male", "female"]
    avr = prepared.signals[0, LEADS.index("aVR")]
    assert np.allclose(avr, 1000 * values[0, 48:4048, order.index("aVR")], atol=0.51)
    assert ["padded" in flags for flags in prepared.table["flags"]] == [False, True, False, False]


def test_a_study_with_another_target(root):
    write_hospital(root / "mine", "sim-south", 300, seed=3)
    write_card(root, "challenge")
    study = load_study("demo:mine")
    assert study.name == "demo:mine"
    assert [pair.target.dataset for pair in study.pairs] == ["mine"]
    assert study.pairs[0].target.label_set == "own-all"
    assert study.pairs[0].sizes == (50, 0)  # 200 are more than may be trained on
    with pytest.raises(UserError, match="have patients in common"):
        load_study("demo:sim-north")
    assert load_study("clinical:sim-south").pairs[0].sizes == load_study("clinical").pairs[0].sizes
    with pytest.raises(UserError, match="There is no dataset 'yours'"):
        load_study("demo:yours")
    with pytest.raises(UserError, match="unknown study 'demon'"):
        load_study("demon:mine")


def test_the_study_of_the_page_is_one(root, tmp_path):
    card, declared = blocks_of_the_page()
    path = tmp_path / "mine.toml"
    path.write_text(declared)
    (root / "my-hospital.toml").write_text(card)
    study = load_study(str(path))
    assert study.datasets == ("georgia", "my-hospital")


def test_a_study_from_a_file(tmp_path):
    text = (ROOT / "ecgnb" / "studies" / "demo.toml").read_text()
    path = tmp_path / "small.toml"
    path.write_text(text.replace("seeds = [0, 1, 2]", "seeds = [0]"))
    study = load_study(str(path))
    assert (study.name, study.seeds, study.recorded) == ("small", (0,), False)
    path.write_text("title = ")
    with pytest.raises(UserError, match="not valid TOML"):
        load_study(str(path))
    with pytest.raises(UserError, match=r"Cannot read the study .*none.toml: No such file"):
        load_study(str(tmp_path / "none.toml"))


@pytest.mark.data
@pytest.mark.parametrize("layout", ["array", "table"])
def test_real_records_as_ones_own_come_out_as_they_were(tmp_path, monkeypatch, layout):
    """CPSC2018, once as WFDB records with a table and once as an array, gives the same arrays."""
    there = data_root() / "cpsc2018"
    whole = prepare("cpsc2018")
    root = tmp_path / "ecg"
    (root / "mine").mkdir(parents=True)
    monkeypatch.setenv("ECGNB_DATA", str(root))
    if layout == "array":
        np.save(root / "mine" / "signals.npy", whole.signals)
    else:
        (root / "mine" / "files").symlink_to(there)
        monkeypatch.setattr(layouts.os, "walk", partial(os.walk, followlinks=True))
    columns = ["record", "patient", "age", "sex", "fold", "codes"]
    whole.table[columns].to_csv(root / "mine" / "records.csv", index=False)
    write_card(root, layout, "sampling_rates = [100]\n")
    mine = prepare("mine")
    assert np.array_equal(mine.signals, whole.signals)
    assert mine.table[columns].equals(whole.table[columns])


SMALL = """
title = "To my hospital"
description = "Small."
protocol = "clean"
seeds = [0, 1]
tuning_seed = 99
arms = ["scratch", "finetune", "linear-probe", "random-probe"]
learning_rates = [0.003]
batch_size = 16
evaluations = 2

[data]
rate = 50
seconds = 4
simulated_records = 400

[[pairs]]
models = ["resnet1d18", "gru"]
heads = ["pooled"]
sizes = [50, 0]
min_test_positives = 2
source = { dataset = "sim-north", label_set = "snomed-all", min_positives = 20, updates = 4 }
target = { dataset = "mine", label_set = "own-all", min_positives = 20, updates = 4 }
"""


def study_of_the_page() -> str:
    """As on the page, but shorter, from another source and to the hospital of these tests."""
    text = f"{blocks_of_the_page()[1]}\n[data]\nrate = 50\nseconds = 4\nsimulated_records = 400\n"
    for said, instead in {
        "georgia": "sim-north",
        "my-hospital": "mine",
        "[0, 1, 2, 3, 4]": "[0, 1]",
        "[0.001, 0.003, 0.01]": "[0.003]",
        "evaluations = 15": "evaluations = 2",
        "updates = 800": "updates = 4",
        "updates = 300": "updates = 4",
    }.items():
        assert said in text
        text = text.replace(said, instead)
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "chapters"), [("small.toml", "*"), ("page.toml", "0[124]*"), ("demo:mine", "00*")]
)
def test_every_chapter_runs_on_data_of_ones_own(root, tmp_path, study, chapters):
    """As the page says: a card of four lines, and the name of a study or its file."""
    write_hospital(root / "mine", "sim-south", 400, seed=3)
    headers = sorted((root / "mine").glob("*.hea"))
    codes = pd.Series([path.read_text().partition("#Dx: ")[2].split("\n")[0] for path in headers])
    # Neither ages nor sexes, and names that nobody else uses.
    table = codes.str.get_dummies(",").rename(columns="finding {}".format)
    table.assign(record=[path.stem for path in headers]).to_csv(
        root / "mine" / "records.csv", index=False
    )
    write_card(root, "table")
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "page.toml").write_text(study_of_the_page())
    for notebook in sorted((ROOT / "notebooks").glob(f"{chapters}.ipynb")):
        command = [sys.executable, "-m", "papermill", notebook, tmp_path / "out.ipynb"]
        command += ["-p", "study", study, "--no-progress-bar"]
        environment = {**os.environ, "TQDM_DISABLE": "1"}  # a progress bar is no complaint
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [output.text for output in outputs if output.get("name") == "stderr"]
