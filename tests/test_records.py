"""The fast reader against wfdb, on every real record and on made ones, good and bad."""

import functools
import os
import struct
import time
from io import BytesIO
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import wfdb
from conftest import as_fifo, edit, write_record
from scipy.io import savemat

from ecgnb.data import layouts, records
from ecgnb.data.records import LEADS, Header, RecordError, lead_order, read_digital, read_header

DATASETS = {"ptb-xl": 1987, "ptb-xl-filtered": 1661, "chapman-shaoxing": 1193}
DATASETS |= {"cpsc2018": 150, "brugada-huca": 363}
NOISE = np.random.default_rng(1).integers(-2000, 2000, (500, 12)).astype(np.int16)


same = np.testing.assert_array_equal


def reference(path):
    return wfdb.rdrecord(str(path.with_suffix("")), physical=False).d_signal


def physical(path):
    return 1000 * wfdb.rdrecord(str(path.with_suffix(""))).p_signal


@pytest.fixture
def record(tmp_path):
    return functools.partial(write_record, tmp_path, signals=NOISE)


def values_of(path):
    header = read_header(path)
    return records.microvolts(header, read_digital(header))


def refused(path, reason):
    with pytest.raises(RecordError, match=reason) as caught:
        values_of(path)
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()


def real_headers(dataset):
    return sorted((Path(os.environ["ECGNB_DATA"]) / dataset).rglob("*.hea"))


def write_mat(path, content, level="5", **options):
    savemat(path.with_suffix(".mat"), content, format=level, **options)


@pytest.mark.data
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_real_record_is_what_its_header_says_and_every_thirtieth_equals_wfdb(dataset):
    refused = []
    paths = real_headers(dataset)
    for number, path in enumerate(paths):
        try:
            header = read_header(path)
        except RecordError:
            refused.append(path.stem)
            continue
        digital = read_digital(header)
        assert digital.dtype == np.int16
        signals = [line.split() for line in path.read_text().splitlines() if line[0] != "#"][1:]
        first, checksums = np.array(signals)[:, 5:7].astype(int).T
        same(digital[0], first, err_msg=path.stem)
        sums = digital.sum(axis=0, dtype=np.int16)
        same(sums, checksums.astype(np.int16), err_msg=path.stem)
        if number % 30 == 0:
            same(digital, reference(path), err_msg=path.stem)
            theirs = physical(path)[:, lead_order(header.leads)]
            np.testing.assert_allclose(values_of(path), theirs, atol=1e-9)
    assert refused == (["JS01052"] if dataset == "chapman-shaoxing" else [])
    assert len(paths) - len(refused) >= DATASETS[dataset]


@pytest.mark.data
@pytest.mark.parametrize("dataset", ["ptb-xl", "chapman-shaoxing"])
def test_reading_is_much_faster_than_wfdb(dataset):
    paths = real_headers(dataset)[:20]

    def seconds(read):
        start = time.perf_counter()
        for path in paths:
            read(path)
        return time.perf_counter() - start

    # Interleaved: both meet the same load.
    took = [(seconds(values_of), seconds(physical)) for _ in range(3)]
    ours, theirs = np.median(took, axis=0)
    assert theirs > 15 * ours


@pytest.mark.parametrize("suffix", [".dat", ".mat"])
def test_made_records_equal_wfdb(record, suffix):
    path = record(suffix=suffix)
    starts = [path.with_suffix(suffix).read_bytes()[: -NOISE.nbytes]]
    starts += [b"a prolog of twenty-four."] if suffix == ".mat" else []  # no MATLAB file
    for start in starts:
        path.with_suffix(suffix).write_bytes(start + NOISE.tobytes())
        same(read_digital(read_header(path)), NOISE)
        same(reference(path), NOISE)


