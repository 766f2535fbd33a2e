"""From raw files to prepared arrays: what is kept, what is dropped, and what may go wrong."""

import errno
import io
import itertools
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from conftest import HOSPITAL_RECORDS, MADE, as_fifo, edit, mistake, write_record

from ecgnb import files
from ecgnb.data import arrays, layouts, records
from ecgnb.data import prepare as room
from ecgnb.data.arrays import SELECTION, Options
from ecgnb.data.prepare import prepare, summary
from ecgnb.errors import UserError

FILES = ("manifest.json", "records.parquet", "signals.npy")


def contents(prepared):
    return {name: (prepared.folder / name).read_bytes() for name in FILES}


def noise(samples=1000):
    return np.random.default_rng(0).integers(-500, 500, (samples, 12)).astype(np.int16)


def selected(prepared):
    return prepared.table[list(SELECTION)]


def reasons(prepared):
    return {entry["record"]: entry["reason"] for entry in prepared.manifest["dropped"]}


def column(prepared, name):
    return dict(zip(prepared.table["record"], prepared.table[name], strict=True))


def signals_of(prepared, record):
    return prepared.signals[prepared.table["record"].tolist().index(record)].T


def left_in(cache):
    return [path.name for path in (cache / "prepared").glob(".*")]


@pytest.fixture
def made(root):
    """Eight good records, R0001 to R0008; R0001 to R0006 of one code, two of another."""
    for number in range(1, 9):
        code = "426783006" if number < 7 else "164889003"
        write_record(root / "made", f"R{number:04d}", codes=code)
    return root / "made"


def test_arrays_table_and_manifest_of_a_simulated_hospital(hospital, root):
    (root / "made").symlink_to(hospital)
    prepared = prepare(MADE)
    table, manifest = prepared.table, prepared.manifest
    assert isinstance(prepared.signals, np.memmap)
    assert prepared.signals.dtype == np.int16
    assert prepared.signals.shape == (HOSPITAL_RECORDS, 12, 1000)
    assert list(table) == [*SELECTION, "flags", "seconds", "site"]
    assert table["record"].is_monotonic_increasing
    assert set(table["fold"]) == set(range(1, 11))
    assert table.groupby("patient")["fold"].nunique().eq(1).all()
    assert set(table["sex"]) == {"female", "male"}
    assert table["age"].between(18, 100).all()
    assert manifest["options"]["rate"] == 100
    assert manifest["filter"] == "Kaiser-windowed low-pass"
    counts = {"listed": HOSPITAL_RECORDS, "absent": 0, "kept": HOSPITAL_RECORDS, "dropped": 0}
    assert manifest["counts"] == {**counts, "flagged": int((table["flags"] != "").sum())}
    # Einthoven's law survives reading, filtering and rounding.
    one, two, three = prepared.signals[:, :3].astype(int).transpose(1, 0, 2)
    assert np.abs(one + three - two).max() <= 2
    first, *lines = summary(prepared).split("\n  ")
    assert 1 < (patients := table["patient"].nunique()) < HOSPITAL_RECORDS
    assert first == f"Made: {HOSPITAL_RECORDS} records prepared, of {patients} patients"
    assert [line.partition(" ")[0] for line in lines] == ["classes:"]


def test_only_a_simulated_dataset_needs_no_raw_files(monkeypatch):
    monkeypatch.delenv("ECGNB_DATA", raising=False)
    options = Options(simulated_records=12)
    south = prepare("sim-south", options)
    assert south.signals.shape == (12, 12, 1000)
    assert prepare("sim-south", options).folder == south.folder
    assert south.manifest["patients"] == "known"
    assert south.folder.stat().st_mode & 0o055 == 0o055  # a cache may be shared
    mistake("ECGNB_DATA is not set", prepare, MADE)


