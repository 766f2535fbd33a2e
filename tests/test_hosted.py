"""Setting up a hosted notebook, with stand-ins for what is only there."""

import sys
import types
from pathlib import Path

import pytest

from ecgnb.data.catalog import card
from ecgnb.errors import UserError
from ecgnb.report import hosted
from ecgnb.study.declare import load_study
from ecgnb.study.plan import inventory, open_progress


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """A stand-in for Google Colab; what was mounted or fetched."""
    happened: list = []
    drive = types.ModuleType("google.colab.drive")
    drive.mount = happened.append
    package = types.ModuleType("google.colab")
    package.drive = drive
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    monkeypatch.setattr(hosted, "is_hosted", lambda: True)
    monkeypatch.setattr(hosted, "_KEPT", tmp_path / "drive" / "runs")
    monkeypatch.setattr(hosted, "fetch", happened.append)
    monkeypatch.setenv("ECGNB_DATA", str(tmp_path / "ecg"))
    return happened


def test_nothing_happens_elsewhere(capsys, monkeypatch):
    monkeypatch.delenv("ECGNB_DATA", raising=False)
    hosted.set_up("demo", drive=True)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_it_says_how_long_a_study_takes(colab, capsys):
    hosted.set_up("demo")
    printed = capsys.readouterr().out
    assert "Computing on " in printed
    assert "set drive = True" in printed
    study = load_study("demo")
    every = len(inventory(study, open_progress(study).score))
    assert f"{every} runs are to be trained, about " in printed
    assert colab == []


def test_the_chapter_on_the_data_trains_nothing(colab, capsys):
    hosted.set_up("demo", trains=False)
    printed = capsys.readouterr().out
    assert "trains nothing" in printed
    assert "to be trained" not in printed


def test_a_recorded_study_is_read(colab, capsys):
    hosted.set_up("clinical")
    assert "its runs are read" in capsys.readouterr().out
    assert colab == []


def test_what_is_missing_is_fetched(colab, monkeypatch):
    monkeypatch.setattr(hosted, "_say_how_long", lambda study: None)
    hosted.set_up("nguyen2025")
    assert colab == [name for name in load_study("nguyen2025").datasets if card(name).homes]


def test_runs_are_kept_on_drive(colab, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(hosted, "_say_how_long", lambda study: None)
    for _ in range(2):  # a notebook may be run again
        hosted.set_up("demo", drive=True)
    assert colab == [str(hosted._DRIVE)] * 2
    (cache / "runs" / "a").write_text("kept")
    assert (tmp_path / "drive" / "runs" / "a").read_text() == "kept"


def test_runs_that_were_there_before_go_to_drive(colab, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hosted, "_say_how_long", lambda study: None)
    drive = tmp_path / "drive" / "runs"
    for folder, name in ((cache / "runs" / "ab", "new"), (drive / "cd", "old")):
        folder.mkdir(parents=True)
        (folder / f"{name}.npz").write_text(name)
    hosted.set_up("demo")
    assert "Runs are lost" in capsys.readouterr().out
    hosted.set_up("demo", drive=True)
    assert "Finished runs are kept in" in capsys.readouterr().out
    assert (cache / "runs").resolve() == drive
    assert {path.read_text() for path in drive.rglob("*.npz")} == {"new", "old"}
    hosted.set_up("demo")  # the link is still there
    assert "Finished runs are kept in" in capsys.readouterr().out


def test_unknown_study(colab):
    with pytest.raises(UserError, match="unknown study"):
        hosted.set_up("demon")