@pytest.mark.parametrize(
    ("format_", "largest"),
    [("80", 120), ("212", 2000), ("16", 30000), ("24", 2**22), ("32", 2**30)],
)
def test_other_formats_equal_wfdb_and_keep_their_gaps(tmp_path, format_, largest):
    digital = np.random.default_rng(0).integers(-largest, largest, (200, 12))
    digital[5, 3] = missing = records.missing_value(format_)
    form = {"fs": 100, "sig_name": list(LEADS), "d_signal": digital, "write_dir": str(tmp_path)}
    each = {"units": "mV", "fmt": format_, "adc_gain": 200.0, "baseline": 0}
    wfdb.wrsamp("odd", **form, **{key: [value] * 12 for key, value in each.items()})
    header = read_header(tmp_path / "odd.hea")
    ours = read_digital(header)
    same(ours, reference(header.path))
    same(ours, digital)
    assert ours.dtype == (np.int16 if largest < 2**15 else np.int64)
    assert missing == ours[5, 3]
    values = records.microvolts(header, ours)
    np.testing.assert_allclose(values, physical(header.path), rtol=1e-12)
    assert np.isnan(values).sum() == 1


def test_leads_in_several_files_and_skewed_leads_equal_wfdb(tmp_path, record):
    path = record("a")
    (tmp_path / "b.dat").write_bytes(NOISE[:, 6:].tobytes())
    (tmp_path / "a.dat").write_bytes(NOISE[:, :6].tobytes())
    path.write_text("b.dat".join(path.read_text().rsplit("a.dat", 6)))
    same(read_digital(read_header(path)), NOISE)
    same(reference(path), NOISE)

    skewed = edit(record("s"), "s.dat 16 ", "s.dat 16:2 ", 1)
    header = read_header(skewed)
    digital = read_digital(header)
    same(digital, reference(skewed))
    values = records.microvolts(header, digital)  # ends where the skewed lead ends
    same(values, np.column_stack([NOISE[2:, 0], NOISE[:-2, 1:]]))


def test_a_file_without_any_of_the_twelve_leads_is_not_needed(tmp_path, record):
    path = record(signals=np.column_stack([NOISE, NOISE[:, :3]]), leads=[*LEADS, *"xyz"])
    path.write_text(".xyz".join(path.read_text().rsplit(".dat", 3)))
    (tmp_path / "R0001.dat").write_bytes(NOISE.tobytes())
    same(values_of(path), NOISE)
    edit(path, "R0001.dat 16 ", "R0001.dat 16x1 ")  # by wfdb
    same(values_of(path), NOISE)


@pytest.mark.parametrize("first", ["R0001 12 250", "R0001 12", "R0001 12 250 0"])
@pytest.mark.parametrize(("suffix", "format_"), [(".dat", "16"), (".mat", "16"), (".dat", "212")])
def test_length_and_rate_left_out_are_those_of_wfdb(tmp_path, record, first, suffix, format_):
    path = edit(record(suffix=suffix), f"{suffix} 16", f"{suffix} {format_}")
    edit(path, "R0001 12 100 500\n", f"{first}\n")
    header = read_header(path)
    assert header.sampling_rate == wfdb.rdheader(str(path.with_suffix(""))).fs == 250
    assert header.samples == (666 if format_ == "212" else 500)
    path.write_text(path.read_text().replace("250 0\n", "250\n"))  # for wfdb, 0 is none at all
    same(read_digital(header), reference(path))
    (tmp_path / f"R0001{suffix}").write_bytes(b"")
    with pytest.raises(RecordError, match="no length in the header"):
        read_header(path)


@pytest.mark.parametrize("level", ["4", "5", "7.3"])
@pytest.mark.parametrize("name", ["val", "ecg_data"])
def test_other_matlab_files_are_read_by_scipy_or_h5py(record, level, name):
    path = record(suffix=".mat")
    if level == "7.3":
        with h5py.File(path.with_suffix(".mat"), "w", userblock_size=512) as file:
            file[name] = NOISE  # MATLAB's first axis comes last
        with open(path.with_suffix(".mat"), "r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file")
    else:
        write_mat(path, {name: np.ascontiguousarray(NOISE.T)}, level)
    same(read_digital(read_header(path)), NOISE)
    if level == "5":  # why not by wfdb: it gives noise, without an error
        assert (reference(path) != NOISE).any()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"val": NOISE.T[:11]}, "the header says 12 x 500, the matrix is 11 x 500"),
        ({"val": NOISE.T + 0.5}, "not whole numbers"),
        ({"val": np.where(NOISE.T > 1990, np.nan, NOISE.T)}, "not whole numbers"),
        ({"val": np.where(NOISE.T > 1990, np.inf, NOISE.T)}, "beyond any converter"),
        ({"val": np.where(NOISE.T > 1990, 1e300, NOISE.T)}, "beyond any converter"),
        ({"val": np.full((12, 500), 2**64 - 1, np.uint64)}, "beyond any converter"),
        ({"a": NOISE.T, "b": NOISE.T}, "which matrix is meant, a or b"),
        ({"val": np.zeros((12, 500), object)}, "the matrix is absent"),
        ({}, "the matrix is absent"),
    ],
)
def test_a_matlab_file_of_something_else_is_refused(record, content, reason):
    path = record(suffix=".mat")
    write_mat(path, content)
    refused(path, reason)