def test_prepared_once_and_opened_again(made, monkeypatch):
    first = prepare(MADE)
    with monkeypatch.context() as patch:
        patch.setattr(room, "write_arrays", None)  # would fail if called
        again = prepare(MADE)
        for number, name in enumerate(FILES):  # as a copy leaves them
            os.utime(first.folder / name, (number, number))
        patch.delenv("ECGNB_DATA")
        without_raw = prepare(MADE)
    assert first.fingerprint == again.fingerprint == without_raw.fingerprint
    assert len({(first.folder / name).stat().st_mtime_ns for name in FILES}) == 1
    other = prepare(MADE, Options(seconds=5))
    assert other.folder != first.folder
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda made: write_record(made, "R0009"), 9),
        (lambda made: (made / "R0003.hea").unlink(), 7),
        (lambda made: edit(made / "R0003.hea", "#Age", "#Rx: none\n#Age"), 8),
        # Of equal length:
        (lambda made: edit(made / "R0003.hea", "426783006", "164889003"), 8),
        (lambda made: edit(made / "R0003.hea", "1000/mV", "2000/mV"), 8),
    ],
    ids=["record", "removed", "header", "label", "gain"],
)
def test_raw_files_that_changed_are_prepared_again(made, change, kept, cache, request):
    first = prepare(MADE)
    change(made)
    second = prepare(MADE)
    assert second.folder == first.folder
    assert (len(first.signals), len(second.signals)) == (8, kept)
    assert second.manifest["counts"]["kept"] == kept
    assert (second.fingerprint == first.fingerprint) == ("header" in request.node.name)
    assert left_in(cache) == []
    assert np.asarray(first.signals).any()  # still readable by who had it open


