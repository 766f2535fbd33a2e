"""The runner: order, estimates, processes, and what runs share."""

import multiprocessing
import os
import subprocess
import time
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import begin, do, lend_data, tiny
from tqdm import tqdm

import ecgnb.study.run as runner
from ecgnb.errors import UserError
from ecgnb.models import MODELS
from ecgnb.models.build import build_model
from ecgnb.study.declare import load_study
from ecgnb.study.plan import Estimate, duration, first_seeds, open_progress
from ecgnb.study.run import default_workers, in_order, run_study
from ecgnb.study.spec import shards_needed
from ecgnb.study.store import Result, Store
from ecgnb.study.train import Materials
from ecgnb.training import device as devices
from ecgnb.training.device import choose_setting, share
from ecgnb.training.transfer import encode, load_encoder

CPU = torch.device("cpu")


@pytest.fixture
def data(cache, common):
    return lend_data(cache, common)


@pytest.fixture
def study(data):
    return tiny(models=["gru", "resnet1d18"])


def _cells(study, **wanted):
    return [
        cell
        for cell in study.cells()
        if all(getattr(cell, name) == value for name, value in wanted.items())
    ]


def test_without_shared_memory_it_is_one_sentence(data, monkeypatch):
    fault = OSError(30, "Read-only file system")
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Mock(side_effect=fault))
    with pytest.raises(UserError, match=r"/dev/shm cannot be used .Read-only file system."):
        run_study(tiny(), workers=1, progress=False)


def test_a_source_cannot_be_larger_than_it_is(data):
    with pytest.raises(UserError, match="size of 1000 is larger than the training set of 242"):
        runner.check_data(tiny(source={"size": 1000}))


def test_estimate_learns_what_runs_cost(study):
    estimate = Estimate(study)
    scratch = _cells(study, arm="scratch", model="gru", size=30)[0]
    assert estimate.left([scratch], []) is None
    assert not estimate.knows(scratch)
    # Ten milliseconds a forward pass, whatever else there is.
    estimate.learn(scratch, 0.01 * estimate.work(scratch) + 0.2)
    longer = replace(scratch, updates=scratch.updates * 10)
    assert estimate.seconds(longer) == pytest.approx(0.01 * estimate.work(longer) + 0.2)
    assert estimate.knows(scratch)
    assert not estimate.knows(replace(scratch, model="resnet1d18"))
    alone = estimate.left([longer, longer], [])
    assert alone == pytest.approx(2 * estimate.seconds(longer))
    assert estimate.left([longer, longer], [(longer, 0.5)]) == pytest.approx(alone - 0.5)


def test_work_counts_passes_through_the_encoder(study):
    estimate = Estimate(study)
    scratch = _cells(study, arm="scratch", size=30)[0]
    count = 300
    expected = 3 * scratch.updates * scratch.batch_size + (scratch.evaluations + 1) * count / 5
    assert estimate.work(scratch) == pytest.approx(expected + count / 5)
    assert estimate.work(replace(scratch, stage="tune")) == pytest.approx(expected)
    probe = replace(scratch, arm="random-probe")
    assert estimate.work(probe) == pytest.approx(30 + count / 5 + count / 5)
    asked = replace(scratch, arm="as-is")  # and not trained
    assert estimate.work(asked) == pytest.approx(count / 5 + count / 5)


def test_tuning_comes_first_then_seeds_then_the_longest(study):
    estimate = Estimate(study)
    cells = _cells(study, model="gru")
    for cell in (cells[0], replace(cells[0], model="resnet1d18")):
        estimate.learn(cell, 1.0)
    tuning = replace(cells[0], stage="tune", seed=9)
    ordered = in_order([*reversed(cells), tuning], [], estimate)
    assert ordered[0] == tuning
    assert [spec.seed for spec in ordered[1:]] == sorted(spec.seed for spec in cells)
    first = [estimate.work(spec) for spec in ordered[1:] if spec.seed == 0]
    assert first == sorted(first, reverse=True)


def test_one_run_of_each_model_comes_before_all(study):
    ordered = in_order(list(study.cells()), [], Estimate(study))
    assert {spec.model for spec in ordered[:2]} == {"gru", "resnet1d18"}
    running = [ordered[0]]
    assert in_order(ordered[1:], running, Estimate(study))[0].model != running[0].model


