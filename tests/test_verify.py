"""Recorded runs, trained again."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import mistake
from tiny import tiny
from typer.testing import CliRunner

from ecgnb.cli import app
from ecgnb.data.catalog import cache_root
from ecgnb.report import notebook
from ecgnb.study import verify as room
from ecgnb.study.plan import record_runs, write_part
from ecgnb.study.store import read_part, write_table
from ecgnb.study.verify import verify

pytestmark = pytest.mark.usefixtures("lent")  # a cache that knows nothing of the recorded runs


@pytest.fixture(scope="module")
def trained(ran, tmp_path_factory):
    """A study whose runs are recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_RESULTS", str(tmp_path_factory.mktemp("results")))
        patch.setenv("ECGNB_CACHE", str(ran[0]))
        record_runs(study := tiny(recorded=True))
        yield study


def test_runs_come_out_as_recorded_on_the_same_machine(trained):
    checks = list(verify(trained, sample=4, seed=1))  # which draws one of each arm
    assert all(check.same_machine and check.identical and check.passed for check in checks)
    assert sorted(check.recorded.spec.arm for check in checks) == sorted(trained.pairs[0].arms)
    left = {path.name[:4] for path in cache_root().iterdir()}
    assert not left & {".ver", "runs"}


def test_what_differs_is_seen(trained, monkeypatch):
    monkeypatch.setattr(room, "describe_device", lambda device: "another processor")
    check = next(verify(trained, sample=1))
    assert not check.same_machine
    predictions = check.again.predictions.copy()
    predictions[0, 0] += np.float16(0.01)
    other = replace(check.again, predictions=predictions)
    assert replace(check, again=other).passed
    assert not replace(check, again=other, same_machine=True).passed
    far = replace(other, facts={**other.facts, "auroc": other.facts["auroc"] - 0.2})
    assert not replace(check, again=far).passed


def test_nothing_recorded_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("ECGNB_RESULTS", str(tmp_path))
    mistake("study tiny has no recorded runs", list, verify(tiny(recorded=True), 1))


def test_runs_of_another_declaration_are_not_passed_over(trained):
    other = replace(trained, batch_size=9)
    mistake(r"none of the 36 recorded runs belongs to study tiny", list, verify(other, sample=1))


def test_a_cache_that_cannot_be_written_is_one_sentence(trained, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "file" / "cache"))
    mistake(r"cannot write to .*Not a directory.*ECGNB_CACHE", list, verify(trained, sample=1))


def test_runs_of_others_are_written_verified_and_shown(trained, tmp_path, monkeypatch):
    part = write_part(trained, tmp_path / "contributed" / trained.name, "Elsewhere")
    (check,) = verify(trained, 1, part=part.parent)
    assert check.identical
    mistake("there is no part in", list, verify(trained, 1, part=part.parent / "none"))
    assert check.recorded.facts["origin"] == "Elsewhere"
    facts, runs = read_part(part)
    for run in runs:
        run.facts.update(precision="tf32", device="a GPU")
    write_table(runs, tmp_path / "gpu.parquet", facts)
    (check,) = verify(trained, 1, part=tmp_path / "gpu.parquet")
    assert check.passed
    assert check.again.facts["precision"] == "float32"
    other = replace(trained, data=replace(trained.data, rate=40.0))
    mistake("other records of sim-", list, verify(other, 1, part=part))
    monkeypatch.setenv("ECGNB_RESULTS", str(tmp_path))
    assert {run.facts["origin"] for run in notebook.contributed(trained)} == {"Elsewhere"}
    part.write_bytes(part.read_bytes()[:-8])
    mistake("are damaged", list, verify(trained, 1, part=part))
    assert "--origin" in str(CliRunner().invoke(app, ["run", "demo", "--part", "x"]).exception)