@pytest.mark.parametrize("kept", [7, 8])
def test_every_file_that_a_header_names_counts(made, kept):
    """As PTB's fifteen leads stand in two files, the second of which may arrive later."""
    header = (made / "R0003.hea").read_text()
    (made / "R0003.hea").write_text("other.csv".join(header.rsplit("R0003.dat", 1)))
    both = np.fromfile(made / "R0003.dat", dtype="<i2").reshape(-1, 12)
    both[:, :11].tofile(made / "R0003.dat")
    if kept == 8:  # and is changed then
        (both[:, 11] // 2).tofile(made / "other.csv")
    assert len(prepare(MADE).signals) == kept
    both[:, 11].tofile(made / "other.csv")
    np.testing.assert_array_equal(prepare(MADE).signals[2], both.T)


def _changed(path, change):
    if path.suffix == ".npy":
        np.save(path, change(np.load(path)))
    else:
        change(pd.read_parquet(path)).to_parquet(path)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SIGNALS, TABLE, MANIFEST = ("signals.npy", "records.parquet", "manifest.json")
DAMAGES = {
    "gone": (FILES, lambda path: path.unlink()),
    "half": (FILES, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
    "empty": (FILES, lambda path: path.write_bytes(b"")),
    "a bit": ((SIGNALS, TABLE), _flip),
    "reversed": ((SIGNALS, TABLE), lambda path: _changed(path, lambda rows: rows[::-1])),
    "eleven leads": ((SIGNALS,), lambda path: _changed(path, lambda rows: rows[:, :11])),
    "another type": ((SIGNALS,), lambda path: _changed(path, lambda rows: rows.astype(float))),
    "codes": ((TABLE,), lambda path: _changed(path, lambda rows: rows.assign(codes="1"))),
    "a pipe": (FILES, as_fifo),
    "a list": ((MANIFEST,), lambda path: path.write_text("[]")),
    "another": ((MANIFEST,), lambda path: path.write_text('{"fingerprint": "1"}')),
}


@pytest.mark.parametrize(("damage", "name"), [(d, name) for d in DAMAGES for name in DAMAGES[d][0]])
def test_a_damaged_prepared_folder_is_prepared_again(made, damage, name, cache):
    first = prepare(MADE)
    before = contents(first)
    whole = (first.folder / name).read_bytes()
    (first.folder / name).unlink()  # as cleaners of scratch folders do; the open map lives on
    (first.folder / name).write_bytes(whole)
    DAMAGES[damage][1](first.folder / name)
    if damage not in ("gone", "a bit", "reversed", "codes"):  # which times have to tell
        (time,) = {(first.folder / one).stat().st_mtime_ns for one in {*FILES} - {name}}
        os.utime(first.folder / name, ns=(time, time))
    assert contents(prepare(MADE)) == before
    assert left_in(cache) == []


def test_bad_records_are_dropped_with_their_reasons_and_the_rest_goes_on(made, monkeypatch):
    expected = prepare(MADE)
    (made / "B01.hea").write_text("")
    write_record(made, "B02").with_suffix(".dat").unlink()
    gap = np.zeros((1000, 12))
    gap[100:110, 7] = -32768
    write_record(made, "B03", gap)
    write_record(made, "B04", samples=499)
    write_record(made, "B05", rate=1e8, samples=5000)
    write_record(made, "B06", rate=1e-3, samples=5000)
    edit(write_record(made, "B07"), " 100 1000\n", f" 100 {'9' * 400}\n", 1)
    write_record(made, "B08", codes="X:x")
    write_record(made, "B09")
    whole = records.read_digital
    read = lambda header: [][1] if header.path.stem == "B09" else whole(header)  # noqa: E731
    monkeypatch.setattr(records, "read_digital", read)
    for name in ("sub/R0002", "long/M1_0001", "long/A_0002"):
        write_record((made / name).parent, Path(name).name)
    (made / "long" / "M1.hea").write_text("#\nM1/3 12 100 2100\nM1_0001 1000\n~ 100\nA_0002 1000")
    (made / "long" / "M1.atr").write_bytes(b"")
    prepared = prepare(MADE)
    said = reasons(prepared)
    assert said.pop("B07").startswith("header ")
    assert said == {
        "A_0002": "a segment of long/M1",
        "M1": "record of several segments",
        "M1_0001": "a segment of long/M1",
        "B01": "header is empty",
        "B02": "signal file B02.dat is missing",
        "B03": "lead V2 has 10 missing samples",
        "B04": "record of 5.0 s is shorter than 5 s",
        "B05": "1e+08 Hz cannot be brought to 100 Hz",
        "B06": "0.001 Hz cannot be brought to 100 Hz",
        "B08": "header: the code 'X:x' has no number after its colon",
        "B09": "cannot be read (IndexError: list index out of range)",
        "R0002": "duplicate id: another file has the same record id",
    }
    counts = prepared.manifest["counts"]
    assert (counts["dropped"], counts["listed"]) == (13, 21)
    np.testing.assert_array_equal(prepared.signals, expected.signals)
    assert prepared.fingerprint == expected.fingerprint
    assert "13 dropped (first: A_0002, a segment of long/M1)" in summary(prepared)
    every = prepare(MADE, Options(every_window=True))
    assert set(reasons(every)) == {*said, "B07"}


FILLINGS = {  # which samples hold what
    "zeros behind": (slice(600, None), 0),
    "a constant behind": (slice(600, None), 250),
    "zeros before": (slice(None, 400), 0),
    "nothing behind": (slice(600, None), -32768),
    "one short lead": ((slice(998, None), 5), -32768),  # as a skew leaves it
    "zero": (slice(None), 0),
    "constant": (slice(None), 77),
    "missing": (slice(None), -32768),
}


@pytest.mark.parametrize("layout", ["challenge", "array"])
@pytest.mark.parametrize("filling", FILLINGS)
def test_what_only_fills_up_is_left_out_or_dropped(made, filling, layout):
    where, value = FILLINGS[filling]
    facts, filled = MADE, noise()
    filled[where] = value
    moving = np.delete(noise(), where[0] if type(where) is tuple else where, axis=0)
    if layout == "array":
        np.save(made / "signals.npy", np.stack([filled, noise()]))
        (made / "records.csv").write_text("record,AF\nF1,1\nF2,0\n")
        facts = replace(MADE, layout="array", vocabulary="own", sampling_rates=(100,))
    else:
        write_record(made, "F1", filled)
    prepared = prepare(facts)
    if not len(moving):
        said = "lead I has 1000 missing samples" if value < 0 else "no lead ever moves"
        assert reasons(prepared) == {"F1": said}
        return
    assert column(prepared, "flags")["F1"] == "padded"
    row = signals_of(prepared, "F1")
    np.testing.assert_array_equal(row[: len(moving)], moving)
    assert (row[len(moving) :] == moving[-1]).all()


@pytest.mark.parametrize("folds", ["none", "given", "selected"])
def test_the_same_samples_stay_on_one_side(made, folds):
    same = noise()
    nearly = same + np.eye(1000, 12, dtype=int)
    shown = {"A": same, "B": same, "C": None, "D": same, "E": nearly}
    patients = dict(zip(shown, ("p1", "p2", "p2", "p3", "p4"), strict=True))  # C joins by B's
    for name, signals in shown.items():
        write_record(made, name, signals, comments=(f"Patient: {patients[name]}",))
    table = selected(prepare(MADE))
    if folds != "none":
        table = table.assign(fold=np.arange(13) % 10 + 1, patient=table["record"].replace(patients))
        table.to_csv(made / "records.csv", index=False)
    facts = MADE if folds == "none" else replace(MADE, layout="table")
    prepared = prepare(facts, selection=table if folds == "selected" else None)
    found = prepared.table[["patient", "fold"]][:4].nunique().tolist()
    assert found == ([3, 4] if folds == "selected" else [1, 1])
    said = "3 records have the samples of another (first: A and B)"
    assert f"{said}; {'1 time' if folds == 'selected' else 'one patient'}" in summary(prepared)


@pytest.mark.parametrize("other", ["1000/mV", "4880/mV"])
def test_two_populations_of_amplitude_are_said(root, other):
    rng = np.random.default_rng(0)
    for number in range(60):
        signals = rng.normal(0, 200 * np.exp(rng.normal(0, 0.3)), (500, 12))
        gain = other if number % 3 == 0 else "1000/mV"
        write_record(root / "made", f"R{number:02d}", signals, rate=50, gain=gain)
    said = "20 records span about" in summary(prepare(MADE, Options(rate=50)))
    assert said == (other == "4880/mV")


def test_odd_records_are_kept_and_flagged(made):
    flat = noise()
    flat[:, 6], flat[:, 2] = 0, 300
    write_record(made, "F1", flat)
    flat = noise(2500)
    flat[:, 6] = 7000  # also flat after its filter
    write_record(made, "F2", flat, rate=250)
    write_record(made, "L1", codes="")
    write_record(made, "L2", comments=())
    for name, samples in {"S1": 700, "S2": 500, "T1": 1500}.items():
        write_record(made, name, samples=samples)
    write_record(made, "T2", rate=500, samples=30_000)
    loud = noise()
    loud[3, 3] = -20_000
    write_record(made, "X1", loud, gain="200/mV")
    prepared = prepare(MADE)
    said = {"F1": "flat:III flat:V1", "F2": "flat:V1", "L1": "unlabelled"}
    said |= {"S1": "padded", "S2": "padded", "X1": "clipped"}
    assert {k: v for k, v in column(prepared, "flags").items() if v} == said
    assert prepared.manifest["counts"]["flagged"] == 6
    assert signals_of(prepared, "X1")[3, 3] == -32767
    assert np.isnan(column(prepared, "age")["L2"])
    assert column(prepared, "age")["L1"] == 60
    short = reasons(prepare(MADE, Options(short="drop")))
    assert short["S1"] == "record of 7.0 s is shorter than 10 s"


def test_unknown_codes_are_reported_and_kept_and_no_label_at_all_is_no_error(made):
    write_record(made, "U1", codes="426783006,123456789")
    write_record(made, "U2", codes="987654321")
    prepared = prepare(MADE)
    assert prepared.manifest["unknown_codes"] == {"123456789": 1, "987654321": 1}
    assert prepared.table.set_index("record").loc["U1", "codes"] == "426783006 123456789"
    assert "2 codes not in any label set (123456789, 987654321)" in summary(prepared)
    for path in made.glob("*.hea"):
        write_record(made, path.stem, codes="")
    prepared = prepare(MADE)
    assert sorted(set(prepared.table["fold"])) == list(range(1, 11))
    assert "flags: unlabelled 10" in summary(prepared)


def test_a_record_list_that_names_absent_files(made):
    write_record(made / "a" / "b", "N1")
    (made / "._R0001.hea").write_bytes(b"\0\x05\x16\x07")  # of a Mac
    (made / "RECORDS").write_text("R0001\nR0002\nR9999\na/\nnot-here/\n../\n./\n")
    (made / "a" / "RECORDS").write_text("b/\n./\n../a/\n")
    (made / "a" / "b" / "RECORDS").write_text("N1\nN2\n")
    prepared = prepare(MADE)
    counts = prepared.manifest["counts"]
    assert counts["kept"] == 9
    assert counts["absent"] == 3  # R9999, not-here/, a/b/N2
    assert summary(prepared).split("\n  ") == [
        "Made: 9 records prepared, each taken for another patient",
        "12 listed, 3 of them not here",
        "classes: NSR 7, AF 2",
        "not here, for example: R9999",
    ]
    # A download may hold two datasets.
    half = prepare(replace(MADE, record_range=("R0002", "R0005")))
    assert list(half.table["record"]) == ["R0002", "R0003", "R0004", "R0005"]
    assert half.manifest["counts"]["absent"] == 0


PTB_XL = """\
ecg_id,patient_id,age,sex,heart_axis,scp_codes,strat_fold,filename_lr,filename_hr
1,15709.0,56.0,1,LAD,"{'NORM': 100.0, 'SR': 0.0}",3,records100/0/00001_lr,records500/0/00001_hr
2,13243.0,300.0,0,,{'AFIB': 0.0},10,records100/0/00002_lr,records500/0/00002_hr
3,20372.0,,0,,{},1,records100/0/00003_lr,records500/0/00003_hr
"""


def ptb_xl(root):
    """The table of a folder like PTB-XL: of three records, two of which are there."""
    for name in ("00001_lr", "00002_lr"):
        write_record(root / "ptb-xl" / "records100" / "0", name)
    table = root / "ptb-xl" / "ptbxl_database.csv"
    table.write_text(PTB_XL)
    return table


def test_ptb_xl_takes_labels_folds_and_patients_from_its_table(root):
    table = ptb_xl(root)
    prepared = prepare("ptb-xl")
    first, second = prepared.table.itertuples(index=False)
    assert first[:6] == ("00001", "p15709", 3, 56.0, "female", "NORM:100 SR:0 AXIS-LAD")
    assert second[:6] == ("00002", "p13243", 10, 90.0, "male", "AFIB:0")
    assert "3 listed, 1 of them not here" in summary(prepared)
    edit(edit(table, "NORM", "LBBB"), "56.0", "999.0")
    prepared = prepare("ptb-xl")
    assert prepared.table["codes"][0] == "LBBB:100 SR:0 AXIS-LAD"
    np.testing.assert_array_equal(prepared.table["age"], [np.nan, 90])
    # An empty folder for one rate does not hide the records of the other.
    low, high = (table.with_name(name) for name in ("records100", "records500"))
    low.rename(high)
    low.mkdir()
    for path in sorted((high / "0").iterdir()):
        path = path.rename(path.with_name(path.name.replace("_lr", "_hr")))
        if path.suffix == ".hea":
            edit(path, "_lr", "_hr")
    moved = prepare("ptb-xl")
    assert moved.fingerprint == prepared.fingerprint
    assert moved.manifest["files_fingerprint"] != prepared.manifest["files_fingerprint"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (Path.unlink, "ptb-xl is incomplete: .*ptbxl_database.csv is missing"),
        (as_fifo, "ptb-xl is incomplete: .*ptbxl_database.csv is missing"),
        (lambda table: table.write_text(""), "cannot be read .EmptyDataError"),
        (lambda table: table.write_text('ecg_id\n"1'), "cannot be read"),
        (lambda table: edit(table, "filename_lr", "lr"), "cannot be read .KeyError: 'filename_lr'"),
        (lambda table: shutil.rmtree(table.with_name("records100")), "looked for .*500/.*_hr.hea"),
        *(
            (
                lambda table, codes=codes: edit(table, "{'AFIB': 0.0}", codes),
                r"a table of ptb-xl in .* must be like .*get that file",
            )
            for codes in ("{'NORM': 100.0", "['NORM']", "{'NORM'}", "3", "", "(" * 999)
        ),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(root, spoil, sentence):
    spoil(ptb_xl(root))
    mistake(sentence, prepare, "ptb-xl")


def test_a_folder_that_may_not_be_read_is_no_damaged_one(root, monkeypatch):
    ptb_xl(root)
    fault = PermissionError(13, "Permission denied", "/ecg/ptb-xl/ptbxl_database.csv")
    monkeypatch.setattr(layouts, "LAYOUTS", {"ptb-xl": Mock(side_effect=fault)})
    mistake(r"ptbxl_database.csv .Permission denied.: let its owner", prepare, "ptb-xl")


def test_a_selection_gives_the_same_arrays_from_a_bigger_folder(made, cache):
    first = prepare(MADE)
    named = selected(first)
    small = prepare(MADE, selection=named)
    before = {**contents(small), "manifest.json": None}
    assert small.fingerprint == first.fingerprint
    for number in range(9, 30):
        write_record(made, f"Q{number}", codes="59118001")
    write_record(made / "twice", "Q10")
    (made / "Q11.dat").unlink()
    for order in (named.sample(frac=1, random_state=0), named):
        big = prepare(MADE, selection=order)
        assert big.fingerprint == first.fingerprint
        assert {**contents(big), "manifest.json": None} == before
        assert big.manifest["dropped"] == []
        assert big.manifest["counts"]["kept"] == 8


def test_a_selection_brings_its_labels_folds_and_patients(made):
    named = selected(prepare(MADE)).iloc[[5, 2, 3]]
    named = named.assign(
        patient=["pa", "pb", "pb"], fold=[7, 2, 2], age=[1.0, np.nan, 3.5], sex="", codes="10370003"
    )
    mistake("no column fold, codes", prepare, MADE, selection=named.drop(columns=["fold", "codes"]))
    mistake("names R0003 twice", prepare, MADE, selection=pd.concat([named, named]).iloc[1:])
    for wrong in ({"patient": 1}, {"record": np.nan}, {"fold": 0}, {"fold": np.nan}):
        mistake("must be text, 'fold' 1 to 10", prepare, MADE, selection=named.assign(**wrong))
    prepared = prepare(MADE, selection=named)
    expected = named.sort_values("record", ignore_index=True)
    pd.testing.assert_frame_equal(selected(prepared), expected, check_dtype=False)


def test_a_selected_record_that_is_absent_is_reported(made):
    named = selected(prepare(MADE))
    (made / "R0003.hea").unlink()
    (made / "R0005.dat").unlink()
    prepared = prepare(MADE, selection=named)
    assert reasons(prepared) == {
        "R0003": "named by the study, but not here",
        "R0005": "signal file R0005.dat is missing",
    }
    assert "2 dropped (first: R0003, named by the study, but not here)" in summary(prepared)
    with pytest.raises(UserError, match="can be used; the first reason: X0, named"):
        prepare(MADE, selection=named.assign(record=[f"X{i}" for i in range(8)]))


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        (MADE, {}, "holds no record of made"),
        ("ptb-xl", {}, r"PTB-XL is not in .*looked for ptb-xl/.*ECGNB_DATA"),
        ("ptb-xk", {}, "no dataset 'ptb-xk' .did you mean 'ptb-xl'"),
        ("ptb-xl+cpsc2018", {}, r"prepare each of them, .*: ptb-xl cpsc2018"),
        (MADE, {"short": "stretch"}, r"short records 'stretch'; .* pad, drop"),
        (MADE, {"seconds": -1}, "-1 s at 100 Hz holds no signal"),
        (MADE, {"rate": 0}, "10 s at 0 Hz holds no signal"),
        (MADE, {"rate": float("nan")}, "10 s at nan Hz holds no signal"),
        (MADE, {"rate": 1e308}, "10 s at 1e.308 Hz holds no signal"),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_one_sentence(root, dataset, options, sentence):
    (root / "made").mkdir()
    mistake(sentence, prepare, dataset, Options(**options))


@pytest.mark.parametrize("dataset", ["made", "sim-north"])
def test_a_cache_that_cannot_be_written_is_one_sentence(made, tmp_path, monkeypatch, dataset):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot write to .*Not a directory.*ECGNB_CACHE"):
        prepare(MADE if dataset == "made" else dataset, Options(simulated_records=3))


class FullDisk(io.FileIO):
    """A file whose fourth write finds no room."""

    writes = 0

    def write(self, content):
        self.writes += 1
        return super().write(content) if self.writes < 4 else full()


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = {
    "signals": (arrays, "open", FullDisk),
    "table": (pd.DataFrame, "to_parquet", full),
    "manifest": (Path, "write_text", full),
    "rename": (os, "replace", full),
}


@pytest.mark.parametrize("moment", FULL)
def test_a_full_disk_is_one_sentence_and_leaves_what_was(made, cache, monkeypatch, moment):
    older = prepare(MADE)
    kept = contents(older)
    write_record(made, "R0009")
    with monkeypatch.context() as patch:
        patch.setattr(*FULL[moment], raising=False)
        mistake(r"No space left on device.*free some space", prepare, MADE)
    assert list((cache / "prepared").iterdir()) == [older.folder]
    assert contents(older) == kept
    assert len(prepare(MADE).signals) == 9


def test_the_same_input_gives_the_same_bytes_anywhere_in_any_processes(root, monkeypatch, tmp_path):
    for index in range(150):
        path = write_record(root / "made", f"R{index:04d}", samples=250, rate=50)
        if index in (0, 3, 70):
            path.with_suffix(".dat").write_bytes(b"")
    monkeypatch.setattr(files.joblib, "cpu_count", lambda: 2)
    found = []
    for worth in (10**6, 10):
        folder = tmp_path / str(worth)
        shutil.copytree(root, folder / "data")
        monkeypatch.setenv("ECGNB_DATA", str(folder / "data"))
        monkeypatch.setenv("ECGNB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(arrays, "_WORTH_A_PROCESS", worth)
        found.append(prepare(MADE, Options(rate=25.0, seconds=4.0)))
        assert found[-1].folder.is_relative_to(folder)
    assert contents(found[0]) == contents(found[1])
    assert str(tmp_path).encode() not in contents(found[0])["manifest.json"]
    assert len(found[0].signals) == 147
    assert found[0].signals.any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("module", "name", "call"), [(arrays, "convert_record", 5), (os, "replace", 2)]
)
def test_a_kill_leaves_nothing_that_is_whole(made, cache, monkeypatch, module, name, call):
    whole, calls = getattr(module, name), itertools.count(1)

    def die(*given, **named):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given, **named)

    process = multiprocessing.get_context("fork").Process(target=prepare, args=(MADE,))
    with monkeypatch.context() as patch:
        patch.setattr(module, name, die)
        process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list((cache / "prepared").glob(".made-*-*"))) == 1
    assert not list((cache / "prepared").glob("made-*"))
    assert prepare(MADE).manifest["counts"]["kept"] == 8
    assert left_in(cache) == []


@pytest.mark.parametrize("what", ["new", "stale", "simulated"])
def test_two_that_prepare_at_once_do_it_once(made, cache, monkeypatch, what):
    dataset, module, name, kept = MADE, room, "write_arrays", 8
    options = Options(simulated_records=3)
    if what == "stale":
        prepare(MADE, options)
        write_record(made, "R0009")
        kept = 9
    elif what == "simulated":
        dataset, module, name, kept = "sim-north", room.hospital, "write_hospital", 3
    whole = getattr(module, name)

    def slow(*given, **named):
        time.sleep(0.3)  # long enough for the other to come
        return whole(*given, **named)

    monkeypatch.setattr(module, name, written := Mock(side_effect=slow))
    with ThreadPoolExecutor(2) as pool:
        mine, other = pool.map(prepare, [dataset] * 2, [options] * 2)
    assert written.call_count == 1
    assert contents(mine) == contents(other)
    assert len(mine.signals) == kept
    assert left_in(cache) == []
    assert not list((cache / "simulated").glob(".*"))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        *product(("clinical", "clinical-paper"), ("ptb-xl", "chapman-shaoxing")),
        *product(("clinical", "jang2021"), ("cpsc2018", "brugada-huca")),  # the second in windows
    ],
)
def test_the_fingerprint_of_real_data_is_the_recorded_one(name, dataset):
    from ecgnb.study.data import open_dataset, recorded_fingerprints
    from ecgnb.study.declare import load_study

    study = load_study(name)
    prepared = open_dataset(study, dataset)
    assert prepared.fingerprint == recorded_fingerprints(study.data)[dataset]
    assert prepared.manifest["dropped"] == []


