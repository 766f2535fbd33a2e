"""Datasets of one's own, and layouts that no real records are at hand for."""

import io
import os
import re
from pathlib import Path

import h5py
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import as_fifo, edit, mistake, write_record
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from ecgnb.cli import app
from ecgnb.data import catalog, layouts
from ecgnb.data.arrays import Options
from ecgnb.data.catalog import data_root
from ecgnb.data.checks import confounders
from ecgnb.data.layouts import LAYOUTS
from ecgnb.data.prepare import prepare, summary
from ecgnb.data.records import LEADS
from ecgnb.data.splits import FOLDS, assign_folds
from ecgnb.simulate.hospital import write_hospital
from ecgnb.study.declare import load_study

ROOT = Path(__file__).resolve().parent.parent
AF = "AF" + "\n0\n1" * 6  # a table of twelve rows


def write_card(root, layout, extra=""):
    text = f'[mine]\ntitle = "My hospital"\nlayout = "{layout}"\nvocabulary = "own"\n{extra}'
    (root / "mine.toml").write_text(text)
    return root / "mine.toml"


def waves(count, samples=2000):
    """Signals in microvolts, (records, samples, 12), none of which begins or ends with 0."""
    return np.random.default_rng(0).integers(1, 900, (count, samples, 12)).astype(np.int16)


def array(root, text, signals=None):
    """An array of twelve records, as if nobody looked, and the table that describes it."""
    (root / "mine").mkdir(exist_ok=True)
    signals = waves(12, 1000) if signals is None else signals
    np.save(root / "mine" / "signals.npy", signals)
    write_card(root, "array", "sampling_rates = [100]\n")
    return write_table(root, text)


def write_table(root, text):
    (root / "mine" / "records.csv").write_text(text, encoding="utf-8")
    return root / "mine"


def table_of(head, *rows):
    return "\n".join([head, *(rows[number % len(rows)] for number in range(12))])


def refused(sentence, dataset="mine"):
    mistake(sentence, prepare, dataset)


@pytest.mark.parametrize("leads_first", [False, True])
@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_an_array_and_a_table(root, leads_first, kind):
    signals = waves(30)
    signals[3, 1500:] = 0  # filled up
    signals[4] = 0
    stored = signals if kind == "int16" else (signals / 1000).astype(kind)
    # A site is neither 0 nor 1: not a class.
    rows = [f"{row // 2},50,F,{row % 2},north" for row in range(30)]
    text = "\n".join(["patient,age,sex,long QT,site", *rows])
    array(root, text, stored.transpose(0, 2, 1) if leads_first else stored)
    write_card(root, "array", "sampling_rates = [200]\n")
    prepared = prepare("mine", Options(rate=200, antialias=False))
    assert prepared.manifest["dropped"] == [{"record": "000004", "reason": "no lead ever moves"}]
    assert np.array_equal(prepared.signals[0], signals[0].T)
    assert prepared.table["flags"].tolist()[2:4] == ["unlabelled", "padded"]
    assert prepared.table["codes"].iloc[1] == "long-QT"
    assert (prepared.table["sex"] == "female").all()
    assert (prepared.table.groupby("patient")["fold"].nunique() == 1).all()
    every = prepare("mine", Options(rate=200, seconds=5, antialias=False, every_window=True))
    assert every.table["record"].tolist()[:2] == ["000000#0", "000000#1"]
    assert np.array_equal(every.signals[1], signals[0, 1000:].T)


def _npz():
    np.savez(packed := io.BytesIO(), waves(12, 1000))
    return packed.getvalue()