def test_a_matlab_file_that_ends_its_reader_costs_one_record(record):
    path = record(suffix=".mat")
    file = path.with_suffix(".mat")
    write_mat(path, {"val": NOISE.T})
    good = file.read_bytes()
    at = good.index((12_000).to_bytes(4, "little"))
    file.write_bytes(good[: at - 4] + b"\x08\0\0\0" + good[at:])  # there is no type 8
    for _ in range(2):
        refused(path, "the program that reads it died")
    # Cells of shape 1 x 1 in one another: a tag each, flags, shape and no name.
    cell = struct.pack("<10I", 6, 8, 1, 0, 5, 8, 1, 1, 1, 0)
    deep = b"".join(struct.pack("<2I", 14, 48 * level - 8) + cell for level in range(5000, 0, -1))
    file.write_bytes(good[:128] + deep)
    refused(path, "the matrix is absent")
    file.write_bytes(good[:9000])
    refused(path, "it cannot be read")
    file.write_bytes(good)
    same(values_of(path), NOISE)


def test_a_matlab_file_that_claims_more_than_it_can_hold_is_refused(record):
    path = record(suffix=".mat")
    with h5py.File(path.with_suffix(".mat"), "w") as file:
        file.create_dataset("val", (60_000_000, 12), "f4", chunks=(1000, 12))
    assert path.with_suffix(".mat").stat().st_size < 5000
    refused(path, "bytes cannot hold 12 x 60000000 samples")
    write_mat(path, {"val": np.zeros((12, 400_000), "i1")}, do_compression=True)
    refused(path, "bytes cannot hold 12 x 400000 samples")


def test_a_damaged_hdf5_file_ends_no_program(tmp_path):
    """One byte of its structure is another: what the check lets through can be read here."""
    path, rng = tmp_path / "a.hdf5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_dataset("good", data=NOISE[None], chunks=(1, *NOISE.shape), compression=4)
    with pytest.raises(ValueError, match="cannot be read"):
        layouts.open_tensor(path, "no", 100.0, records.LEADS)
    whole, refused_ = path.read_bytes(), 0
    for place in rng.integers(0, 2500, 60):
        damaged = bytearray(whole)
        damaged[place % len(whole)] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            layouts.open_tensor(path, "good", 100.0, records.LEADS)
        except ValueError:
            refused_ += 1
    assert 0 < refused_ < 60


@pytest.mark.parametrize(("number", "kind"), [("80", np.uint8), ("160", np.uint16)])
@pytest.mark.parametrize("level", ["4", "5"])
def test_matlab_files_in_offset_binary(record, number, kind, level):
    path = edit(record(suffix=".mat"), "16+24", f"{number}+24")
    signals = NOISE // 20
    values = (signals.astype(int) - records.missing_value(number)).astype(kind).T
    write_mat(path, {"a": NOISE.T, "val": values}, level)
    header = read_header(path)
    same(read_digital(header), signals)
    if level == "4":
        write_mat(path, {"val": values}, level)
        same(read_digital(header), reference(path))
    write_mat(path, {"val": signals.T}, level)
    refused(path, f"says format {number}, the matrix holds int16")


def test_an_array_under_the_name_of_samples_is_refused(tmp_path, record):
    path = record()
    for level, name, kind in product("45", ("val", "ecg"), ("i2", "i4", "f8")):
        write_mat(path, {name: NOISE.T.astype(kind)}, level)
        (tmp_path / "R0001.mat").rename(tmp_path / "R0001.dat")
        refused(path, "it is a MATLAB file, and the header says")
    np.save(packed := BytesIO(), NOISE)
    starts = {"a NumPy": packed.getvalue(), "an EDF": b"0".ljust(256), "a text": b"12, -7\r\n" * 9}
    starts |= {"a WAV": b"RIFF", "a zip": b"PK\3\4", "a gzip": b"\x1f\x8b\x08"}
    for kind, start in starts.items():
        (tmp_path / "R0001.dat").write_bytes(start + NOISE.tobytes())
        refused(path, f"it is {kind} file, and the header says")


