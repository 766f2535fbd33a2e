"""The catalog: every card is complete, a user's card is checked, folders are found."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import mistake

from ecgnb.data.catalog import CATALOG, cache_root, card, data_root, find, load_card, own_cards
from ecgnb.data.homes import kind
from ecgnb.data.labels import VOCABULARIES

REFERENCES = Path(__file__).parents[1] / "book" / "references.bib"

OWN_CARD = """
[my-hospital]
title = "My hospital"
records = 3
sampling_rates = [500]
seconds = [10, 10.5]
layout = "challenge"
vocabulary = "snomed"
folders = ["mine"]
patients_known = true
amplitude = "mV"
notes = ""
"""


def put_card(folder: Path, text: str = OWN_CARD, name: str = "card") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(message: str, ask: Callable, *given: object) -> None:
    mistake(message, ask, *given)


@pytest.mark.parametrize("name", CATALOG)
def test_every_card_can_be_used_and_cites_an_entry_of_the_bibliography(name):
    one = card(name)
    assert one.name == name
    assert one.folders
    assert one.licence
    assert one.description.endswith(".")
    assert one.vocabulary in VOCABULARIES
    assert one.version or one.simulated or one.layout in ("code-test", "ptb-xl")
    assert one.sampling_rates
    assert one.notes
    assert one.seconds[0] <= one.seconds[1]
    assert one.patients <= one.records
    assert one.simulated == name.startswith("sim-")
    assert all(home.startswith("https://") and kind(home) for home in one.homes)
    assert not (one.simulated and one.homes)
    keys = re.findall(r"^@\w+\{([^,]+),", REFERENCES.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert one.citation in keys


def test_two_datasets_of_one_download_do_not_overlap():
    first, second = card("chapman-shaoxing"), card("ningbo")
    assert set(first.folders) & set(second.folders)
    assert first.record_range[1] < second.record_range[0]
    assert first.records + second.records == 45_152  # as ecg-arrhythmia 1.0.0 counts them


def test_own_card_is_read_also_with_a_mark_before_it(tmp_path):
    one = load_card(put_card(tmp_path, "\ufeff" + OWN_CARD.replace("[500]", "[100.0, 62.5]")))
    assert (one.name, one.records, one.seconds) == ("my-hospital", 3, (10, 10.5))
    assert str(one.sampling_rates) == "(100, 62.5)"
    assert one.record_range == ()
    assert not one.simulated


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("records = 3", "record = 3", r"'record' is not a key of a card .did you mean 'records'"),
        ('layout = "challenge"', "", "'layout' is missing: add text in quotes"),
        ("records = 3", "records = -1", "'records' must be a whole number, 0 or more"),
        ("My hospital", "My\\u001b[2J", "'title' is .*: write text without control characters"),
        ("[500]", "[true]", "'sampling_rates' must be a list of numbers"),
        ("records = 3", 'records = "3"', "'records' must be a whole number"),
        ("records = 3", "records = true", "'records' must be a whole number"),
        ("patients_known = true", "patients_known = 1", "'patients_known' must be true or false"),
        ('folders = ["mine"]', 'folders = "mine"', "'folders' must be a list of texts"),
        *(
            ('["mine"]', folders, r"'folders' is \[.*\]: write plain names of folders")
            for folders in (
                *("[]", '["COM1"]', '[".."]', '["mine", "/etc"]', '["mine/../.."]'),
                *('["mine//x"]', '[".ssh"]', "['C:\\data']"),
            )
        ),
        ("[500]", "[0]", r"'sampling_rates' is \[0\]: write numbers above 0"),
        ('notes = ""', 'also = ["ptbxl"]', "'also' is 'ptbxl': write one of ptb-xl, "),
        ("seconds = [10, 10.5]", "seconds = [10]", r"'seconds' is \[10\]: write two numbers"),
        ('layout = "challenge"', 'layout = "edf"', r"'layout' is 'edf': write one of ptb-xl"),
        ('amplitude = "mV"', 'amplitude = "uV"', "write one of mV, z-score"),
        ("my-hospital", "MyHospital", "small letters and digits joined by hyphens"),
        ("my-hospital", "ptb-xl", "taken by the catalog"),
        ("[my-hospital]", "", r"must hold one table"),
        ("[my-hospital]", "[my-hospital", "not valid TOML"),
        ("records = 3", f"records = {'9' * 5000}", "not valid TOML"),
        ("records = 3", f"records = {'[' * 5000}", "not valid TOML"),
    ],
)
def test_wrong_card_is_refused_with_the_fix(tmp_path, old, new, message):
    assert old in OWN_CARD
    refused(message, load_card, put_card(tmp_path, OWN_CARD.replace(old, new)))


def test_what_is_no_card_lies_beside_cards_unread(root):
    put_card(root)
    for hidden in (".#mine.toml", "._mine.toml"):
        (root / hidden).write_bytes(b"\0\xff")
    put_card(root, '[project]\nname = "x"\n[tool.ruff]\nselect = []', "pyproject")
    os.mkfifo(root / "pipe.toml")
    (root / "folder.toml").mkdir()
    assert list(own_cards()) == ["my-hospital"]
    refused(r"pipe\.toml: it is no regular file", load_card, root / "pipe.toml")
    refused("Cannot read", load_card, root / "none.toml")
    second = put_card(root, name="second")
    refused(r"'my-hospital' in .*second\.toml is taken", card, "my-hospital")
    second.unlink()
    put_card(root, "[other]\ntitle = 'Other'", "other")
    refused(r"'other' in .* 'layout' is missing: add text in quotes", card, "other")


def test_data_root_and_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("ECGNB_DATA", str(tmp_path))
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path))
    assert data_root() == cache_root() == tmp_path
    monkeypatch.setenv("ECGNB_DATA", str(tmp_path / "none"))
    refused("not a folder", data_root)
    monkeypatch.setattr(os, "listdir", Mock(side_effect=PermissionError(13, "Permission denied")))
    refused(r"may not read: ask its owner for `chmod a\+rX", data_root)
    monkeypatch.delenv("ECGNB_DATA")
    refused("ECGNB_DATA is not set", data_root)
    monkeypatch.delenv("ECGNB_CACHE")
    assert cache_root().name == "ecgnb"
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=KeyError()))
    refused("no home folder here: set ECGNB_CACHE", cache_root)
    monkeypatch.setenv("ECGNB_DATA", "~/ecg")
    refused("'~/ecg', and there is no such home", data_root)


def test_find_prefers_the_folder_of_the_version_and_what_is_joined_has_none(root):
    one = card("ptb-xl")
    found = [find(one, root)]
    for name in ("ptb-xl", "ptb-xl/1.0.3", "mine"):
        (root / name).mkdir()
        found.append(find(one, root))
    assert found == [None, root / "ptb-xl", *[root / "ptb-xl" / "1.0.3"] * 2]
    put_card(root)
    assert find(card("my-hospital+ptb-xl"), root) is None