def test_time_left_is_shown_and_warnings_of_a_process_once(study, capsys):
    class Future:
        def result(self):
            return 2.0, ["something odd"]

    bar = tqdm(total=3, disable=False)
    state = open_progress(study)
    made = runner._Runner(state, 2, "auto", bar)
    for cell in list(study.cells())[:2]:
        made.running[future := Future()] = cell, 0.0
        made._finish(future)
    made._show_time_left()
    bar.close()
    printed = capsys.readouterr().err
    assert printed.count("ecgnb: something odd") == 1
    assert " left" in printed
    assert bar.n == 2


def _fails_or_goes_on(spec, precision):
    if spec.seed == 0:
        raise UserError("no room")
    time.sleep(600)


@pytest.mark.slow
def test_a_mistake_in_one_process_waits_for_no_other(data, monkeypatch):
    study = tiny(arms=["scratch"], sizes=[30], learning_rates=[0.01])
    monkeypatch.setattr(runner, "_work", _fails_or_goes_on)
    started = time.monotonic()
    with pytest.raises(UserError, match="no room"):
        run_study(study, workers=2, progress=False)
    assert time.monotonic() - started < 300
    assert not multiprocessing.active_children()


def test_process_reports_warnings_instead_of_printing(study, cache, monkeypatch, capsys):
    materials = Materials(study, Store(cache / "runs"))
    monkeypatch.setattr(runner, "_materials", materials, raising=False)
    monkeypatch.setattr(runner, "execute", lambda *_: warnings.warn("odd", stacklevel=1))
    seconds, told = runner._work(next(study.cells()), "auto")
    assert told == ["odd"]
    assert seconds >= 0
    assert capsys.readouterr().err == ""


