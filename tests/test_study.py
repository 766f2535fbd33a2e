"""Runs, the store and the runner, on a study of a few seconds."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from conftest import as_fifo, mistake
from sklearn.metrics import roc_auc_score
from tiny import TINY, begin, do, lend_data, tiny, wait_for, written

import ecgnb.study.train as trainer
from ecgnb.data.labels import LABEL_SETS
from ecgnb.errors import UserError
from ecgnb.files import put
from ecgnb.models.build import build_model
from ecgnb.study import data, declare
from ecgnb.study.data import read_labels, results_root, selection
from ecgnb.study.declare import chapter_study, load_study
from ecgnb.study.plan import Progress, first_seeds, open_progress, record_runs, rounds
from ecgnb.study.run import run_study
from ecgnb.study.store import Store, open_store, short, write_table
from ecgnb.study.train import Materials, execute
from ecgnb.training import checkpoint as checkpoints
from ecgnb.training.inputs import predict
from ecgnb.training.transfer import load_encoder


@pytest.fixture
def done(ran, monkeypatch):
    """The tiny study's results, in the cache that holds them."""
    monkeypatch.setenv("ECGNB_CACHE", str(ran[0]))
    return ran[1]


@pytest.fixture
def materials(cache, common):
    """The tiny study's data, and a store without any run."""
    lend_data(cache, common)
    return Materials(tiny(), open_store())


@pytest.fixture
def copied(ran, cache):
    """A cache of the test's own, where the tiny study is done."""
    shutil.copytree(ran[0] / "runs", lend_data(cache, ran[0].parent) / "runs")
    return cache


def one_of(ran, arm):
    return next(result for result in ran[1] if result.spec.arm == arm)


def test_a_study_is_done_whole_and_once(done):
    study = tiny()
    assert len(done) == 2 * 2 * 4  # seeds, sizes, arms
    planned = open_progress(study).runs()
    assert all(planned.values())
    stages = Counter(run.stage for run in planned)
    assert stages == {"final": 16, "tune": 2 * 4 * 2, "pretrain": 2 + 2}
    for result in open_progress(study).all_done():
        if result.spec.stage == "tune":  # which never predicts a test set
            assert result.predictions.size == 0
            assert "auroc" not in result.facts
    files = written(open_store().folder, "**/*")
    again = run_study(study, workers=2, progress=False)
    assert [result.key for result in again] == [result.key for result in done]
    assert files == written(open_store().folder, "**/*")


def test_arms_see_the_same_records_and_seeds_test_their_own(done):
    by_cell: dict[tuple[int, int], set] = {}
    for result in done:
        cell = result.spec.seed, result.spec.size
        by_cell.setdefault(cell, set()).add((result.records, result.facts["train_records"]))
    assert all(len(seen) == 1 for seen in by_cell.values())
    tested = {seed: set(records) for (seed, _), ((records, _),) in by_cell.items()}
    assert tested[0]
    assert not tested[0] & tested[1]


def test_an_outsider_can_recompute_the_table(done, tmp_path):
    write_table(done, tmp_path / "runs.parquet")
    table = data.read_table(tiny(), "sim-south")
    labels = read_labels(table, "sim-south", "snomed-all", 12).set_index(table["record"])
    for run in pd.read_parquet(tmp_path / "runs.parquet").itertuples():
        scores = np.frombuffer(run.predictions, "f2").reshape(len(run.records), -1)
        truth = labels.loc[run.records, run.classes].to_numpy()
        use = (truth.sum(axis=0) >= 10) & ((~truth).sum(axis=0) >= 10)
        expected = roc_auc_score(truth[:, use], scores[:, use]) if use.any() else np.nan
        assert run.fact_auroc == pytest.approx(expected, nan_ok=True)


def test_declared_studies_are_sound():
    for name in declare.study_names():
        cells = list(load_study(name).cells())
        assert len(cells) == len(set(cells)) > 0
        seeds = [cell.seed for cell in cells]
        assert seeds == sorted(seeds)  # outermost, so that what is finished is balanced


