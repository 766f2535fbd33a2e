"""Label sets: what native codes mean, and the counts the literature gives."""

import ast
import re

import pandas as pd
import pytest
from conftest import mistake

from ecgnb.data import labels
from ecgnb.data.catalog import data_root
from ecgnb.data.labels import LABEL_SETS, VOCABULARIES, encode, full_name, label_set, unknown_codes


def positives(codes: str, vocabulary: str, name: str) -> set[str]:
    row = encode(pd.Series([codes]), vocabulary, name).iloc[0]
    return set(row.index[row])


@pytest.mark.parametrize(
    ("codes", "vocabulary", "name", "classes"),
    [
        # A statement of likelihood 0 is no superclass, nor are form and rhythm.
        ("NDT:0 IMI:50 SR:0", "scp", "ptb-xl-super", {"MI"}),
        ("NDT:0 IMI:50 SR:0", "scp", "scp-all", {"NDT", "IMI", "SR"}),
        ("AFIB:100 PVC:100", "scp", "ptb-xl-super", set()),
        # An axis is no statement but a class of the Challenge.
        ("NORM:100 AXIS-LAD", "scp", "scp-all", {"NORM"}),
        ("NORM:100 AXIS-LAD", "scp", "challenge-2021", {"NSR", "LAD"}),
        # An escape beat is no premature beat.
        ("75532003", "snomed", "challenge-2021", set()),
        # Codes scored as one class.
        *((code, "snomed", "challenge-2021", {"RBBB"}) for code in ("713427006", "59118001")),
        *((code, "snomed", "challenge-2021", {"LBBB"}) for code in ("733534002", "164909002")),
        *((code, "snomed", "challenge-2021", {"PAC"}) for code in ("284470004", "63593006")),
        *((code, "snomed", "challenge-2021", {"PVC"}) for code in ("427172004", "17338001")),
        ("164884008", "snomed", "challenge-2021", {"PVC"}),
        ("164865005 164889003", "ptb", "ptb-2", {"MI"}),  # of the Challenge's copy
        # Confirmed or atypical is yes.
        ("brugada:0 basal_pattern:1", "brugada", "brugada", set()),
        ("brugada:1 sudden_death:0", "brugada", "brugada", {"BRUGADA"}),
        ("brugada:2", "brugada", "brugada", {"BRUGADA"}),
    ],
)
def test_codes_make_classes(codes, vocabulary, name, classes):
    assert positives(codes, vocabulary, name) == classes


def test_one_diagnosis_in_three_vocabularies_is_one_class():
    snomed = labels._TABLES["to-snomed"]["cpsc"]
    scp = {"AF": "AFIB:0", "I-AVB": "1AVB:100", "LBBB": "CLBBB:100", "RBBB": "CRBBB:100"}
    scp |= {"PAC": "PAC:0", "PVC": "PVC:0", "Normal": "SR:0"}
    for name, code in snomed.items():
        (same,) = positives(name, "cpsc", "cpsc-9")
        assert positives(code, "cpsc", "cpsc-9") == positives(code, "snomed", "cpsc-9") == {same}
    for name, statement in scp.items():
        (same,) = positives(snomed[name], "snomed", "challenge-2021")
        assert positives(name, "cpsc", "challenge-2021") == {same}
        assert positives(statement, "scp", "challenge-2021") == {same}


def test_index_and_empty_records_are_kept():
    codes = pd.Series(["164889003", None, ""], index=["c", "a", "a"])
    encoded = encode(codes, "snomed", "challenge-2021")
    assert encoded.index.tolist() == ["c", "a", "a"]
    assert encoded["AF"].tolist() == [True, False, False]
    assert encoded.dtypes.eq("bool").all()
    assert tuple(encoded.columns) == label_set("challenge-2021").classes
    assert encode(codes[:0], "snomed", "challenge-2021").shape == (0, 26)


