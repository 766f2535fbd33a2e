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
from conftest import mistake
from tiny import begin, do, tiny, written
from tqdm import tqdm

import ecgnb.study.run as runner
from ecgnb.errors import UserError
from ecgnb.models import MODELS
from ecgnb.models.build import build_model
from ecgnb.study.declare import load_study
from ecgnb.study.plan import Estimate, duration, first_seeds, open_progress
from ecgnb.study.run import default_workers, in_order, run_study
from ecgnb.study.store import Result, Store, open_store
from ecgnb.study.train import Materials
from ecgnb.training import device as devices
from ecgnb.training.device import choose_precision, share
from ecgnb.training.transfer import encode, load_encoder

CPU = torch.device("cpu")


@pytest.fixture
def study(lent):
    return tiny(models=["gru", "resnet1d18"])


@pytest.fixture
def scratch(study):
    cells = (cell for cell in study.cells() if (cell.model, cell.size) == ("gru", 30))
    return next(cell for cell in cells if cell.arm == "scratch")


def test_without_shared_memory_it_is_one_sentence(lent, monkeypatch):
    fault = OSError(30, "Read-only file system")
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Mock(side_effect=fault))
    mistake("/dev/shm cannot be used .Read-only", run_study, tiny(), workers=1, progress=False)


def test_a_source_cannot_be_larger_than_it_is(lent):
    mistake("size of 1000 is larger .* of 242", runner.check_data, tiny(source={"size": 1000}))


def test_estimate_learns_what_runs_cost(study, scratch):
    estimate = Estimate(study)
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


def test_work_counts_passes_through_the_encoder(study, scratch):
    fifth = 300 / 5
    training = 3 * scratch.updates * scratch.batch_size + (scratch.evaluations + 1) * fifth
    for changes, expected in (
        ({}, training + fifth),
        ({"stage": "tune"}, training),
        ({"arm": "random-probe"}, 30 + 2 * fifth),
        ({"arm": "as-is"}, 2 * fifth),  # not trained
    ):
        assert Estimate(study).work(replace(scratch, **changes)) == pytest.approx(expected)


def test_tuning_comes_first_then_seeds_then_the_longest(study):
    estimate = Estimate(study)
    cells = [cell for cell in study.cells() if cell.model == "gru"]
    for cell in (cells[0], replace(cells[0], model="resnet1d18")):
        estimate.learn(cell, 1.0)
    tuning = replace(cells[0], stage="tune", seed=9)
    ordered = in_order([*reversed(cells), tuning], [], estimate)
    assert ordered[0] == tuning
    assert [spec.seed for spec in ordered[1:]] == sorted(spec.seed for spec in cells)
    first = [estimate.work(spec) for spec in ordered[1:] if spec.seed == 0]
    assert first == sorted(first, reverse=True)
    # Of each model one comes before all, as long as none has told what it costs.
    ordered = in_order(list(study.cells()), [], Estimate(study))
    assert {spec.model for spec in ordered[:2]} == {"gru", "resnet1d18"}
    running = [ordered[0]]
    assert in_order(ordered[1:], running, Estimate(study))[0].model != running[0].model


def test_time_left_is_shown_and_warnings_of_a_process_once(study, capsys):
    bar = tqdm(total=3, disable=False)
    state = open_progress(study)
    made = runner._Runner(state, 2, "auto", bar)
    for cell in list(study.cells())[:2]:
        future = Mock(result=lambda: (2.0, ["something odd"]))
        made.running[future] = cell, 0.0
        made._finish(future)
    made._show_time_left()
    bar.close()
    printed = capsys.readouterr().err
    assert printed.count("ecgnb: something odd") == 1
    assert " left" in printed
    assert bar.n == 2


def _fails_or_goes_on(spec, key, precision):
    if spec.seed == 0:
        raise UserError("no room")
    time.sleep(600)