NEARLY = {"strat_fold": "fold", "Alter": "age", "record id": "record", "dx": "codes"}
NEARLY |= dict.fromkeys(("patient_id", "Pateint", "MRN", "Patientennummer"), "patient")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (table_of("AF,note", '1, "ok', "0,fine", '0, "x'), "a quote that does not end a cell"),
        ("AF\n0\n1\n", "12 records in the array, but 2 rows in the table"),
        (table_of("age", "0", "1"), "neither a column 'codes' nor a column of"),
        (table_of("long QT,long-QT", "0,1"), "two columns make one class 'long-QT': keep one"),
        *(
            (table_of(f"AF,{name}", "1,1", "0,0"), f"'{name}': call it '{meant}', or leave it out")
            for name, meant in NEARLY.items()
        ),
        *(
            (
                table_of("AF,SB", *["1,0"] * 5, f"{cell},0", "0,1"),
                f"row 7 of the column 'AF' holds '?{re.escape(cell or 'nothing')}",
            )
            for cell in ("-1", "2", "?", "")
        ),
        *(
            (
                table_of("AF,fold", *(f"1,{fold}" for fold in [*folds, 1, 2])),
                f"'fold' {fault}; .* 1 to 10, or be left out.*correct",
            )
            for folds, fault in (
                (range(10), "holds 0 in row 2"),
                ([*range(1, 10), ""], "holds nothing in row 11"),
                ([*range(1, 10), "test"], "holds test in row 11"),
                ([1.5, *range(2, 11)], "holds 1.5 in row 2"),
                ([1, 2, 3, 4, 5] * 2, "never holds 6"),
            )
        ),
    ],
)
def test_a_wrong_table_is_said(root, text, sentence):
    array(root, text)
    refused(sentence)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda mine: np.save(mine / "signals.npy", np.ones((3, 12, 12), np.int16)),
            r"holds int16 values of shape \(3, 12, 12\)",
        ),
        (lambda mine: np.save(mine / "signals.npy", np.array([None])), "npy holds no array"),
        *(
            (lambda mine, text=text: (mine / "signals.npy").write_bytes(text), "npy holds no array")
            for text in (b"", b"no array", _npz())
        ),
        (lambda mine: as_fifo(mine / "signals.npy"), "signals.npy is missing"),
        (lambda mine: (mine / "records.csv").unlink(), "records.csv is missing"),
        *(
            (lambda mine, text=text: write_card(mine.parent, "array", text), "must say the one")
            for text in ("", "sampling_rates = [100, 500]\n")
        ),
        (lambda mine: mine.rename(mine.parent / "other"), "My hospital is not in"),
    ],
)
def test_what_is_wrong_with_the_files_is_said(root, spoil, message):
    spoil(array(root, AF))
    refused(message)


def test_folds_that_are_given_are_kept(root):
    folds = [3, 1, 2, *range(4, 11), 1, 2]
    array(root, table_of("AF,fold", *(f"1,{fold}" for fold in folds)))
    assert prepare("mine").table["fold"].tolist() == folds


@pytest.mark.parametrize("head", ["patient,AF", "Patient, AF", " patient ;AF", "\ufeffPATIENT;AF"])
def test_patients_under_any_spelling_of_their_column_stay_together(root, head):
    separator = ";" if ";" in head else ","
    array(root, table_of(head, *(f"{row}{separator} 1" for row in ("p1", "p1 ", " p2", "NaN"))))
    prepared = prepare("mine")
    assert {"p1", "p2"} < set(prepared.table["patient"])
    assert "12 records prepared, of 5 patients\n  classes: AF 12" in summary(prepared)


def test_codes_are_split_as_in_headers(root):
    cells = ["AF LBBB", '"AF, LBBB"', "AF;LBBB", "AF|LBBB", " AF ;LBBB;", "\"['AF', 'LBBB']\""]
    array(root, table_of("age,codes", *(f"60,{cell}" for cell in [*cells, "X:x"])))
    prepared = prepare("mine")
    assert set(prepared.table["codes"]) == {"AF LBBB"}
    reason = "the code 'X:x' has no number after its colon"
    assert prepared.manifest["dropped"] == [{"record": "000006", "reason": reason}]


def test_classes_are_counted_and_what_is_none_is_named(root):
    head = "yes,flag,sex,gender,is_male,site,is_train,fold1,ward,weight,age"
    rows = ("Yes,TRUE,F,1,0,1,1,1,north,70,>89", "no,false,w,0,0,0,1,0,south,1,1954")
    array(root, table_of(head, *rows))
    prepared = prepare("mine")
    lines = summary(prepared).split("\n  ")
    assert "classes: flag 6, yes 6" in lines
    named = ("gender", "is_male", "site", "is_train", "fold1", "weight")
    left = {**dict.fromkeys(named, "by its name no diagnosis"), "ward": "not 0 or 1"}
    assert lines[-2].startswith("columns left out: gender (by its name no diagnosis), is_male (")
    for name, reason in left.items():
        assert f"{name} ({reason})" in lines[-2]
    assert lines[-1] == "age: 6 not understood (first: '1954')"
    assert set(prepared.table["sex"]) == {"female"}
    np.testing.assert_array_equal(prepared.table["age"][:2], [90, np.nan])