@pytest.mark.slow
@pytest.mark.data
def test_filtered_records_extend_those_that_were_not():
    """Both come out alike, as far as their spectra tell; no record and no patient is lost."""
    whole = prepare("ptb-xl-extended", Options(band=True))
    parts = [prepare(name) for name in ("ptb-xl", "ptb-xl-filtered")]
    assert set(whole.table["record"]) == set().union(*(part.table["record"] for part in parts))
    assert len(whole.signals) == sum(len(part.signals) for part in parts)
    published = whole.table["record"].isin(parts[1].table["record"]).to_numpy()
    power = [
        (np.abs(np.fft.rfft(whole.signals[rows][:400], axis=2)) ** 2).mean(axis=(0, 1))
        for rows in (~published, published)
    ]
    shares = [each / each.sum() for each in power]
    for low, high in ((0.0, 0.5), (0.5, 5), (5, 20), (20, 40), (40, 50)):
        band = slice(round(10 * low), round(10 * high))  # 0.1 Hz a bin
        assert shares[0][band].sum() == pytest.approx(shares[1][band].sum(), abs=0.03)
    assert whole.signals.std(axis=2).mean() == pytest.approx(1000, rel=0.001)


@pytest.mark.parametrize(("rate", "at"), [(250, 2500), (250, 3000), (100, 1500)])
def test_a_sample_that_is_missing_behind_the_window_drops_nothing(made, rate, at):
    signals = noise(3500)
    write_record(made, "G1", signals[:at], rate=rate)
    signals[at, 3] = -32768
    write_record(made, "G2", signals, rate=rate)
    ends, gap = prepare(MADE).signals[:2]  # before the records R0001 and on
    np.testing.assert_array_equal(gap, ends)


