"""Doing runs: one at a time in a process of its own, as many side by side as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ecgnb.data.splits import source_split, subset, target_split
from ecgnb.errors import UserError
from ecgnb.models import MODELS, build_model
from ecgnb.study.data import (
    fingerprints,
    open_dataset,
    read_labels,
    read_table,
    recorded_runs,
)
from ecgnb.study.plan import inventory, open_runs, resolve
from ecgnb.study.spec import RunSpec, Study
from ecgnb.study.store import Result, Store, open_store, provenance
from ecgnb.training.fit import Data, Schedule, check_precision, choose_device, choose_precision
from ecgnb.training.metrics import best_thresholds, evaluate
from ecgnb.training.transfer import load_encoder, save_weights, train_arm

_ORDER_SEED = 2_000_000  # keeps the order of records apart from the initial weights


def execute(study: Study, spec: RunSpec, store: Store, precision: str = "auto") -> str:
    """Train one run and save its result.

    Parameters
    ----------
    study : Study
        Says how its datasets are prepared.
    spec : RunSpec
        The run; the weights of its pre-training must be in `store`.
    store : Store
        Where the result goes.
    precision : str
        ``auto``, ``float32`` or ``bf16``.

    Returns
    -------
    str
        The key of the run.
    """
    started = time.perf_counter()
    prints = fingerprints(study)
    prepared = open_dataset(study, spec.dataset)
    labels = read_labels(prepared.table, spec.dataset, spec.label_set, spec.min_positives)
    truth = labels.to_numpy()
    split = (
        source_split(prepared.table)
        if spec.stage == "pretrain"
        else target_split(prepared.table, truth, spec.seed)
    )
    rows = subset(split, spec.size)
    device = choose_device()
    entry = MODELS[spec.model]
    chosen = choose_precision(precision, device, entry.half_precision_on_cpu)
    _make_deterministic()

    def inputs(part: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(prepared.signals[part])).to(device)

    def data(part: npt.NDArray[np.int64]) -> Data:
        return Data(inputs(part), torch.from_numpy(truth[part].astype(np.float32)).to(device))

    model = build_model(spec.model, spec.head, truth.shape[1], prepared.signals.shape[2], spec.seed)
    pretraining = spec.pretraining()
    if pretraining:
        load_encoder(model, store.weights(pretraining.key(prints)))
    trained = train_arm(
        model.to(device),
        spec.arm,
        data(rows),
        data(split.validation),
        None if spec.stage == "tune" else inputs(split.test),
        Schedule(
            spec.learning_rate,
            spec.updates,
            spec.batch_size,
            spec.evaluations,
            _ORDER_SEED + spec.seed,
        ),
        precision=chosen,
    )
    facts: dict[str, object] = {
        "train_records": len(rows),
        "validation_records": len(split.validation),
        "validation_auroc": trained.fitted.validation_auroc,
        "best_update": trained.fitted.best_update,
        "precision": chosen,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        **provenance(),
    }
    records: tuple[str, ...] = ()
    predictions = trained.test.astype(np.float16)
    if spec.stage != "tune":
        records = tuple(prepared.table["record"].iloc[split.test])
        thresholds = best_thresholds(truth[split.validation], trained.validation)
        # Scores are taken from what is stored, so that anyone can compute them again.
        scores = asdict(evaluate(truth[split.test], predictions.astype(np.float64), thresholds))
        facts.update(scores, thresholds=[float(value) for value in thresholds])
    facts["seconds"] = time.perf_counter() - started
    key = spec.key(prints)
    classes = tuple(labels.columns)
    result = Result(key, spec, classes, records, predictions, trained.fitted.history, facts)
    weights = partial(_write_weights, model, spec) if spec.stage == "pretrain" else None
    store.save(result, weights)
    return key


def _write_weights(model: torch.nn.Module, spec: RunSpec, path: Path) -> None:
    save_weights(model, path, asdict(spec))  # type: ignore[arg-type]


def _make_deterministic() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


class Progress:
    """What is known of the runs of a study, and which of them can start."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.store = store
        self.fingerprints = fingerprints(study)
        self._scores: dict[str, float] = {}
        self._key = lru_cache(maxsize=None)(lambda spec: spec.key(self.fingerprints))

    def score(self, spec: RunSpec) -> float | None:
        """Return the validation AUROC of a run, or None if it has not been done."""
        key = self._key(spec)
        if key not in self._scores:
            result = self.store.load(key)
            if result is None:
                return None
            self._scores[key] = float(result.facts["validation_auroc"])
        return self._scores[key]

    def has_encoder(self, spec: RunSpec) -> bool:
        """Tell whether the weights of a pre-training are in the cache."""
        return self.store.has_weights(self._key(spec))

    def open_runs(self) -> list[RunSpec]:
        """List the missing runs that can start now."""
        return open_runs(self.study, self.score, self.has_encoder)

    def all_done(self) -> list[Result]:
        """Return the results of all runs that are done, tuning and pre-training among them."""
        specs: dict[RunSpec, None] = {}
        for cell in self.study.cells():
            known = resolve(self.study, cell, self.score).run
            tuned = known or cell
            runs = [*self.study.source_candidates(cell), *self.study.candidates(tuned)]
            for run in (*runs, known, tuned.pretraining()):
                if run:
                    specs.setdefault(run)
        found = (self.store.load(self._key(spec)) for spec in specs)
        return [result for result in found if result]

    def finished(self) -> list[Result]:
        """Return the results of all final runs that are done, in the order of the study."""
        found = []
        for cell in self.study.cells():
            spec = resolve(self.study, cell, self.score).run
            result = self.store.load(self._key(spec)) if spec else None
            if result:
                found.append(result)
        return found