def test_what_is_in_doubt_is_said_and_does_not_count(root):
    rows = ("NA,H,a,n,AF", "SR none,M,a,s,", '"AF:0 LBBB:1" ,H,b,n,')
    array(root, table_of("codes,sex,device,site,", *rows))
    prepared = prepare("mine")
    lines = summary(prepared).split("\n  ")
    assert "classes: LBBB 4, SR 4" in lines
    left = ", ".join(f"{name} (codes are given)" for name in ("device", "site", "unnamed 4"))
    assert lines[-2:] == [f"columns left out: {left}", "sex: 12 not understood (first: 'H')"]
    assert set(prepared.table["site"]) == {"a n", "a s", "b n"}
    edit(root / "mine" / "records.csv", ",b,", ",c,")
    assert set(prepare("mine").table["site"]) == {"a n", "a s", "c n"}


def test_a_flag_that_alone_predicts_a_label_is_said(root):
    rng = np.random.default_rng(0)
    padded = rng.random(200) < 0.4
    told = {"leak": padded ^ (rng.random(200) < 0.1), "none": rng.random(200) < 0.5}
    signals = waves(200, 100)
    signals[padded, 60:] = 0
    facts = {"age": rng.integers(20, 90, 200), "Center": np.where(told["leak"], "A", "B")}
    table = pd.DataFrame({**told, **facts, "sex": "F"})
    array(root, table.replace({True: 1, False: 0}).to_csv(index=False), signals)
    prepared = prepare("mine", Options(seconds=1))
    assert prepared.table["seconds"].tolist() == [0.6 if short else 1.0 for short in padded]
    scores = {"padded": padded, "length": ~padded, "age": facts["age"]}
    scores[f"site {facts['Center'][0]}"] = facts["Center"] == facts["Center"][0]
    found = confounders(prepared.table, pd.DataFrame(told)).set_index(["feature", "label"])
    assert set(found.index) == {(feature, label) for feature in scores for label in told}
    for (feature, label), row in found.iterrows():
        assert row["auroc"] == pytest.approx(roc_auc_score(told[label], scores[feature]))
        assert (row["low"] > 0.5 or row["high"] < 0.5) == (label == "leak" and feature != "age")
        assert row["low"] <= row["auroc"] <= row["high"]
    said = [line for line in summary(prepared).split("\n  ") if "alone predicts" in line]
    assert {line.split(" alone")[0] for line in said} == {*scores} - {"age"}
    assert re.search(r"mine +200 records", CliRunner().invoke(app, ["datasets"]).stdout)


SCALED = {  # what an array is stored in, and how many millivolts are taken for one
    "volts": lambda mv: (mv / 500).astype(np.float32),
    "float microvolts": lambda mv: (mv * 1000).astype(np.float32),
    "converter units": lambda mv: np.rint(mv * 100).astype(np.int16),
}


@pytest.mark.parametrize("unit", SCALED)
def test_an_amplitude_that_is_no_ecgs_is_said(root, unit):
    signals = np.random.default_rng(0).normal(0, 0.2, (12, 1000, 12))
    array(root, AF, signals)
    assert "amplitude" not in summary(prepare("mine"))
    array(root, AF, SCALED[unit](signals))
    said = summary(prepare("mine"))
    assert "0.5 to 5 are usual: check the unit" in said
    assert ("clipped 12" in said) == (unit == "float microvolts")


@pytest.mark.parametrize("value", [-32768, np.inf, -np.inf, np.nan, 1e300, 2**63 + 2**62])
def test_values_that_stand_for_no_sample_are_missing(root, value):
    kind = {-32768: ">i2", 2**63 + 2**62: np.uint64}.get(value, np.float64)
    signals = waves(12, 1000).astype(kind)
    signals[0, 500, 3] = value
    signals[1, :200, 3] = value  # filled up
    array(root, AF, signals / 1000 if kind == np.float64 else signals)
    prepared = prepare("mine")
    missing = {"record": "000000", "reason": "lead aVR has 1 missing samples"}
    assert prepared.manifest["dropped"] == [missing]
    assert prepared.table["flags"][0] == "padded"
    np.testing.assert_array_equal(prepared.signals[0, :, :800], waves(12, 1000)[1, 200:].T)


