"""Label sets: what native codes mean, and the counts the literature gives."""

import ast
import os
import re
from pathlib import Path

import pandas as pd
import pytest

from ecgnb.data import labels
from ecgnb.data.labels import (
    LABEL_SETS,
    VOCABULARIES,
    default_label_set,
    encode,
    full_name,
    label_set,
    split_codes,
    unknown_codes,
)
from ecgnb.errors import UserError


def positives(codes: str, vocabulary: str, name: str) -> set[str]:
    """Classes of one record."""
    row = encode(pd.Series([codes]), vocabulary, name).iloc[0]
    return set(row.index[row])


def test_likelihood_zero_is_no_superclass_but_a_statement():
    codes = "NDT:0 IMI:50 SR:0"
    assert positives(codes, "scp", "ptb-xl-super") == {"MI"}
    assert positives(codes, "scp", "scp-all") == {"NDT", "IMI", "SR"}


def test_form_and_rhythm_statements_are_no_superclass():
    assert positives("AFIB:100 PVC:100", "scp", "ptb-xl-super") == set()


def test_axis_is_no_statement_but_a_challenge_class():
    assert positives("NORM:100 AXIS-LAD", "scp", "scp-all") == {"NORM"}
    assert positives("NORM:100 AXIS-LAD", "scp", "challenge-2021") == {"NSR", "LAD"}


@pytest.mark.parametrize(
    ("codes", "label"),
    [
        (("713427006", "59118001"), "RBBB"),
        (("733534002", "164909002"), "LBBB"),
        (("284470004", "63593006"), "PAC"),
        (("427172004", "17338001", "164884008"), "PVC"),
    ],
)
def test_equivalent_codes_are_one_challenge_class(codes, label):
    for code in codes:
        assert positives(code, "snomed", "challenge-2021") == {label}


def test_escape_beat_is_no_premature_beat():
    assert positives("75532003", "snomed", "challenge-2021") == set()


@pytest.mark.parametrize(
    ("name", "snomed", "scp"),
    [
        ("AF", "164889003", "AFIB:0"),
        ("I-AVB", "270492004", "1AVB:100"),
        ("LBBB", "164909002", "CLBBB:100"),
        ("RBBB", "59118001", "CRBBB:100"),
        ("PAC", "284470004", "PAC:0"),
        ("PVC", "164884008", "PVC:0"),
        ("Normal", "426783006", "SR:0"),
    ],
)
def test_one_diagnosis_in_three_vocabularies_is_one_class(name, snomed, scp):
    same = positives(snomed, "snomed", "challenge-2021")
    assert len(same) == 1
    assert positives(name, "cpsc", "challenge-2021") == same
    assert positives(scp, "scp", "challenge-2021") == same


def test_cpsc_names_and_cpsc_snomed_codes_agree():
    for name, code in labels._TABLES["to-snomed"]["cpsc"].items():
        from_name = positives(name, "cpsc", "cpsc-9")
        assert len(from_name) == 1
        assert positives(code, "cpsc", "cpsc-9") == positives(code, "snomed", "cpsc-9") == from_name


def test_brugada_confirmed_or_atypical_is_yes():
    codes = pd.Series(["brugada:0 basal_pattern:1", "brugada:1 sudden_death:0", "brugada:2"])
    assert encode(codes, "brugada", "brugada")["BRUGADA"].tolist() == [False, True, True]


def test_index_and_empty_records_are_kept():
    codes = pd.Series(["164889003", None, ""], index=["c", "a", "a"])
    encoded = encode(codes, "snomed", "challenge-2021")
    assert encoded.index.tolist() == ["c", "a", "a"]
    assert encoded["AF"].tolist() == [True, False, False]
    assert encoded.dtypes.eq("bool").all()
    assert tuple(encoded.columns) == label_set("challenge-2021").classes
    assert encode(codes[:0], "snomed", "challenge-2021").shape == (0, 26)


def test_min_positives_drops_only_classes_found_in_the_data():
    codes = pd.Series(["164889003 164889003", "164889003 426177001", "427084000"])
    assert list(encode(codes, "snomed", "snomed-all")) == ["AF", "SB", "STach"]
    assert list(encode(codes, "snomed", "snomed-all", min_positives=2)) == ["AF"]
    assert encode(codes, "snomed", "challenge-2021", min_positives=2).shape == (3, 26)


def test_unknown_codes_are_counted_by_record_and_kept_as_numbers():
    codes = pd.Series(["123 123 55827005", "123 9", "164889003"])
    assert unknown_codes(codes, "snomed") == {"123": 2, "9": 1}
    assert positives("123 55827005", "snomed", "snomed-all") == {"123", "LVHV"}
    assert unknown_codes(pd.Series(["NORM:100 AXIS-RAD FOO:0"]), "scp") == {"FOO": 1}
    assert unknown_codes(pd.Series(["AF", "Afib"]), "cpsc") == {"Afib": 1}


def test_mistakes_are_refused_with_the_fix():
    codes = pd.Series(["NORM:100"])
    with pytest.raises(UserError, match="did you mean 'cpsc-9'"):
        encode(codes, "scp", "cpsc9")
    with pytest.raises(UserError, match=r"'brugada' is read from brugada codes.*use ptb-xl-super"):
        encode(codes, "scp", "brugada")
    with pytest.raises(UserError, match="no label set reads"):
        encode(codes, "text", "cpsc-9")
    with pytest.raises(UserError, match="choose one of scp"):
        unknown_codes(codes, "icd")
    with pytest.raises(UserError, match="'NORM:x' of record r2 has no number"):
        encode(pd.Series(["SR", "SR NORM:x"], ["r1", "r2"]), "scp", "scp-all")