def test_a_stopped_run_goes_on_from_its_checkpoint(ran, materials, monkeypatch):
    old = one_of(ran, "scratch")
    monkeypatch.setattr(checkpoints, "_EVERY_S", 0.0)

    def stops(*given):
        put(*given)
        if saved.call_count == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "put", saved := Mock(side_effect=stops))
    with pytest.raises(KeyboardInterrupt):
        execute(materials, old.spec)
    path = materials.store.checkpoint(old.key)
    assert path.exists()
    saved.side_effect = put
    execute(materials, old.spec)
    again = materials.store.load(old.key)
    assert np.array_equal(old.predictions, again.predictions)
    assert old.history["train_loss"] == again.history["train_loss"]
    assert old.facts["thresholds"] == again.facts["thresholds"]
    assert saved.call_count == old.spec.updates
    assert not path.exists()


def test_labels_of_the_test_set_change_no_choice(ran, materials, monkeypatch):
    old = one_of(ran, "scratch")

    def poisoned(table, *arguments):
        labels = read_labels(table, *arguments)
        tested = table["record"].isin(old.records)
        labels[tested] = np.roll(labels[tested].to_numpy(), 1, axis=0)
        return labels

    monkeypatch.setattr(trainer, "read_labels", poisoned)
    new = materials.store.load(execute(materials, old.spec))
    assert new.predictions.tobytes() == old.predictions.tobytes()
    assert new.facts["thresholds"] == old.facts["thresholds"]
    assert new.facts["auroc"] != old.facts["auroc"] or np.isnan(old.facts["auroc"])


def test_learning_rate_is_the_best_on_validation(done):
    study, progress = tiny(), open_progress(tiny())
    *_, final = progress.rounds()
    for cell, run in zip(study.cells(), final, strict=True):
        assert replace(run, learning_rate=0.0, source_learning_rate=0.0) == cell
        known = replace(cell, source_learning_rate=run.source_learning_rate)
        scores = {one.learning_rate: progress.score(one) for one in study.candidates(known)}
        assert scores[run.learning_rate] == max(scores.values())


def test_what_is_done_counts_while_a_learning_rate_is_open(copied):
    study, progress = tiny(), open_progress(tiny())
    run = next(run for run in progress.runs() if run.stage == "final" and run.arm == "finetune")
    lost, kept = study.candidates(run)
    progress.store.path(lost.key(progress.fingerprints)).unlink()
    progress = open_progress(study)
    planned = progress.runs()
    done = Counter(run.stage for run in planned if planned[run])
    assert done == {"final": 16 - 2, "tune": 16 - 1, "pretrain": 4}
    assert Counter(run.stage for run in planned) == {"final": 16, "tune": 16, "pretrain": 4}
    found = [result.spec for result in progress.all_done()]
    assert kept in found
    assert len(found) == sum(done.values())
    assert progress.open_runs() == [lost]


def test_each_round_needs_only_those_before_it():
    study, scores = tiny(), {}
    for runs in rounds(study, scores.get):
        for run in runs:
            assert run.decided
            assert not run.source or run.pretraining() in scores
            assert run.stage != "pretrain" or not run.source
            scores.setdefault(run, run.learning_rate)
    assert Counter(run.stage for run in scores) == {"final": 16, "tune": 16, "pretrain": 4}
    tuning = {run for run in scores if run.stage == "tune"}  # which the first seed alone needs
    assert tuning <= {run for runs in rounds(first_seeds(study, 1), scores.get) for run in runs}
    first, *_, final = rounds(study, {}.get)
    assert {(run.stage, run.seed) for run in first} == {("pretrain", study.tuning_seed)}
    assert not any(run.decided for run in final)


def _flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