@pytest.mark.slow
def test_a_mistake_in_one_process_waits_for_no_other(lent, monkeypatch):
    study = tiny(arms=["scratch"], sizes=[30], learning_rates=[0.01])
    monkeypatch.setattr(runner, "_work", _fails_or_goes_on)
    started = time.monotonic()
    mistake("no room", run_study, study, workers=2, progress=False)
    assert time.monotonic() - started < 300
    assert not multiprocessing.active_children()


def test_process_reports_warnings_instead_of_printing(study, monkeypatch, capsys):
    monkeypatch.setattr(runner, "_materials", Materials(study, open_store()), raising=False)
    monkeypatch.setattr(runner, "execute", lambda *_: warnings.warn("odd", stacklevel=1))
    spec = next(study.cells())
    seconds, told = runner._work(spec, spec.key(runner._materials.fingerprints), "auto")
    assert told == ["odd"]
    assert seconds >= 0
    assert capsys.readouterr().err == ""


def test_workers_follow_cores_and_memory(study, monkeypatch):
    small, large = (runner.worker_bytes(load_study(name)) for name in ("demo", "nguyen2025"))
    assert 0.7e9 < small < 1e9
    assert large > 7e9  # 101 layers with batches of 256: 7.2 GB were seen
    monkeypatch.setattr(runner.joblib, "cpu_count", lambda: 8)
    one = runner.worker_bytes(study)
    for free, cuda, workers in ((64e9, 0, 8), (2.5 * one, 0, 2), (0, 0, 1), (64e9, 1, 1)):
        monkeypatch.setattr(runner, "_free_memory", lambda free=free: free)
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert default_workers(study) == workers


def test_memory_limit_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "_MEMORY_LIMIT", limit := tmp_path / "memory.max")
    assert runner._free_memory() > 1e6
    limit.write_text("1000000\n")
    assert runner._free_memory() == 1e6
    limit.write_text("max\n")
    assert runner._free_memory() > 1e6