@pytest.mark.parametrize("separator", ",;\t")
def test_records_are_found_by_any_way_to_write_them(root, separator):
    names = ["R0", "R1.hea", "./R2", "a/R3", "a\\R4", "a/R5.dat", " R6 "]
    for name in ("b/R7", "c/R7", "c/R9", *(f"a/R{number}" for number in range(7))):
        write_record(root / "elsewhere" / name[0], name[2:])
    os.symlink(root / "elsewhere", root / "mine")
    os.symlink(root / "elsewhere", root / "mine" / "a" / "round")  # a link that leads in a circle
    os.mkfifo(root / "mine" / "R8.hea")
    write_card(root, "table")
    rows = (f"{name},AF" for name in [*names, "R7", "R8"])
    write_table(root, "\n".join(["Record,Codes", *rows]).replace(",", separator))
    prepared = prepare("mine")
    assert prepared.table["codes"].tolist() == ["AF"] * len(names)
    assert prepared.manifest["counts"]["absent"] == 1
    unnamed = "1 records here are not in the table, such as c/R9.hea"
    assert prepared.manifest["notes"] == ["not here, for example: R8", unnamed]
    reason = "it may be b/R7.hea or c/R7.hea"
    assert prepared.manifest["dropped"] == [{"record": "R7", "reason": reason}]
    write_table(root, "record,codes\nR3,AF\na/R3,SB\n")
    refused("'a/R3' stands in rows 2 and 3")


@pytest.mark.parametrize(
    ("there", "rows", "sentence"),
    [
        ("001.hea", "1", "looked for 1.hea, and there is 001.hea; the names must agree"),
        *(
            (name, "R1", f"looked for R1.hea, and there is {name}; records are read from WFDB")
            for name in ("R1.HEA", "R1.edf", "R1.mat")
        ),
        (".R1.hea", "R1", "looked for R1.hea, and there is records.csv"),
        ("R1.hea", "R1\nR2\nR1.hea", "'R1' stands in rows 2 and 4"),
        ("R1.hea", "R1\n", "row 3 names no record"),
    ],
)
def test_names_that_lead_nowhere_are_told_with_an_example(root, there, rows, sentence):
    (root / "mine").mkdir()
    (root / "mine" / there).write_text("R1 12 100 1000")
    write_card(root, "table")
    write_table(root, f"record,codes\n{rows},AF\n")
    refused(re.escape(sentence))


@pytest.mark.parametrize("part", ["", "g1"])
@pytest.mark.parametrize("name", ["ptb", "incart"])
def test_the_challenges_copy_is_read_without_patients(root, name, part):
    write_record(root / name / part, codes="164865005,164889003", suffix=".mat")
    first, *lines = summary(prepare(name)).split("\n  ")
    assert first.endswith(": 1 records prepared, each taken for another patient")
    assert lines[-1].startswith("the PhysioNet Challenge's copy of ")
    if name == "ptb":
        assert lines[0] == "classes: AF 1, MI 1"
        write_record(root / name / "patient001")  # of both, some patients would be there twice
        refused(r"R0001\.hea is not in a folder of its patient", name)


def test_a_cell_of_brugada_huca_that_says_nothing_is_said(root):
    write_record(root / "brugada-huca" / "files" / "1", "1", samples=1200)
    table = root / "brugada-huca" / "metadata.csv"
    for cell in ("", "-1", "yes", "2"):
        table.write_text(f"patient_id,basal_pattern,sudden_death,brugada\n1,0,1,{cell}\n")
        if cell != "2":
            refused(r"row 2 .* 'brugada' holds .*: write 0, 1 or 2", "brugada-huca")
    assert prepare("brugada-huca").table["codes"][0] == "brugada:2 basal_pattern:0 sudden_death:1"


def test_what_is_not_in_utf_8_is_named(root):
    table = write_record(root / "mine", "R1").with_name("records.csv")
    write_card(root, "table")
    table.write_bytes("record,Müdigkeit\nR1,1\n".encode("latin-1"))
    refused(r"records\.csv is not in UTF-8.*correct that file")
    table.write_text("record,Müdigkeit\nR1,1\n", encoding="utf-8")
    assert prepare("mine").table["codes"].tolist() == ["Müdigkeit"]
    open(os.fsencode(root / "mine") + "/Müller.hea".encode("latin-1"), "wb").close()
    refused(r"the file name Müller.hea in .* rename the file")