def test_what_is_damaged_in_the_cache_is_named_and_made_again(copied):
    progress = open_progress(tiny())
    store = progress.store
    run = next(run for run in progress.runs() if run.stage == "final" and run.arm == "finetune")
    key, weights = (one.key(progress.fingerprints) for one in (run, run.pretraining()))
    whole = store.path(key).read_bytes()
    with np.load(store.path(key)) as file:
        arrays = dict(file)
    deep, fewer = np.frombuffer(b"[" * 9999, np.uint8), arrays["predictions"][1:]
    others = [{**arrays, "facts": deep}, {**arrays, "predictions": fewer}]
    for spoil in (_flip, _empty, as_fifo, *(partial(np.savez, **one) for one in others)):
        store.path(key).write_bytes(whole)
        spoil(store.path(key))
        with pytest.warns(UserWarning, match=r"\.npz was damaged; it is removed, and made again"):
            assert run not in [result.spec for result in progress.finished()]
        assert not os.path.lexists(store.path(key))
    assert progress.open_runs() == [run]
    whole = store.weights(weights).read_bytes()
    for spoil in (_flip, _empty):
        store.weights(weights).write_bytes(whole)
        assert store.sound_weights(weights)
        spoil(store.weights(weights))
        with pytest.warns(UserWarning, match=r"\.safetensors was damaged"):
            assert not store.sound_weights(weights)
    assert progress.open_runs() == [run.pretraining()]
    assert progress.missing() == [run, run.pretraining()]  # which is done, but for its weights
    compute = Mock(return_value=np.ones((2, 3), dtype=np.float32))
    for _ in range(2):
        assert store.shared("ab-features", compute).sum() == 6
    compute.assert_called_once()
    for spoil in (_flip, _empty):
        spoil(store.path("ab-features", "npy"))
        with pytest.warns(UserWarning, match=r"\.npy was damaged"):
            assert store.shared("ab-features", compute).sum() == 6
    store.path(key).touch()
    as_fifo(copied / "runs" / "scores.txt")
    assert key not in store.scores()
    store.path(key).unlink()
    store.path(key).mkdir()
    with pytest.raises(UserError, match="cannot write to"), pytest.warns(match="npz"):
        store.load(key)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.assign(arm="scratch"), "has another run under the key"),
        (lambda table: pd.concat([table, table]), "records a run twice"),
        (lambda table: table.assign(records=[["S9"]] * len(table)), "was tested on S9, which"),
        (lambda table: table.drop(columns="predictions"), "are damaged; get that file again"),
    ],
)
def test_a_recorded_row_that_was_changed_is_refused(done, spoil, message, tmp_path, cache):
    write_table([run for run in done if run.spec.arm != "scratch"], tmp_path / "tiny.parquet")
    spoil(pd.read_parquet(tmp_path / "tiny.parquet")).to_parquet(tmp_path / "spoilt.parquet")
    shutil.copytree(open_store().folder, cache / "runs", dirs_exist_ok=True)
    for run in done:
        (cache / "runs" / run.key[:2] / f"{run.key}.npz").unlink()
    with pytest.raises(UserError, match=message):
        Progress(tiny(), Store(cache / "runs", (tmp_path / "spoilt.parquet",))).finished()


def test_parts_are_only_added(done, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_RESULTS", str(tmp_path))
    first = record_runs(tiny(recorded=True, seeds=[0]))
    whole = first.read_bytes()
    second = record_runs(tiny(recorded=True))
    assert first.parent == second.parent == tmp_path / "tiny"
    assert record_runs(tiny(recorded=True)) is None
    assert first.read_bytes() == whole
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path / "none"))
    found = open_progress(tiny(recorded=True)).finished()
    assert len(found) == len(done)
    arrays = {"predictions": None, "validation": None}
    for new, old in zip(found, done, strict=True):
        assert vars(new) | arrays == vars(old) | arrays
        for name in arrays:
            assert getattr(new, name).tolist() == getattr(old, name).tolist()
    for spoil in (_flip, _empty):
        spoil(second)
        mistake(f"recorded runs in {second} are damaged; get", open_progress, tiny(recorded=True))


def test_results_are_found_and_their_lists_of_records_checked(tmp_path, monkeypatch):
    study = load_study("clinical")
    whole = selection(study, "cpsc2018")
    shutil.copytree(results_root() / "records", tmp_path / "mine" / "records")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ECGNB_RESULTS", "~/mine")
    assert selection(study, "cpsc2018").equals(whole)
    path = tmp_path / "mine" / "records" / "cpsc2018.csv"
    path.write_text(path.read_text().replace("male", "female", 1))
    mistake(r"cpsc2018.csv is not as it was recorded", selection, study, "cpsc2018")
    monkeypatch.delenv("ECGNB_RESULTS")
    (tmp_path / "there" / "share" / "ecgnb" / "results" / "records").mkdir(parents=True)
    monkeypatch.setattr(data.ecgnb, "__file__", str(tmp_path / "there" / "ecgnb" / "__init__.py"))
    assert results_root() == tmp_path / "there" / "share" / "ecgnb" / "results"


