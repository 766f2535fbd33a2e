"""Every benchmark runs, at its smallest size."""

import json
import multiprocessing.dummy as threads
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import bench  # of benchmarks/, which pyproject.toml lets tests import
import coverage
import gpu
import kills
import machine
import numpy as np
import pandas as pd
import plain
import precision
import preparing
import pytest
import reading
import recipe
import sim_to_real
import simulating
import tables
import torch
import training

from ecgnb.data.arrays import Options
from ecgnb.data.prepare import prepare
from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress
from ecgnb.study.store import write_table

TINY = str(Path(__file__).parent / "tiny.toml")


def put(patch, module, **values):
    for name, value in values.items():
        patch.setattr(module, name, value)


@pytest.fixture
def small(monkeypatch, tmp_path):
    put(monkeypatch, training, RECORDS=32, BATCH=16, SAMPLES=100, _ROUND_S=0.0)
    put(monkeypatch, gpu, SAMPLES=100)
    put(monkeypatch, machine, _SIZE=64, _COPIED=1 << 10, use_cores=lambda _: None)
    put(monkeypatch, torch, set_num_threads=lambda _: None)  # threads do what processes would
    put(monkeypatch, bench, RESULTS=tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "--repeats", "1", "--cores", "1"])


def test_speed(small, ran, monkeypatch, tmp_path, hospital):
    monkeypatch.setenv("ECGNB_DATA", str(hospital.parent))
    put(monkeypatch, reading, DATASETS={"sim-north": "simulated"}, RECORDS=2, REPEATS=1)
    put(monkeypatch, preparing, _DISTINCT=2)
    put(monkeypatch, plain, MODELS={name: plain.MODELS[name] for name in ("resnet1d18", "gru")})
    trained, prepared, held = training.measure, preparing.measure, bench.memory

    def prepare_some():
        here = dict(os.environ)
        found = prepared(4, 1, threads)
        os.environ.update(here)  # which its process may change, and its thread does
        return found

    put(monkeypatch, training, measure=lambda *some: trained(*some, threads))
    put(monkeypatch, preparing, measure=prepare_some)
    with monkeypatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(ran[0]))
        results = open_progress(load_study(TINY)).all_done()
    put(monkeypatch, bench, memory=lambda: held("gru", 50, threads))
    put(monkeypatch, bench, demo=lambda cores: bench.shares(results, 1.0, cores))
    (tmp_path / "speed.json").write_text(json.dumps({"machine": "another"}))
    bench.main()
    found = json.loads((tmp_path / "speed.json").read_text())
    assert [row["model"] for row in found["training"]] == list(plain.MODELS)
    assert all(row["ours"] > 0 and row["plain"] > 0 for row in found["training"])
    assert len(found["demo"]["arm_seconds"]) == 3
    assert found["preparing"]["records"] == 4
    assert "last time" in tables.tables(found, found)
    assert re.findall("No network|ResNet1d18|nan", tables.arms()) == ["No network", "ResNet1d18"]
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_what_was_measured_is_kept_when_a_step_fails(small, monkeypatch, tmp_path):
    steps = iter([{"model": "resnet1d18"}])
    put(monkeypatch, training, measure=lambda *_: next(steps))
    with pytest.raises(StopIteration):
        bench.main()
    kept = json.loads((tmp_path / "speed.part.json").read_text())
    assert kept["training"] == [{"model": "resnet1d18"}]


def test_gpu(small):
    row = gpu.measure("gru", 1, 32, 16, 1, threads)
    assert row["seconds_an_epoch"] >= row["seconds_a_replicate"] > 0
    assert gpu.floor("resnet1d18", 1000, {"bf16": 1e3, "copy": 10}) > 0
    assert gpu.grid_hours([{"model": m, "seconds_a_replicate": 1.0} for m in plain.MODELS]) > 0


def test_simulating_and_coverage(monkeypatch):
    put(monkeypatch, simulating, RECORDS=4, REPEATS=1)
    assert len(simulating.measure()) == 4
    put(monkeypatch, coverage, REPETITIONS=4)
    assert coverage.covered(1, np.random.default_rng(0))["larger of two estimates"] > 0


@pytest.mark.slow
def test_intervals_cover_the_truth_though_fifths_share_training_records():
    """Cross-validated classifiers, whose training sets overlap: the larger, the more."""
    row = coverage.cross_validated(720, 0.05, 1, np.random.default_rng(1))
    assert 0.93 <= row["covered"] <= 0.97


# A runner that does a run every so often, as it was done before, and prepares nothing.
RUNNER = """
import os, pathlib, shutil, sys, time
done, cache = pathlib.Path(sys.argv[1]), pathlib.Path(os.environ["ECGNB_CACHE"])
cache.mkdir(exist_ok=True)
for name in ("simulated", "prepared"):
    if not (cache / name).exists():
        (cache / name).symlink_to(done / name)
for path in sorted(done.glob("runs/??/*")):
    new = cache / path.relative_to(done)
    new.parent.mkdir(parents=True, exist_ok=True)
    if not new.exists():
        time.sleep(0.05)
        shutil.copy2(path, new.with_suffix(".new"))
        os.replace(new.with_suffix(".new"), new)
"""


def test_kills(ran, monkeypatch):
    command = [sys.executable, "-c", RUNNER, str(ran[0])]
    put(monkeypatch, kills, STUDY=TINY, COMMAND=command, KILLS=2, SECONDS=(0.2, 0.3), END_S=0.0)
    found = kills.measure()
    assert (found["kills"], found["lost"], found["repeated"], found["differing"]) == (2, 0, 0, 0)
    assert found["survivors"] == 0


def test_precision(ran, lent, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(ran[0]))
        table = tmp_path / "tiny.parquet"
        write_table(open_progress(load_study(TINY)).all_done(), table)
    put(monkeypatch, precision, recorded_runs=lambda study: (table,))
    put(monkeypatch, precision, STUDY=TINY, MODEL="gru", Pool=lambda *_: ThreadPoolExecutor(1))
    found = precision.measure()["all"]
    assert (found["runs"], found["difference"]) == (4, 0)  # a GRU is not trained in bfloat16


def test_recipe(monkeypatch, capsys):
    rng = np.random.default_rng(0)
    task = SimpleNamespace(
        signals=torch.from_numpy(rng.integers(-500, 500, (60, 12, 1000), dtype=np.int16)),
        table=pd.DataFrame({"fold": np.arange(60) % 10 + 1, "patient": np.arange(60).astype(str)}),
        labels=rng.random((60, 2)) < 0.5,
    )
    few = recipe.Recipe(model="gru", head="pooled", updates=2, augmented=True, clipping=1.0)
    put(monkeypatch, recipe, Task=lambda *_: task, LOOKS=1, SIZES=(20,))
    put(monkeypatch, recipe, VARIANTS={"plain": recipe.Variant(few, few)})
    recipe.run(["plain"], [90], [20], ["scratch", "finetune"])
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert len(recipe.table()) == 2 * 3


def test_sim_to_real(monkeypatch):
    options = Options(rate=50, seconds=2, simulated_records=60)
    put(monkeypatch, sim_to_real, prepare=lambda name, _=None: prepare(name, options))
    put(monkeypatch, sim_to_real, CLINICAL=("sim-south",), MODEL="gru", UPDATES=1, BATCH=16)
    put(monkeypatch, sim_to_real, SEEDS=(0,), EVALUATIONS=1)
    found = sim_to_real.measure()
    assert [row["class"] for row in found["rows"]] == [*sim_to_real.CLASSES, "mean"]