def test_ptb(root):
    reasons = ("Myocardial infarction", "Healthy control", "Heart failure (NYHA 2)")
    leads = [*(lead.lower() for lead in LEADS), "vx", "vy", "vz"]
    form = {"rate": 1000, "samples": 12_000, "leads": leads}
    for patient, reason in enumerate(reasons, start=1):
        said = ("age: 81", "sex: female", f"Reason for admission: {reason}")
        for record in ("s1_re", "s2_re"):
            folder = root / "ptb" / f"patient00{patient}"
            write_record(folder, f"{record}{patient}", comments=said, **form)
    table = prepare("ptb").table
    assert table.groupby("patient")["codes"].first().to_dict() == {
        "patient001": "myocardial-infarction",
        "patient002": "healthy-control",
        "patient003": "heart-failure-nyha-2",
    }
    assert (table["age"] == 81).all()
    assert (table["sex"] == "female").all()


def test_incart_tells_its_patients(root):
    for number, patient in enumerate((1, 1, 2), start=1):
        said = ("<age>: 65 <sex>: F <diagnoses> Coronary artery disease", f"patient {patient}")
        form = {"rate": 257, "samples": 257 * 12, "codes": "", "comments": (*said, "PVCs, noise")}
        write_record(root / "incartdb", f"I0{number}", **form)
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
    stated = folder / "annotations" / "gold_standard.csv"
    rows = ["1,0,0,0,0,0", "0,1,0,0,0,0", "0,0,1,0,0,0", "0,0,0,0,0,0"]
    stated.write_text("\n".join(["1dAVb,RBBB,LBBB,SB,AF,ST", *rows]))
    (folder / "attributes.csv").write_text("age,sex\n20,M\n30,F\n40,M\n50,F\n")
    prepared = prepare("code-test", Options(rate=400, antialias=False))
    assert list(prepared.table["codes"]) == ["1dAVb", "RBBB", "LBBB", "NORM"]
    assert list(prepared.table["sex"]) == ["male", "female", "male", "female"]
    avr = prepared.signals[0, LEADS.index("aVR")]
    assert np.allclose(avr, 1000 * values[0, 48:4048, order.index("aVR")], atol=0.51)
    assert ["padded" in flags for flags in prepared.table["flags"]] == [False, True, False, False]
    (folder / "ecg_tracings.hdf5").unlink()
    with h5py.File(folder / "ecg_tracings.hdf5", "w") as file:
        file.create_dataset("tracings", (4, 60_000_000, 12), "f4", chunks=(1, 1000, 12))
    refused("bytes cannot hold 60000000 x 12 samples", "code-test")
    edit(stated, "0,0,1,0", ",0,1,0")
    refused("row 4 of the column '1dAVb' holds nothing", "code-test")
    edit(stated, "SB,AF,ST", "SB,AFIB,ST")
    refused(r"KeyError: .*'AF'.*get that file again", "code-test")


def test_a_study_with_another_target(root):
    assert set(catalog.LAYOUTS) == set(LAYOUTS)  # each of a card can be read
    write_hospital(root / "mine", "sim-south", 150, seed=3)
    write_card(root, "challenge")
    study = load_study("demo:mine")
    assert study.name == "demo:mine"
    assert [pair.target.dataset for pair in study.pairs] == ["mine"]
    assert study.pairs[0].target.label_set == "own-all"
    assert study.pairs[0].sizes == (50, 0)  # 200 are more than may be trained on
    (root / "Sim-North").symlink_to(root / "mine")
    for side in (None, 'folders = ["Sim-North"]\n', 'patients_of = "sim-north"\n'):
        write_card(root, "challenge", side or "")
        mistake("have patients in common", load_study, "demo:mine" if side else "demo:sim-north")
    write_card(root, "challenge", 'patients_of = "sim-nord"\n')
    mistake("no dataset 'sim-nord'", load_study, "demo:mine")
    mistake(r"Cannot read the study .*none.toml: No such file", load_study, "none.toml")
    assert load_study("clinical:sim-south").pairs[0].sizes == load_study("clinical").pairs[0].sizes


@pytest.mark.data
@pytest.mark.parametrize("layout", ["array", "table"])
def test_real_records_as_ones_own_come_out_as_they_were(tmp_path, monkeypatch, layout):
    """CPSC2018, once as WFDB records with a table and once as an array, gives the same arrays."""
    there = data_root() / "cpsc2018"
    whole = prepare("cpsc2018")
    monkeypatch.setenv("ECGNB_DATA", str(tmp_path))
    columns = ["record", "patient", "age", "sex", "fold", "codes"]
    array(tmp_path, whole.table[columns].to_csv(index=False), whole.signals)
    if layout == "table":
        (tmp_path / "mine" / "signals.npy").unlink()
        (tmp_path / "mine" / "files").symlink_to(there)
        write_card(tmp_path, layout)
    mine = prepare("mine")
    assert np.array_equal(mine.signals, whole.signals)
    assert mine.table[columns].equals(whole.table[columns])