def test_unknown_codes_are_counted_and_kept_as_numbers_and_rare_ones_dropped():
    codes = pd.Series(["123 123 55827005", "123 9", "164889003"])
    assert unknown_codes(codes, "snomed") == {"123": 2, "9": 1}
    assert list(encode(codes, "snomed", "snomed-all")) == ["123", "9", "AF", "LVHV"]
    assert list(encode(codes, "snomed", "snomed-all", min_positives=2)) == ["123"]
    assert encode(codes, "snomed", "challenge-2021", min_positives=2).shape == (3, 26)
    assert unknown_codes(pd.Series(["NORM:100 AXIS-RAD FOO:0"]), "scp") == {"FOO": 1}
    assert unknown_codes(pd.Series(["AF", "Afib"]), "cpsc") == {"Afib": 1}


@pytest.mark.parametrize(
    ("vocabulary", "name", "sentence"),
    [
        ("scp", "cpsc9", "did you mean 'cpsc-9'"),
        ("scp", "brugada", r"'brugada' is read from brugada codes.*use ptb-xl-super"),
        ("text", "cpsc-9", "no label set reads"),
        ("scp", "scp-all", "'NORM:x' of record r2 has no number"),
    ],
)
def test_mistakes_are_refused_with_the_fix(vocabulary, name, sentence):
    codes = pd.Series(["SR", "SR NORM:x"], ["r1", "r2"])
    mistake(sentence, encode, codes, vocabulary, name)


def test_codes_of_a_record_are_split_at_what_separates_them():
    assert labels.split_codes(" AF, LBBB;['NORM:100'] |LAO/LAE\t\"SR:0.5\",") == [
        *("AF", "LBBB", "NORM:100", "LAO/LAE", "SR:0.5")
    ]
    assert labels.split_codes(" , []") == []
    for code in ("AF:", "X:x", ":5", "a:1:2", "SR:nan", "http://example.org/164889003"):
        with pytest.raises(ValueError, match=re.escape(f"'{code}' has no number after its colon")):
            labels.split_codes(f"AF {code}")


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


def test_no_name_means_two_things_and_translations_lead_to_known_codes():
    tables = labels._TABLES
    meanings = [*tables["scp"].items(), *tables["class-names"].items()]
    meanings += [tuple(pair) for pair in tables["snomed"].values()]
    for short, full in meanings:
        assert full_name(short) == full
    assert full_name("164889003") == full_name("AF") == "atrial fibrillation"
    assert full_name("nothing") == "nothing"
    for table in tables["to-snomed"].values():
        assert not unknown_codes(pd.Series(list(table.values())), "snomed")
    assert set(tables["to-snomed"]["scp"]) <= labels._KNOWN["scp"]


@pytest.mark.data
def test_ptb_xl_counts_are_those_of_its_paper_and_of_the_challenge():
    path = data_root() / "ptb-xl" / "ptbxl_database.csv"
    table = pd.read_csv(path) if path.is_file() else ()
    if len(table) != 21_837:
        pytest.skip("ECGNB_DATA has no table of PTB-XL 1.0.1, whose counts these are")
    axis = {"LAD": " AXIS-LAD", "ALAD": " AXIS-LAD", "RAD": " AXIS-RAD", "ARAD": " AXIS-RAD"}
    statements = table["scp_codes"].map(
        lambda text: " ".join(f"{k}:{int(v)}" for k, v in ast.literal_eval(text).items())
    )
    codes = statements + table["heart_axis"].map(axis).fillna("")
    counts = encode(codes, "scp", "ptb-xl-super").sum().to_dict()
    assert counts == {"NORM": 9528, "MI": 5486, "STTC": 5123, "HYP": 2655, "CD": 4907}
    assert unknown_codes(codes, "scp") == {}
    assert encode(codes, "scp", "scp-all").shape[1] == 71
    counts = encode(codes, "scp", "challenge-2021").sum().to_dict()
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
    assert list(encode(codes, "own", labels.default_label_set("own"))) == ["AF", "RBBB", "mine"]
    assert labels.default_label_set("snomed") == "snomed-all"
    assert labels.default_label_set("brugada") == "brugada"
    mistake("No label set reads the vocabulary 'text'", labels.default_label_set, "text")