@pytest.mark.parametrize(
    ("format_", "samples", "reason"),
    [
        ("16", 10**18, f"truncated, 500 of {10**18} samples"),
        ("99", 500, "wfdb cannot read it"),
        ("212", 2 * 10**10, "truncated, 666 of"),
        ("212x9", 500, "truncated, 74 of"),
        ("516", 2 * 10**10, "are too few for"),
        ("16:200000000", 500, "a skew is longer than the record"),
        ("16x0", 500, "corrupt format"),
        (f"16+{'9' * 400}", 500, "corrupt format"),
    ],
)
def test_sizes_that_lie_are_refused_before_memory_is_taken(record, format_, samples, reason):
    path = edit(record(), ".dat 16 ", f".dat {format_} ")
    refused(edit(path, " 500\n", f" {samples}\n", 1), reason)


@pytest.mark.parametrize("name", ["R0001.dat", "R0001.hea"])
def test_what_is_no_file_is_refused(tmp_path, record, name):
    path = record()
    as_fifo(tmp_path / name)
    refused(path, r"cannot be read \(not a regular file")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    refused(path, r"cannot be read \(Is a directory")


def test_usual_names_of_leads():
    for names in (
        "Lead I,Lead II,Lead III,Lead aVR,Lead aVL,Lead aVF,V1,V2,V3,V4,V5,V6",
        "DI,DII,DIII,aVR,aVL,aVF,C1,C2,C3,C4,C5,C6",
        "L1,L2,L3,aV R,aV L,aV F,V 1,V 2,V 3,V 4,V 5,V 6",
        "i,ii,MDC_ECG_LEAD_III,lead-aVR,AVL,avf,ECG V1,ecg_v2,ECG LEAD V3,Lead_V4,v5,V6",
    ):
        assert lead_order(tuple(names.split(","))) == tuple(range(12))


@pytest.mark.parametrize("name", ["-aVR", "- aVR", "Lead -aVR", "\u2212aVR", "MDC_ECG_LEAD -AVR"])
def test_a_lead_upside_down_is_turned(record, name):
    leads = [name if lead == "aVR" else lead for lead in LEADS]
    same(values_of(record(leads=leads)), NOISE * np.where(np.array(LEADS) == "aVR", -1, 1))


def test_eight_leads_give_the_other_four(record):
    limb = NOISE[:, :2] * 2
    signals = np.column_stack([NOISE[:, 6:], limb[:, ::-1]])
    leads = ["V1", "V2", "V3", "V4", "V5", "V6", "-II", "I"]
    signals[7, 7] = -32768
    values = values_of(record(signals=signals, leads=leads))
    one, two = limb[:, 0].astype(float), -limb[:, 1].astype(float)
    one[7] = np.nan
    expected = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    same(values.T, [*expected, *NOISE[:, 6:].T])
    scored = record("Z", signals=signals, leads=leads, gain="1000/NU")
    refused(scored, "cannot be computed from z-scored")


@pytest.mark.parametrize(
    ("gain", "microvolts_a_unit", "baseline"),
    [
        *((g, 1.0, 0) for g in ("1000/mV", "1000.0(0)/mV", "1e6/V", "1e6/v", "1/uv", "1/UV")),
        *((g, 1.0, 0) for g in ("1000/mVolt", "1000/Millivolts", "1000/NU")),
        *((g, 2.0, 7) for g in ("0.5(7)/\u00b5V", "0.5(7)/\u03bcV")),
        ("-1000/mV", -1.0, 0),
        ("200", 5.0, 0),
        ("200(-100)/mV", 5.0, -100),
        ("4.88e0/uV", 1 / 4.88, 0),
    ],
)
def test_gains_baselines_and_units(record, gain, microvolts_a_unit, baseline):
    path = record(gain=[gain, *["1000/mV"] * 11])
    expected = (NOISE[:, 0].astype(float) - baseline) * microvolts_a_unit
    np.testing.assert_allclose(values_of(path)[:, 0], expected, rtol=1e-12)
    same(values_of(path)[:, 1:], NOISE[:, 1:])
    edit(path, "1000/mV 16 0", "1000/mV 16 512")  # the ADC zero, where there is no baseline
    same(values_of(path)[:, 1:], NOISE[:, 1:] - 512.0)