def test_frozen_arms_share_features(lent):
    """The probes of one encoder ask it once, and get what each would have computed alone."""
    study = tiny(seeds=[0], arms=["linear-probe"], learning_rates=[0.01])
    results = do(study)
    assert len(results) == 2  # sizes
    files = list(lent.glob("runs/??/*.npy"))
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
    entry, gpu = MODELS[model], torch.device("cuda")
    for has in (True, False):
        monkeypatch.setattr(devices, "_bf16", lambda has=has: has)
        monkeypatch.setattr(devices, "_amx", lambda has=has: has)
        own = "bf16" if has and entry.half_precision_on_cpu else "float32"
        for asked, expected in (("auto", own), ("float32", "float32"), ("bf16", "bf16")):
            assert choose_precision(model, asked, CPU) == expected
    for version, expected in ((9, "bf16" if entry.family == "CNN" else "tf32"), (7, "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, n=version: (n, 0))
        assert choose_precision(model, "auto", gpu) == expected


def test_durations_as_a_person_says_them():
    assert [duration(s) for s in (5, 89.9, 600, 7200)] == ["5 s", "90 s", "10 min", "2.0 h"]


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
    mistake(message, runner.check_data, tiny(**{"arms": ["scratch"], "sizes": [30], **changes}))
    sound = pd.DataFrame({"A": [0, 0, 1, 1] * 15}, dtype=bool)
    monkeypatch.setattr(runner, "_labels", lambda study, side: (table, sound))
    runner.check_data(tiny(sizes=[30, 0], min_test_positives=3))


def _threads(workers, mp_context, **begin):
    """Processes need not be started and import torch, where it is not they that are tested."""
    return ThreadPoolExecutor(workers, **begin)


def test_shards_one_after_another_in_any_order(lent, monkeypatch):
    whole = tiny(sizes=[30])
    monkeypatch.setattr(runner.time, "sleep", lambda _: pytest.fail("it waits"))
    monkeypatch.setattr(runner, "ProcessPoolExecutor", _threads)
    monkeypatch.setattr(runner, "end_with", lambda parent: None)
    monkeypatch.setattr(runner, "_materials", None, raising=False)
    for number in (3, 1, 2):
        study = replace(whole, shard=(number, 3))
        assert len(run_study(study, workers=1, progress=False)) == len(list(study.cells()))
    files = written(lent)
    assert len(run_study(whole, workers=1, progress=False)) == len(list(whole.cells()))
    assert files == written(lent)


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
    left = (".ab1.npz-x1", ".ab1.claim", ".ab2.checkpoint-x", ".ab3-features.npy-x")
    kept = {"ab1.npz", "ab4.checkpoint", "ab5.safetensors", ".ab6.npz-x"}
    for name in (*left, *kept, "ab1.checkpoint"):
        (folder / name).touch()
    with Store(tmp_path).claim("ab6"):
        store.tidy()
        assert {path.name for path in folder.iterdir()} == {*kept, ".ab6.claim"}


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
    values = np.random.default_rng(0).random((240, 22)).astype(np.float16)
    rows, classes = (tuple(map(str, range(count))) for count in values.shape)
    history, facts = {"update": list(range(10))}, {"validation_auroc": 0.8125, "seconds": 1.0}
    return Result("0" * 20, next(study.cells()), classes, rows, values, history, facts)


MANY = {"seeds": list(range(1250)), "tuning_seed": 9999, "learning_rates": [0.01]}
STATUS = f"""
import time
from pathlib import Path
from tiny import tiny
from ecgnb.study.plan import open_progress
def most(): return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
study, imported = tiny(**{MANY}), most()
for _ in range(2):
    started = time.process_time()
    done = sum(open_progress(study).runs().values())
    seconds = time.process_time() - started
print(done, seconds, (most() - imported) / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_ten_thousand_runs_are_looked_through_at_once(lent, tmp_path, ran_run):
    """As `ecgnb status` does, in a program of its own whose memory can be seen."""
    progress = open_progress(tiny(**MANY))
    Store(tmp_path).save(ran_run)
    *_, final = progress.rounds()
    assert len(final) == 10_000
    for run in final:
        path = progress.store.path(run.key(progress.fingerprints))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(Store(tmp_path).path(ran_run.key), path)
    printed = begin("-c", STATUS, stdout=subprocess.PIPE).communicate()[0]
    done, seconds, gigabytes = map(float, printed.split())
    assert done == 10_000
    assert seconds < 2
    assert gigabytes < 0.2


# Its processes import it too, and each says what it does.
RUNNER = """
from tiny import tiny
import ecgnb.study.run as runner
runner._REFRESH_S, execute = 0.2, runner.execute
def told(materials, spec, precision):
    print(spec.key(materials.fingerprints), flush=True)
    execute(materials, spec, precision)
runner.execute = told
if __name__ == "__main__":
    print("all", len(runner.run_study(tiny(sizes=[30]), workers=1, progress=False)))
"""


@pytest.mark.slow
def test_two_runners_on_one_folder_do_each_run_once(lent, tmp_path):
    path = tmp_path / "both.py"
    path.write_text(RUNNER)
    programs = [begin(path, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [program.communicate(timeout=200)[0].split("\n")[:-1] for program in programs]
    assert [output.pop() for output in outputs] == ["all 8"] * 2
    keys = [*outputs[0], *outputs[1]]
    assert len(keys) == len(set(keys)) == len(written(lent)) > 10
    assert not list(lent.rglob("*.claim"))


def test_a_run_on_data_that_changed_meanwhile_is_refused(monkeypatch):
    spec = next(tiny().cells())
    monkeypatch.setattr(runner, "_materials", Mock(fingerprints={spec.dataset: ""}), raising=False)
    mistake("has changed meanwhile", runner._work, spec, "another key", "auto")