def test_a_long_record_gives_every_window(made):
    signals = noise(2500)
    write_record(made, "R0004", signals, comments=("Age: 60", "Patient: p4"))
    options = Options(seconds=10, antialias=False)
    every_window = replace(options, every_window=True)
    first, every = prepare(MADE, options), prepare(MADE, every_window)
    names = every.table["record"].tolist()
    assert names[3:5] == ["R0004#0", "R0004#1"]
    assert len(names) == len(first.table) + 1
    assert np.array_equal(first.signals[3], signals[:1000].T)
    assert np.array_equal(every.signals[3], signals[:1000].T)
    assert np.array_equal(every.signals[4], signals[1000:2000].T)
    windows = every.table.iloc[3:5]
    assert (windows["patient"] == "p4").all()
    assert windows["fold"].nunique() == 1
    for named in (every.table, first.table):  # a study names its records, or their windows
        again = prepare(MADE, every_window, selection=named)
        assert again.table["record"].tolist() == names
        assert again.table["fold"].tolist()[4] == named["fold"].tolist()[3]
    with pytest.raises(UserError, match="the first reason: R0004#0, named by the study"):
        prepare(MADE, options, selection=every.table[every.table["record"] == "R0004#0"])


def test_a_name_that_looks_like_a_window_is_a_name(made):
    write_record(made, "R0001#3")
    write_record(made, "R0002#1.hea#2", long := noise(2000))
    expected = ["R0001", "R0001#3", "R0002", "R0002#1.hea#2#0", "R0002#1.hea#2#1", "R0003"]
    options = Options(every_window=True, antialias=False)
    every = prepare(MADE, options)
    assert every.table["record"].tolist()[:6] == expected
    assert np.array_equal(every.signals[4], long[1000:].T)
    again = prepare(MADE, options, selection=prepare(MADE).table)
    assert again.table["record"].tolist() == every.table["record"].tolist()
    assert np.array_equal(again.signals, every.signals)


def test_one_record_that_changed_is_read_again(root):
    for signals in (noise(2000), -noise(2000)):
        write_record(root / "made", signals=signals)
        prepared = prepare(MADE, Options(every_window=True, antialias=False))
        np.testing.assert_array_equal(prepared.signals[0], signals[:1000].T)


def test_a_folder_that_is_replaced_meanwhile_is_opened_again(made, monkeypatch):
    first, read = prepare(MADE), pd.read_parquet
    aside = shutil.copytree(first.folder, first.folder.with_name("aside"))
    np.save(aside / "signals.npy", -first.signals)
    room._same_time(aside)

    def replaced(path):
        if aside.exists():
            first.folder.rename(first.folder.with_name("gone"))
            aside.rename(first.folder)
        return read(path)

    monkeypatch.setattr(pd, "read_parquet", replaced)
    np.testing.assert_array_equal(prepare(MADE).signals, -first.signals)