def open_progress(study: Study) -> Progress:
    """Look up what is known of a study, on this computer and in its recorded results."""
    return Progress(study, open_store(recorded_runs(study)))


def default_workers() -> int:
    """Return how many runs go side by side: one a core, or one if there is a GPU."""
    if torch.cuda.is_available():
        return 1
    if hasattr(os, "sched_getaffinity"):  # what this process may use, where the system tells
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_study(
    study: Study,
    *,
    workers: int | None = None,
    precision: str = "auto",
    progress: bool = True,
) -> list[Result]:
    """Do all missing runs of a study, and return the results of all its final runs.

    Each run trains on one thread in a process of its own, so that its numbers do not depend on
    how many run side by side. Whatever stops the work, finished runs stay and are not repeated.

    Parameters
    ----------
    study : Study
    workers : int, optional
        Processes side by side; by default one a core, or one if there is a GPU.
    precision : str
        ``auto``, ``float32`` or ``bf16``.
    progress : bool
        Whether to show a progress bar.
    """
    check_precision(precision)
    state = open_progress(study)
    if not state.open_runs():
        return state.finished()
    for dataset in study.datasets:
        open_dataset(study, dataset, progress=progress)
    _check_sizes(study)
    count = workers or default_workers()
    job = partial(_work, study, state.store, precision)
    _drain(state, count, job, progress)
    return state.finished()


def _check_sizes(study: Study) -> None:
    """Raise a UserError now rather than after an hour of training."""
    for pair in study.pairs:
        target = pair.target
        table = read_table(study, target.dataset)
        labels = read_labels(table, target.dataset, target.label_set, target.min_positives)
        for seed in (*study.seeds, study.tuning_seed):
            split = target_split(table, labels.to_numpy(), seed)
            subset(split, max(pair.sizes))


def _drain(state: Progress, workers: int, job: Callable[[RunSpec], str], progress: bool) -> None:
    running: dict[Future[str], RunSpec] = {}
    context = multiprocessing.get_context("spawn")
    planned = inventory(state.study, state.score)
    bar = tqdm(
        total=len(planned),
        initial=sum(run.done for run in planned),
        desc=f"study {state.study.name}",
        unit="run",
        disable=not progress,
    )
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool, bar:
        try:
            while True:
                waiting = [run for run in state.open_runs() if run not in running.values()]
                for run in waiting[: workers - len(running)]:
                    running[pool.submit(job, run)] = run
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    del running[future]
                    future.result()
                    bar.update()
        except BrokenProcessPool as error:
            raise UserError(
                "a training process was ended from outside, most likely for want of memory; "
                "finished runs are kept: run again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _work(study: Study, store: Store, precision: str, spec: RunSpec) -> str:
    return execute(study, spec, store, precision)


def _one_thread() -> None:
    torch.set_num_threads(1)