def changed(text, changes):
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


# The study of other tests and that of the page, shorter, and to the hospital of these tests.
TINY = {
    '"finetune", ': '"finetune", "linear-probe", ',
    "[0.001, 0.01]": "[0.003]",
    '["gru"]': '["resnet1d18", "gru"]',
    "[30]": "[50, 0]\nmin_test_positives = 2",
    '"sim-south", label_set = "snomed-all"': '"mine", label_set = "own-all"',
}
PAGE = {
    "georgia": "sim-north",
    "my-hospital": "mine",
    "[0, 1, 2, 3, 4]": "[0, 1]",
    "evaluations = 15": "evaluations = 2",
    "updates = 800": "updates = 4",
    "updates = 300": "updates = 4",
}


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_every_chapter_runs_on_data_of_ones_own(root, tmp_path, monkeypatch):
    """As the page says: a card of four lines, and the name of a study or its file."""
    write_hospital(root / "mine", "sim-south", 400, seed=3)
    headers = sorted((root / "mine").glob("*.hea"))
    codes = pd.Series([path.read_text().partition("#Dx: ")[2].split("\n")[0] for path in headers])
    # Neither ages nor sexes, and names that nobody else uses.
    table = codes.str.get_dummies(",").rename(columns="finding {}".format)
    table = table.assign(record=[path.stem for path in headers])
    table.to_csv(root / "mine" / "records.csv", index=False)
    page = (ROOT / "book" / "own_data.md").read_text()
    card, declared = (block.partition("```")[0] for block in page.split("```toml\n")[1:])
    (root / "my-hospital.toml").write_text(card)
    (tmp_path / "page.toml").write_text(declared)
    assert load_study(str(tmp_path / "page.toml")).datasets == ("georgia", "my-hospital")
    (root / "mine.toml").write_text(changed(card, {"my-hospital": "mine"}))
    (root / "my-hospital.toml").unlink()
    small = changed((ROOT / "tests" / "tiny.toml").read_text(), TINY)
    (tmp_path / "small.toml").write_text(small)
    form = "\n[data]\nrate = 50\nseconds = 4\nsimulated_records = 300\n"
    (tmp_path / "page.toml").write_text(changed(declared, PAGE) + form)
    # All in one kernel, which starts once, and forgets each chapter before the next.
    whole = nbformat.v4.new_notebook()
    for study, chapters in {"small.toml": "0*", "page.toml": "01*", "demo:mine": "00*"}.items():
        for path in sorted((ROOT / "notebooks").glob(f"{chapters}.ipynb")):
            whole.cells.append(nbformat.v4.new_code_cell("%reset_selective -f ."))
            for cell in nbformat.read(path, 4).cells:
                if "parameters" in cell.metadata.get("tags", []):
                    cell.source += f"\nstudy = {study!r}"
                cell.id += f"-{len(whole.cells)}"
                whole.cells.append(cell)
    nbformat.write(whole, tmp_path / "whole.ipynb")
    monkeypatch.setenv("TQDM_DISABLE", "1")  # a progress bar is no complaint
    options = {"kernel_name": "python3", "progress_bar": False, "cwd": tmp_path}
    done = papermill.execute_notebook(tmp_path / "whole.ipynb", tmp_path / "out.ipynb", **options)
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    said = [output.data.get("text/markdown", "") for output in outputs if "data" in output]
    assert sum(text.startswith("## What to do with") for text in said) == 10
    assert sum("400 records prepared" in text for text in said) == 2  # 00, of two studies


def test_records_without_a_code_are_divided_as_a_class_of_their_own(root):
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 30, 60)
    codes = np.where(rng.random(60) < 0.3, "", "AF")
    rows = "\n".join(f"{who},{code}" for who, code in zip(patients, codes, strict=True))
    array(root, f"patient,codes\n{rows}", waves(60, 1000))
    table = prepare("mine").table
    labels = np.column_stack([table["codes"] == "", table["codes"] == "AF"])
    assert list(table["fold"]) == list(assign_folds(table["patient"], labels, FOLDS, seed=0))
