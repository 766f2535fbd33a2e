"""The command line and the notebooks, as a user meets them."""

import os
import signal
import subprocess
from pathlib import Path

import pages
import psutil
import pytest
from tiny import begin, wait_for
from typer.testing import CliRunner

from ecgnb import __version__, cli
from ecgnb.analysis.statistics import LEVEL, MARGIN
from ecgnb.study.data import recorded_runs, say_missing
from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress

recorded = pytest.mark.skipif(not recorded_runs(load_study("clinical")), reason="no recorded runs")


def run(*arguments):
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["status", "clinic"], "unknown study 'clinic' (did you mean 'clinical'?); choose one of"),
        (["run", "demo", "--precision", "double"], "choose one of auto, float32, tf32, bf16"),
        (["run", "demo", "--precision", "tf32"], "tf32 is a precision of NVIDIA GPUs"),
        (["prepare", "ptb-xxl"], "did you mean 'ptb-xl'"),
        (["prepare", "sim-north", "--short", "stretch"], "choose one of pad, drop"),
        (["prepare", "ptb-xl"], "ECGNB_DATA is not set"),
        (["prepare", "--study", "demo", "--rate", "500"], "which says all that, or rate"),
        (["prepare", "sim-north", "--study", "demo"], "which says all that, or names"),
        (["run", "demo", "--shard", "²/5"], "--shard ²/5 is not a share"),
        (["run", "demo", "--shard", "1/1000000000000"], "is not a share; write 2/5"),
        (["run", "demo", "--record"], "study demo is not recorded"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ecgnb", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


LONG = Path(__file__).with_name("tiny.toml").read_text().replace("updates = 4", "updates = 100000")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("whom", ["the program", "all its processes, as a terminal"])
def test_ctrl_c_is_one_sentence_and_waits_for_nobody(whom, tmp_path, lent, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    (tmp_path / "long.toml").write_text(LONG)
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    # Where the tests run in the background, programs begin with their ears closed to it.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = ("-m", "ecgnb", "run", tmp_path / "long.toml", "--workers", "2")
    program = begin(*command, **options)
    wait_for(lambda: program.poll() or len(list(lent.glob("runs/??/.*.claim"))) >= 2)
    running = psutil.Process(program.pid).children(recursive=True)
    (os.kill if whom == "the program" else os.killpg)(program.pid, signal.SIGINT)
    printed = program.communicate(timeout=60)[1]
    assert program.returncode == 130
    assert printed == "ecgnb: stopped; what is finished is kept, run again to go on\n"
    assert len(running) >= 2
    assert not psutil.wait_procs(running, timeout=20)[1]


def test_the_version_is_said_and_the_catalog_listed():
    assert run("--version") == f"ecgnb {__version__}\n"
    assert all(name in run("datasets") for name in ("ptb-xl", "code-test", "sim-north"))


@pytest.mark.parametrize("folder", ["/none", "~nobody-here/results"])
def test_results_that_are_missing_are_said(folder, monkeypatch):
    monkeypatch.setenv("ECGNB_RESULTS", folder)
    said = say_missing(load_study("clinical"))
    assert said.startswith(f"no recorded runs of clinical are in {folder}")


@recorded
def test_plan_and_status_of_recorded_runs():
    study = load_study("clinical")
    done = len(open_progress(study).finished())
    assert f"{done:5} of {len(list(study.cells())):5} runs done" in run("status", "clinical")
    plan = run("plan", "clinical")
    assert "shards of about 30 min with so many processes each: 1" in plan
    final = (line.split() for line in plan.split("\n") if line.startswith("final"))
    assert sum(int(line[4]) for line in final) == done


@pytest.mark.slow
@recorded
def test_generated_pages(tmp_path):
    pages.write_studies(tmp_path)
    protocol = (Path(__file__).parents[1] / "book" / "protocol.md").read_text()
    assert f"with a {LEVEL:.0%} interval" in protocol.replace("95 %", "95%")
    assert f"within ±{MARGIN:g}" in protocol
    studies = (tmp_path / "studies.md").read_text()
    assert "100 epochs" in studies
    assert " 0 updates" not in studies