def test_codes_of_a_record_are_split_at_what_separates_them():
    assert split_codes(" AF, LBBB;NORM:100 |LAO/LAE\tSR:0.5,") == [
        *("AF", "LBBB", "NORM:100", "LAO/LAE", "SR:0.5")
    ]
    assert split_codes(" , ") == []
    for code in ("AF:", "X:x", ":5", "a:1:2", "SR:nan", "http://example.org/164889003"):
        with pytest.raises(ValueError, match=re.escape(f"'{code}' has no number after its colon")):
            split_codes(f"AF {code}")


@pytest.mark.parametrize("name", LABEL_SETS)
def test_every_label_set_is_whole(name):
    chosen = label_set(name)
    assert chosen.vocabularies
    assert set(chosen.vocabularies) <= set(VOCABULARIES)
    for label, codes in chosen.members.items():
        assert full_name(label) != label, f"{label} has no full name"
        assert not unknown_codes(pd.Series([" ".join(codes)]), chosen.codes)
    if chosen.classes:
        every = [code for codes in chosen.members.values() for code in codes]
        assert len(every) == len(set(every)), "a code makes two classes"
        for vocabulary in set(chosen.vocabularies) & labels._KNOWN.keys():
            known = pd.Series([f"{code}:1" for code in sorted(labels._KNOWN[vocabulary])])
            assert encode(known, vocabulary, name).any(axis=None), f"{vocabulary} gives no class"


def test_no_name_means_two_things():
    tables = labels._TABLES
    meanings = [*tables["scp"].items(), *tables["class-names"].items()]
    meanings += [tuple(pair) for pair in tables["snomed"].values()]
    for short, full in meanings:
        assert full_name(short) == full
    assert full_name("164889003") == full_name("AF") == "atrial fibrillation"
    assert full_name("nothing") == "nothing"


def test_translations_lead_to_known_codes():
    for table in labels._TABLES["to-snomed"].values():
        assert not unknown_codes(pd.Series(list(table.values())), "snomed")
    assert set(labels._TABLES["to-snomed"]["scp"]) <= labels._KNOWN["scp"]


@pytest.fixture(scope="module")
def ptb_xl() -> pd.Series:
    """The native codes of the whole table of PTB-XL, release 1.0.1."""
    path = Path(os.environ.get("ECGNB_DATA", "")) / "ptb-xl" / "ptbxl_database.csv"
    if not os.environ.get("ECGNB_DATA") or not path.is_file():
        pytest.skip("ECGNB_DATA has no ptb-xl/ptbxl_database.csv")
    table = pd.read_csv(path)
    if len(table) != 21_837:
        pytest.skip("the counts are those of PTB-XL 1.0.1")
    axis = {"LAD": " AXIS-LAD", "ALAD": " AXIS-LAD", "RAD": " AXIS-RAD", "ARAD": " AXIS-RAD"}
    statements = table["scp_codes"].map(
        lambda text: " ".join(f"{k}:{int(v)}" for k, v in ast.literal_eval(text).items())
    )
    return statements + table["heart_axis"].map(axis).fillna("")


def test_ptb_xl_superclass_counts(ptb_xl):
    counts = encode(ptb_xl, "scp", "ptb-xl-super").sum().to_dict()
    assert counts == {"NORM": 9528, "MI": 5486, "STTC": 5123, "HYP": 2655, "CD": 4907}
    assert unknown_codes(ptb_xl, "scp") == {}
    assert encode(ptb_xl, "scp", "scp-all").shape[1] == 71


def test_ptb_xl_counts_are_those_of_the_challenge(ptb_xl):
    counts = encode(ptb_xl, "scp", "challenge-2021").sum().to_dict()
    published = {  # the column PTB_XL of the Challenge's table of scored diagnoses
        "AF": 1514, "AFL": 73, "BBB": 0, "Brady": 0, "LBBB": 536, "RBBB": 542, "IAVB": 797,
        "IRBBB": 1118, "LAD": 5146, "LAnFB": 1626, "LPR": 340, "LQRSV": 182, "LQT": 118,
        "NSIVCB": 789, "NSR": 18092, "PR": 296, "PRWP": 0, "QAb": 548, "RAD": 343, "SA": 772,
        "SB": 637, "STach": 826, "TAb": 2345, "TInv": 294,
    }  # fmt: skip
    assert {label: counts[label] for label in published} == published
    assert counts["PAC"] == 398 + 157  # PAC and SVPB, scored as one; no record has both
    assert counts["PVC"] == 1146  # ours: the Challenge scores no PVC on PTB-XL


def test_codes_of_ones_own_are_read_by_their_names():
    codes = pd.Series(["AF mine", "", "RBBB AF"])
    common = encode(codes, "own", "challenge-2021")
    assert common["AF"].tolist() == [True, False, True]
    assert common.sum().sum() == 3
    assert list(encode(codes, "own", default_label_set("own"))) == ["AF", "RBBB", "mine"]
    assert default_label_set("snomed") == "snomed-all"
    assert default_label_set("brugada") == "brugada"
    with pytest.raises(UserError, match="No label set reads the vocabulary 'text'"):
        default_label_set("text")