def test_a_header_in_latin_1_with_line_marks_in_its_comments(record):
    comments = ("history\x85Dx: 1", "\x1cAF: 0", "more\u2028Sex: F".encode().decode("latin-1"))
    path = record(gain="0.5/\u00b5V", comments=comments)
    path.write_bytes(path.read_text("utf-8").encode("latin-1"))
    same(values_of(path), 2.0 * NOISE)
    header = read_header(path)
    assert len(header.comments) == 4
    assert records.facts(header)["sex"] == ""
    path.write_text(path.read_bytes().decode("latin-1").replace("more", "more\u2028"), "utf-8")
    assert len(read_header(path).comments) == 4


def test_header_fields_and_comments_wherever_they_stand(record):
    path = record(rate=257)
    plain = read_header(path)
    first, *rest = path.read_text().splitlines()
    text = "\r\n".join(["# made by hand", "", f"{first} 12:00:00 01/01/2020", "#note: x", *rest])
    path.write_bytes(text.replace(" 257 ", " 257/1000(0) ").encode())
    header = read_header(path)
    assert (header.sampling_rate, header.samples, header.leads) == (257, 500, LEADS)
    assert header.signals == plain.signals
    assert header.comments[:2] == ("made by hand", "note: x")


@pytest.mark.parametrize(
    ("comments", "found"),
    [
        (("Age: 60", "Sex: Female", "Dx: 1,2"), (60, "female", "1 2", None)),
        (("dx: AF, LBBB", "Dx=B;AF"), (None, "", "AF LBBB B", None)),
        (("<age>: 65 <sex>: F <diagnoses> angina",), (65, "female", "", None)),
        (("Sex: M Age: 60, Patient: 3",), (60, "male", "", None)),
        (("Reason for admission: Angina (2)",), (None, "", "angina-2", None)),
        (("Patient ID: p1",), (None, "", "", "p1")),
        (("patient 12", "patient 12 was seen"), (None, "", "", "12")),
        (("Patient:  J  D ", "Gestational age: 39"), (None, "", "", "J D")),
        (
            (
                "Patients: 3",
                "Patient at rest",
                "Patient age:6",
                "Patient: unknown",
                "Age: 3 months",
            ),
            (None, "", "", None),
        ),
    ],
)
def test_comments_of_many_spellings(comments, found):
    facts = records.facts(Header(Path("R1.hea"), 100, 1, (), (), (), comments))
    age, *others = found
    np.testing.assert_equal(facts["age"], np.nan if age is None else age)
    assert [facts["sex"], facts["codes"], facts.get("patient")] == others


@pytest.mark.parametrize(
    ("age", "years"),
    [(60, 60), (0.5, 0.5), ("60 years old", 60), ("060Y", 60), ("60,5 Jahre", 60.5)]
    + [(">89", 90), (">=90", 90), ("90+", 90), (120, 120)]
    + [(a, np.nan) for a in (300, 999, -1, 1954, "003M", "3 months", "<1", "inf", "n/a", None)],
)
def test_ages(age, years):
    np.testing.assert_equal(records.age_of(age), years)