def test_workers_follow_cores_and_memory(study, monkeypatch):
    small, large = (runner.worker_bytes(load_study(name)) for name in ("demo", "nguyen2025"))
    assert 0.7e9 < small < 1e9
    assert large > 7e9  # 101 layers with batches of 256: 7.2 GB were seen
    monkeypatch.setattr(runner.joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr(runner, "_free_memory", lambda: 64e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_workers(study) == 8
    monkeypatch.setattr(runner, "_free_memory", lambda: 2.5 * runner.worker_bytes(study))
    assert default_workers(study) == 2
    monkeypatch.setattr(runner, "_free_memory", lambda: 0.0)
    assert default_workers(study) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_workers(study) == 1


def test_memory_limit_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "_MEMORY_LIMIT", tmp_path / "none")
    free = runner._free_memory()
    assert free > 0
    (tmp_path / "max").write_text("1000000\n")
    monkeypatch.setattr(runner, "_MEMORY_LIMIT", tmp_path / "max")
    assert runner._free_memory() == 1e6
    (tmp_path / "max").write_text("max\n")
    assert runner._free_memory() > 1e6


def test_frozen_arms_share_features(data):
    """The probes of one encoder ask it once, and get what each would have computed alone."""
    study = tiny(seeds=[0], arms=["linear-probe"], learning_rates=[0.01])
    results = do(study)
    assert len(results) == 2  # sizes
    files = list(data.glob("runs/??/*.npy"))
    assert len(files) == 1
    shared = np.load(files[0])
    materials = Materials(study, open_progress(study).store)
    spec = results[0].spec
    model = build_model(spec.model, spec.head, len(results[0].classes), 200, spec.seed)
    load_encoder(model, materials.store.weights(spec.pretraining().key(materials.fingerprints)))
    every = materials.records(spec.dataset, np.arange(len(shared)))
    assert np.array_equal(shared, encode(model, every, "float32").numpy())


def test_data_are_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 12, 8), dtype=np.int16))
    values = np.load(tmp_path / "x.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = share(values, CPU)
    assert tensor.data_ptr() == values.ctypes.data


@pytest.mark.parametrize("model", [name for name, entry in MODELS.items() if entry.build])
def test_setting_follows_the_processor(model, monkeypatch):
    entry = MODELS[model]
    convolutions = entry.family == "CNN"
    for has in (True, False):
        monkeypatch.setattr(devices, "_bf16", lambda has=has: has)
        monkeypatch.setattr(devices, "_amx", lambda has=has: has)
        setting = choose_setting(model, "auto", CPU)
        assert setting.precision == ("bf16" if has and entry.half_precision_on_cpu else "float32")
        assert choose_setting(model, "float32", CPU).precision == "float32"
        assert choose_setting(model, "bf16", CPU).precision == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    on_gpu = choose_setting(model, "auto", torch.device("cuda"))
    assert on_gpu.precision == ("bf16" if convolutions else "tf32")
    assert "cuDNN" in str(on_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert choose_setting(model, "auto", torch.device("cuda")).precision == "float32"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h"), (89.9, "90 s")]
)
def test_durations_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text
    assert shards_needed(seconds, 30) == 1 + (seconds > 1800) * 3


@pytest.mark.parametrize("shards", [2, 7, 40])
def test_shards_need_nothing_of_each_other(shards):
    """Each pre-training is in one shard; with one seed, so is each that chooses a rate."""
    whole = first_seeds(load_study("clinical"), 1)
    needed = []
    for number in range(1, shards + 1):
        study = replace(whole, shard=(number, shards))
        cells = [cell for cell in study.cells() if cell.source]
        needed.append({run for cell in cells for run in study.source_candidates(cell)})
        needed[-1] |= {cell.pretraining() for cell in cells}
    assert sum(map(len, needed)) == len(set().union(*needed)) > shards / 2
    sizes = [len(list(replace(whole, shard=(n, shards)).cells())) for n in range(1, shards + 1)]
    assert sum(sizes) == len(list(whole.cells()))
    largest = Counter(cell.pretraining() or cell for cell in whole.cells()).most_common(1)[0][1]
    assert max(sizes) <= sum(sizes) / shards + largest


@pytest.mark.parametrize(
    ("positives", "changes", "message"),
    [
        ([1, 1] + [0] * 58, {}, "class of sim-south has 3 records with it .* validation .* A 2"),
        ([1] * 60, {}, "60 records, 0 without a class: A 60"),
        (None, {}, "60 without a class: none is named by snomed-all 12 times or more"),
        ([0, 0, 1, 1] * 15, {}, "no class .* has 10 records with it .* in the test set with seed"),
        ([0, 0, 1, 1] * 15, {"min_test_positives": 3, "sizes": [50]}, "50 is larger than the"),
        ([0, 0, 1, 1] * 15, {"flags": "clipped"}, "every record of sim-south is clipped"),
        ([0, 0, 1, 1] * 15, {"patient": "p1"}, "patient p1 stands on two sides"),
    ],
)
def test_what_cannot_be_learnt_or_scored_is_said_first(positives, changes, message, monkeypatch):
    columns = {name: changes.pop(name) for name in ("flags", "patient") if name in changes}
    table = pd.DataFrame({"fold": np.arange(60) % 10 + 1, "patient": np.arange(60), "flags": ""})
    labels = pd.DataFrame({"A": positives} if positives else {}, index=table.index, dtype=bool)
    monkeypatch.setattr(runner, "_labels", lambda study, side: (table.assign(**columns), labels))
    with pytest.raises(UserError, match=message):
        runner.check_data(tiny(**{"arms": ["scratch"], "sizes": [30], **changes}))
    sound = pd.DataFrame({"A": [0, 0, 1, 1] * 15}, dtype=bool)
    monkeypatch.setattr(runner, "_labels", lambda study, side: (table, sound))
    runner.check_data(tiny(sizes=[30, 0], min_test_positives=3))


def _threads(workers, mp_context, **begin):
    """Processes need not be started and import torch, where it is not they that are tested."""
    return ThreadPoolExecutor(workers, **begin)


def test_shards_one_after_another_in_any_order(data, monkeypatch):
    whole = tiny(sizes=[30])
    monkeypatch.setattr(runner.time, "sleep", lambda _: pytest.fail("it waits"))
    monkeypatch.setattr(runner, "ProcessPoolExecutor", _threads)
    monkeypatch.setattr(runner, "end_with", lambda parent: None)
    monkeypatch.setattr(runner, "_materials", None, raising=False)
    for number in (3, 1, 2):
        study = replace(whole, shard=(number, 3))
        assert len(run_study(study, workers=1, progress=False)) == len(list(study.cells()))
    files = {path: path.stat().st_mtime_ns for path in data.glob("runs/??/*.npz")}
    assert len(run_study(whole, workers=1, progress=False)) == len(list(whole.cells()))
    assert files == {path: path.stat().st_mtime_ns for path in data.glob("runs/??/*.npz")}


def test_a_claimed_run_is_left_to_whoever_has_it(tmp_path):
    store = Store(tmp_path)
    with store.claim("ab1") as mine, Store(tmp_path).claim("ab1") as other:
        assert (mine, other) == (True, False)
    with Store(tmp_path).claim("ab1") as mine:
        assert mine
    assert not list(tmp_path.rglob("*.claim"))


def test_what_a_killed_program_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    store = Store(tmp_path)
    folder = tmp_path / "ab"
    folder.mkdir()
    (folder / "ab1.npz").touch()
    left = [
        ".ab1.npz-x1",
        ".ab1.claim",
        ".ab2.checkpoint-x",
        ".ab3-features.npy-x",
        "ab1.checkpoint",
    ]
    kept = ["ab1.npz", "ab4.checkpoint", "ab5.safetensors"]
    for name in [*left, *kept]:
        (folder / name).touch()
    writing = [".ab6.npz-x", ".ab6.claim"]
    with Store(tmp_path).claim("ab6"):
        (folder / ".ab6.npz-x").touch()
        store.tidy()
        assert sorted(path.name for path in folder.iterdir()) == sorted([*kept, *writing])


def test_the_index_may_lack_runs_and_name_lost_ones_but_never_err(tmp_path, ran_run):
    store = Store(tmp_path)
    store.save(ran_run)
    score = ran_run.facts["validation_auroc"]
    assert store.scores() == {ran_run.key: score}
    index = tmp_path / "scores.txt"
    line, none = index.read_text(), f"{ran_run.key} nan"
    none += f" {zlib.crc32(none.encode()):08x}\n"
    for wrong in (line[:-5], line.replace("0.8", "0.9"), line.replace("0.8125", "nan"), none):
        index.write_text(wrong)
        assert store.scores() == {}
    assert store.score(ran_run.key) == score
    index.unlink()
    assert store.scores() == {}
    assert store.score(ran_run.key) == score
    assert store.scores() == {ran_run.key: score}
    store.path(ran_run.key).unlink()
    assert store.scores() == {}
    assert store.score(ran_run.key) is None


@pytest.fixture
def ran_run(study):
    spec = next(study.cells())
    facts = {"validation_auroc": 0.8125, "seconds": 1.0}
    history = {"update": list(range(10)), "validation_auroc": [0.8] * 10}
    records = tuple(f"S{number:05d}" for number in range(240))
    values = np.random.default_rng(0).random((240, 22)).astype(np.float16)
    classes = tuple(f"C{number}" for number in range(22))
    return Result("0" * 20, spec, classes, records, values, history, facts)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_ten_thousand_runs_are_looked_through_at_once(data, tmp_path, ran_run):
    """As `ecgnb status` does, in a program of its own whose memory can be seen."""
    study = tiny(seeds=list(range(1250)), tuning_seed=9999, learning_rates=[0.01])
    progress = open_progress(study)
    Store(tmp_path).save(ran_run)
    whole = Store(tmp_path).path(ran_run.key)
    *_, final = progress.rounds()
    assert len(final) == 10_000
    for run in final:
        path = progress.store.path(run.key(progress.fingerprints))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(whole, path)
    script = """
import time
from pathlib import Path
from tiny import tiny
from ecgnb.study.plan import open_progress
def most(): return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
study, imported = tiny(seeds=list(range(1250)), tuning_seed=9999, learning_rates=[0.01]), most()
for _ in range(2):
    started = time.process_time()
    done = sum(open_progress(study).runs().values())
    seconds = time.process_time() - started
print(done, seconds, (most() - imported) / 1e6)
"""
    printed = begin("-c", script, stdout=subprocess.PIPE).communicate()[0]
    done, seconds, gigabytes = map(float, printed.split())
    assert done == 10_000
    assert seconds < 2
    assert gigabytes < 0.2


RUNNER = """
from tiny import tiny
import ecgnb.study.run as runner
runner._REFRESH_S = 0.2
if __name__ == "__main__":
    finish = runner._Runner._finish
    def watched(self, future):
        spec = self.running[future][0]
        finish(self, future)
        if spec not in self.taken:
            print(spec.key(self.state.fingerprints), flush=True)
    runner._Runner._finish = watched
    done = runner.run_study(tiny(sizes=[30]), workers=1, progress=False)
    print("all", len(done), flush=True)
"""


@pytest.mark.slow
def test_two_runners_on_one_folder_do_each_run_once(data, tmp_path):
    path = tmp_path / "both.py"
    path.write_text(RUNNER)
    programs = [begin(path, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [program.communicate(timeout=200)[0].split("\n") for program in programs]
    keys = [line for output in outputs for line in output if len(line) == 20]
    assert len(keys) == len(set(keys)) > 10
    assert all(any(line == "all 8" for line in output) for output in outputs)
    assert not list(data.rglob("*.claim"))