def test_a_full_disk_is_one_sentence_and_costs_a_checkpoint_at_most(materials, cache, monkeypatch):
    resource = pytest.importorskip("resource", reason="only Linux and macOS limit files")
    cells = {cell.arm: replace(cell, source_learning_rate=0.01) for cell in tiny().cells()}
    monkeypatch.setattr(checkpoints, "_EVERY_S", 0.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What is longer than a result of the tiny study, and shorter than its weights.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.warns(UserWarning, match="^cannot write to .* now begins again") as told:
            key = execute(materials, replace(cells["scratch"], learning_rate=0.01))
        monkeypatch.setattr(checkpoints, "_EVERY_S", 60.0)
        with pytest.raises(UserError, match=r"\(File too large\): free some space; no fin"):
            execute(materials, cells["finetune"].pretraining())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(told) == 1
    assert [path.stem for path in cache.glob("runs/??/*")] == [key]


RUN_TINY = """
from tiny import tiny
from ecgnb.study.run import run_study
if __name__ == "__main__":
    run_study(tiny({"sizes": [30]}), workers=2, progress=False)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_and_repeats_nothing(ran, materials, cache, tmp_path, monkeypatch):
    script = tmp_path / "run_tiny.py"
    script.write_text(RUN_TINY)
    seen = {}
    for kill_at in (1, 9, 99):
        process = begin(script)
        wait_for(lambda one=process, many=kill_at: one.poll() == 0 or len(written(cache)) >= many)
        process.kill()
        process.wait()
        found = written(cache)
        assert seen.items() <= found.items()
        seen = found
    assert process.returncode == 0
    assert not list((cache / "runs").rglob(".*"))
    study = tiny({"sizes": [30]})
    mine = {run.key: run for run in open_progress(study).all_done()}
    monkeypatch.setenv("ECGNB_CACHE", str(ran[0]))
    whole = {run.key: run for run in open_progress(study).all_done()}
    assert whole.keys() == mine.keys() == {path.stem for path in seen}
    assert all(np.array_equal(whole[key].predictions, mine[key].predictions) for key in whole)


@pytest.mark.parametrize("late", [False, True])
def test_a_process_ends_with_its_parent(late):
    """Also one that is still beginning when its parent is killed."""
    begin = "import os, sys, time; from ecgnb.files import end_with; "
    watch = "end_with(int(sys.argv[1])); "
    say = "print('begun', flush=True); "
    child = begin + (say + "time.sleep(1); " + watch if late else watch + say) + "time.sleep(60)"
    parent = "import os, subprocess, sys; "
    parent += f"subprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])"
    begun = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert begun.stdout.readline() == b"begun\n"
    begun.kill()
    started = time.monotonic()
    assert begun.stdout.read() == b""  # comes when the child, which holds it too, has ended
    assert time.monotonic() - started < 30


def test_what_stands_over_the_pairs_holds_for_those_that_say_nothing_else():
    pair = TINY["pairs"][0]
    other = {**pair, "source": {**pair["source"], "updates": 8}, "seeds": 4, "arms": ["scratch"]}
    rates = {"RNN": [0.1], "lstm": [0.2]}
    study = tiny(pairs=[pair, other], learning_rates=rates)
    assert [pair.seeds for pair in study.pairs] == [(0, 1), (0, 1, 2, 3)]
    assert study.seeds == (0, 1, 2, 3)
    assert (study.rates("gru"), study.rates("lstm")) == ((0.1,), (0.2,))
    cells = list(study.cells())
    # The first pair's runs from scratch are those of the second as well.
    assert len(cells) == len(set(cells)) == 2 * 2 * 4 + 2 * 2


def test_a_network_as_it_came_is_asked_and_not_trained(materials):
    one = {"label_set": "challenge-2021"}
    study = tiny(source=one, target=one, arms=["as-is", "scratch"], seeds=[0])
    asked = [run for run in do(study) if run.spec.arm == "as-is"]
    assert [run.spec.size for run in asked] == [0]  # once, whatever others are trained on
    tuned = {run.arm for run in open_progress(study).runs() if run.stage == "tune"}
    assert "as-is" not in tuned
    (run,) = asked
    assert run.facts["training_seconds"] == 0
    labels = materials.labels(run.spec.dataset, run.spec.label_set, run.spec.min_positives)
    assert list(labels) == list(LABEL_SETS["challenge-2021"].classes)
    shown = labels.any().to_numpy()  # the others nobody asks about
    assert run.classes == tuple(labels.columns[shown])
    assert not shown.all()
    assert len(run.facts["thresholds"]) == shown.sum()
    model = build_model("gru", "pooled", len(shown), 200, 5)
    path = materials.store.weights(run.spec.pretraining().key(materials.fingerprints))
    load_encoder(model, path, head=True)
    records = materials.records(run.spec.dataset, materials.split(run.spec).test)
    expected = predict(model, records, run.facts["precision"]).astype(np.float16)
    assert np.array_equal(run.predictions, expected[:, shown])
    assert run.validation.size == 0  # as of all frozen encoders


def test_a_source_has_a_size_and_may_lose_what_its_labels_say(materials, monkeypatch):
    study = tiny({"sizes": [30]}, {"size": 50}, arms=["finetune"], learning_rates=[0.01])
    cell = next(study.cells())
    plain, first = cell.pretraining(), replace(cell, shuffled=True).pretraining()
    other = replace(plain, seed=1)
    assert (plain.size, plain.shuffled, first.shuffled) == (50, False, True)
    drawn = [materials.split(run).train[:50] for run in (plain, plain, other)]
    assert np.array_equal(drawn[0], drawn[1])
    assert len({*drawn[0], *drawn[2]}) > 60
    trained = Mock(side_effect=trainer.train_arm)
    monkeypatch.setattr(trainer, "train_arm", trained)
    for run in (plain, first):
        execute(materials, replace(run, learning_rate=0.01))
    seen, mixed = (call.args[2].labels for call in trained.call_args_list)
    assert (seen != mixed).any()
    labels = materials.labels(plain.dataset, plain.label_set, plain.min_positives)
    assert np.array_equal(seen, labels.to_numpy()[drawn[0]])
    assert plain.key(materials.fingerprints) != first.key(materials.fingerprints)


def test_heads_go_by_model_and_family():
    study = tiny(
        models=["resnet1d18", "gru", "lstm"],
        heads={"CNN": ["linear", "hidden"], "RNN": ["pooled"], "lstm": ["flattened"]},
    )
    assert " ".join(dict(study.pairs[0].networks()).values()) == "hidden pooled flattened"
    assert {(cell.model, cell.head) for cell in study.cells()} == {*study.pairs[0].networks()}


def test_what_is_kept_short_is_near(cache):
    values = np.random.default_rng(0).random(1000).astype(np.float32) ** 8
    assert np.allclose(short(values), values, rtol=0.126, atol=1e-6)
    assert np.array_equal(short(short(values)), short(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": ["flat"]}, "unknown head 'flat'; choose pooled or flattened"),
        ({"heads": ["linear"]}, "gru has no head 'linear'"),
        ({"heads": {"RNN": ["pooled"], "CNNs": ["linear"]}}, "family 'CNNs'.*'CNN'"),
        ({"heads": "pooled"}, "'heads' must be a list of texts"),
        ({"arms": ["frozen"]}, "linear-probe"),
        ({"protocol": "draft"}, "clean, paper"),
        ({"epochs": 3}, "either epochs, or evaluations"),
        ({"tuning_seed": 1}, "tuning seed"),
        ({"seeds": 0}, "'seeds' is empty"),
        ({"batch_size": 0}, "'batch_size' must be at least 1, not 0"),
        ({"learning_rates": ["0.003"]}, "'learning_rates' must be a list of numbers"),
        ({"learning_rates": [0]}, "'learning_rates' must be above 0"),
        ({"learning_rates": {"": [0.1], "grue": [0.1]}}, "no model or family 'grue'.*'gru'"),
        ({"recipe": {"CNNs": "one-cycle"}}, "no model or family 'CNNs'.*'CNN'"),
        ({"arms": ["imagenet"]}, "no weights of ImageNet for gru"),
        ({"models": ["resnet"], "arms": ["imagenet"]}, "unknown model 'resnet'"),
        ({"data": {"rate": "50"}}, "'rate' must be a number"),
        ({"recorded": "no"}, "'recorded' must be true or false"),
        ({"chapters": 5}, "'chapters' must be a table"),
        ({"batchsize": 8}, "no field 'batchsize' .did you mean 'batch_size'"),
        ({"pairs": 5}, "'pairs' must be tables"),
        ({"title": 5}, "'title' must be text in quotes, not 5"),
        ({"seeds": 16**5000}, "'seeds' must be 1 to 10,000"),
        ({"deep": reduce(lambda inner, _: [inner], range(3000))}, "holds a value that no study"),
        ({"data": {"simulated_records": 10**12}}, "'simulated_records' must be 1 to 1,000,000"),
        ({"seeds": 1e10}, "'seeds' must be a list of whole numbers, or how many, not 1"),
        ({"learning_rates": [float("inf")]}, "'learning_rates' must be"),
        ({"data": {"rate": 1e308}}, "'rate' must be 1 to 10,000 Hz"),
        ({"data": {"rat": 50}}, "no field 'rat' .did you mean 'rate'"),
        ({"protocol": "paper"}, "trains whole networks, and the arm linear-probe a head"),
        ({"pair": {"sizes": 20}}, "'sizes' must be a list of whole numbers"),
        ({"pair": {"sizes": []}}, "'sizes' is empty"),
        ({"pair": {"sizes": [-1]}}, "'sizes' must be at least 0, not -1"),
        ({"pair": {"source": "sim-north"}}, "'source' must be a table"),
        ({"source": {"labelset": "scp-all"}}, "no field 'labelset' .did you mean 'label_set'"),
        ({"source": {"label_set": "snomed-al"}}, "did you mean 'snomed-all'"),
        ({"source": {"label_set": "scp-all"}}, "read from scp codes"),
        ({"source": {"label_set": "unlabelled"}}, "gru cannot be pre-trained without labels"),
        ({"source": {"label_set": "challenge-2021"}, "arms": ["as-is"]}, "as-is needs one label"),
        ({"arms": ["as-is"]}, "one label set, of given classes, .* not snomed-all"),
        ({"arms": ["probe-then-finetune"], "target": {"updates": 1}}, "needs two or more"),
        ({"table": {"shard": [1, 3]}}, "has no field 'shard'"),
        ({"models": ["kernels"]}, "unknown model 'kernels'"),
        ({"data": {"rate": 10, "seconds": 0.5}}, "a window 9 samples or more, not 10 and 0.5"),
        ({"target": {"dataset": [1]}}, "'dataset' must be text in quotes, not .1."),
        ({"target": {"label_set": "unlabelled"}}, "unknown label set 'unlabelled'"),
        ({"target": {"updates": 0}}, "the updates of every target"),
        ({"target": {"size": 50}}, "'size' and 'shuffled' are of a source"),
        ({"target": {"shuffled": True}}, "'size' and 'shuffled' are of a source"),
        ({"source": {"updates": 0}}, "of every source that is trained on"),
        ({"target": {"min_positives": "few"}}, "'min_positives' must be a whole number"),
    ],
)
def test_mistakes_in_a_study_are_one_sentence(changes, message):
    mistake(message, tiny, **changes)


def test_a_source_that_nobody_trains_on_needs_no_updates():
    assert tiny(source={"updates": 0}, arms=["scratch"]).pairs[0].source.updates == 0


def test_a_study_from_a_file_replaces_no_recorded_table(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGNB_RESULTS", str(tmp_path))
    (tmp_path / "clinical").mkdir()
    (tmp_path / "clinical" / "one.parquet").write_text("of the published study")
    text = (Path(declare.__file__).parents[1] / "studies" / "clinical.toml").read_text()
    (tmp_path / "clinical.TOML").write_text(text, encoding="utf-8-sig")
    study = load_study(str(tmp_path / "clinical.TOML"))
    assert study.name == "clinical"
    mistake("study clinical is not recorded", record_runs, study)
    (one,) = (tmp_path / "clinical").iterdir()
    assert one.read_text() == "of the published study"


def test_a_table_that_cannot_be_written_is_one_sentence(done, tmp_path, monkeypatch):
    (tmp_path / "results").touch()
    monkeypatch.setenv("ECGNB_RESULTS", str(tmp_path / "results"))
    mistake(r"cannot write to .*ECGNB_RESULTS", record_runs, tiny(recorded=True))


ONE_PAIR = {"target": "sim-south", "models": '["gru"]', "seeds": 2}
NORTH, FEW = ("sim-north", "sim-south", ("gru",)), (("gru",), (50,), (0,))
FIRST = {"sizes": "50", "models": "gru", "seeds": 1}
OTHERS = {**FIRST, "source": "sim-north", "target": "cpsc2018"}


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        # As papermill hands them over: lists are texts.
        ("demo", {**ONE_PAIR, "sizes": "[50, 0]"}, [(*NORTH, (50, 0), (0, 1))] * 2),
        ("demo", {**ONE_PAIR, "sizes": "all"}, [(*NORTH, (0,), (0, 1))] * 2),
        # What no pair has, the first gets.
        ("demo", {"sizes": 70, "models": ["gru"], "seeds": [5]}, [(*NORTH, (70,), (5,))]),
        # Pairs that the study has stay recorded; any other stands in the place of the first.
        ("clinical", OTHERS, [("sim-north", "cpsc2018", *FEW)]),
        ("clinical:sim-south", FIRST, [("ptb-xl", "sim-south", *FEW)]),
        ("demo", {**FIRST, "source": "ptb"}, [("ptb", "sim-south", *FEW)]),
    ],
)
def test_a_reader_asks_for_a_part_or_another_pair(name, asked, expected):
    study = load_study(name, **asked)
    assert [
        (pair.source.dataset, pair.target.dataset, pair.models, pair.sizes, pair.seeds)
        for pair in study.pairs
    ] == expected
    assert study.recorded == (name == "clinical")


def test_chapters_have_studies_of_their_own_for_which_what_was_asked_holds_too():
    for name in ("clinical", "demo"):
        study = load_study(name)
        own = {chapter: chapter_study(study, chapter).name for chapter, _ in study.chapters}
        assert list(own) == ["autoencoder", "generalisation"]
        assert len(set(own.values())) == 2
    assert chapter_study(study, "small_data").name == "demo"
    study = chapter_study(load_study("demo", models=["gru"], sizes=[0], seeds=1), "autoencoder")
    assert study.models == ("autoencoder",)
    assert {cell.size for cell in study.cells()} == {0}
    assert study.seeds == (0,)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        (["demo"], {}, "a study is a name in quotes"),
        ("clinical:", {}, "clinical: names no dataset; write clinical"),
        ("demo:sim-west", {}, "There is no dataset 'sim-west'"),
        ("demo:sim-north+sim-south", {}, r"sim-north\+sim-south is several datasets; name one"),
        ("~nobody-here/a.toml", {}, "Cannot read the study ~nobody-here/a.toml"),
        ("demo", {"target": 5}, "names of a dataset in quotes, not 5"),
        ("demo", {"models": "[gru"}, r"'\[gru' is no list"),
        ("demo", {"models": '[["gru"]]'}, "is no list; write"),
        ("demo", {"sizes": {}}, "is no list; write"),
        ("demo", {"models": "[]"}, "'pairs' is empty"),
        ("demo", {"sizes": ["few"]}, "'sizes' must be a list of whole numbers, not 'few'"),
        ("demo:sim-south", {"target": "ptb"}, "names a target already"),
    ],
)
def test_what_nobody_can_ask_for_is_one_sentence(name, asked, message):
    mistake(message, load_study, name, **asked)


@pytest.mark.parametrize("text", ["a = " + "[" * 2000, "seeds = " + "1" * 5000, "a = 2020-13-01"])
def test_a_file_that_is_no_study_is_one_sentence(text, tmp_path):
    (tmp_path / "odd.toml").write_text(text)
    mistake("not valid TOML", load_study, str(tmp_path / "odd.toml"))