def test_sexes():
    for sex, words in {
        "male": "m M. male Mann männlich HOMBRE varón homme uomo masculino",
        "female": "F female W weiblich Mujer femme féminin donna",
        "": "missing unknown 0 1 1.0 nan mf wm",
    }.items():
        assert {records.sex_of(word) for word in words.split()} == {sex}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "header is empty"),
        (b"#Age: 1\n\n", "header is empty"),
        (b"\0" * 512, "corrupt first line"),
        (b"R0001 12 500 5000/mV 16", "corrupt first line"),
        (b"R0001", "corrupt first line"),
        (b"R0001 0 500 5000", "0 signals of 5000 samples"),
        (b"R0001 -1 500 5000", "-1 signals"),
        (b"R0001 12 0 5000", "at 0 Hz"),
        (b"R0001 12 nan 5000", "at nan Hz"),
        (b"R0001 12 inf 5000", "at inf Hz"),
        (b"R0001 12 500 -1", "of -1 samples"),
        (b"R0001 12 1e308 5000", "at 1e\\+308 Hz"),
        (b"R0001 12 1e-320 5000", "at 9.99989e-321 Hz"),
        (b"R0001 12 " + b"9" * 400 + b" 5000", "at inf Hz"),
        (b"R0001 12 500 " + b"9" * 400, "12 signals of 9999"),
        (b"R0001 12 500 " + b"9" * 9000, "corrupt first line"),
        (b"R0001 100000 500 5000", "100000 signals"),
        (b"R0001 1 500 5000\na.dat 16 " + b"1(" + b"9" * 400 + b") 0 0 0 0 0 I", "corrupt gain"),
        (b"R0001 1 500 5000" + b"\nR0001.dat 16 1 0 0 0 0 0 I" * 2, "says 1 signals and has 2"),
        (b"R0001 1 500 5000\n" + b"#\n" * 2**19, "header of more than"),
        (b"R0001 12 500 5000", "ends before its 12 signal lines"),
        (b"R0001 1 500 5000\nR0001.dat 16", "corrupt signal line"),
        (b"R0001 1 500 5000\nR0001.dat 16 abc/mV 16 0 0 0 0 I", "corrupt gain"),
        (b"R0001 1 500 5000\nR0001.dat 16 1e/mV 16 0 0 0 0 I", "corrupt gain"),
        (b"R0001/2 12 500 5000\nR1 2500\nR2 2500", "several segments"),
    ],
)
def test_a_corrupt_header_is_refused_with_its_reason(tmp_path, text, reason):
    (tmp_path / "R0001.hea").write_bytes(text)
    refused(tmp_path / "R0001.hea", reason)


@pytest.mark.parametrize(
    "name", ["../no.dat", "/etc/passwd", "sub/a.dat", "..", "a\\b.dat", "a\0b"]
)
@pytest.mark.parametrize("lines", [1, 12])
def test_a_file_outside_the_folder_is_refused(tmp_path, name, lines):
    path = write_record(tmp_path / "in", signals=NOISE)
    (tmp_path / "secret.dat").write_bytes(NOISE.tobytes())
    refused(edit(path, "R0001.dat", name, lines), "outside its folder")


@pytest.mark.parametrize("suffix", [".dat", ".mat"])
def test_a_file_that_is_truncated_or_missing_is_refused(tmp_path, record, suffix):
    path = record(suffix=suffix)
    file = path.with_suffix(suffix)
    whole = file.read_bytes()
    for cut, left in {1: 499, 24 * 400: 100, 24 * 500: 0}.items():
        file.write_bytes(whole[:-cut])
        refused(path, rf"R0001{suffix}: truncated, {left} of 500 samples")
    file.unlink()
    refused(path, rf"^signal file R0001{suffix} is missing$")
    refused(edit(path, f"{suffix} 16", f"{suffix} 212"), rf"^signal file R0001{suffix} is missing$")
    refused(tmp_path / "none.hea", r"header cannot be read \(No such file")


@pytest.mark.parametrize(
    ("leads", "gain", "reason"),
    [
        (LEADS[:8], "", "8 signals, lead V3, V4, V5, V6 missing among I, II, III, aVR, aVL, aVF"),
        ((*LEADS[:11], "Lead - V6"), "", "lead V6 missing among .*, Lead - V6"),
        ((*LEADS[:11], "V7"), "", "lead V6 missing"),
        ((*LEADS[:11], "v5"), "", "lead V5 stands 2 times"),
        (("MLII", "V5"), "", "2 signals, lead I, II, III"),
        (LEADS, "0/mV", "lead aVR has a gain of 0"),
        (LEADS, "1e-320/mV", "lead aVR has a gain"),
        (LEADS, "1/mmHg", "lead aVR is in an unknown unit: mmHg"),
    ],
)
def test_wrong_leads_and_leads_without_a_scale_are_refused(record, leads, gain, reason):
    gains = [gain or "1000/mV" if lead == "aVR" else "1000/mV" for lead in leads]
    refused(record(signals=NOISE[:, : len(leads)], leads=leads, gain=gains), reason)
