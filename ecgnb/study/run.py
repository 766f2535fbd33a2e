"""Doing runs: each on one thread, as many processes side by side as the machine carries."""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil
import torch
from tqdm import tqdm

from ecgnb.data.splits import source_split, subset, target_split
from ecgnb.errors import UserError
from ecgnb.files import end_with
from ecgnb.models.build import training_bytes
from ecgnb.study import data
from ecgnb.study.plan import Estimate, Progress, duration, open_progress
from ecgnb.study.spec import RunSpec, Side, Study
from ecgnb.study.store import Result, Store
from ecgnb.study.train import Materials, execute
from ecgnb.training.arms import ARMS
from ecgnb.training.device import LARGE_PAGES, check_precision
from ecgnb.training.inputs import MIN_VALIDATION_POSITIVES
from ecgnb.training.metrics import UNLABELLED, eligible

Rows = npt.NDArray[np.int64]

_PROCESS_BYTES = 0.7e9  # of a training process without its network, most of it torch
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of the container or job, where there is one
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} runs, {elapsed} so far{postfix}"
_REFRESH_S = 5.0
_FIFTHS = 5  # of a target; see `ecgnb.data.splits.target_split`


def worker_bytes(study: Study) -> float:
    """Estimate what a training process takes at most; the data are shared by all."""
    networks = {network for pair in study.pairs for network in pair.networks()}
    sizes = (training_bytes(*network, study.data.samples) for network in networks)
    most = max((weights + study.batch_size * record for weights, record in sizes), default=0.0)
    return _PROCESS_BYTES + most


def default_workers(study: Study) -> int:
    """Return how many runs go side by side: as cores and memory allow, or one if there is a GPU."""
    if torch.cuda.is_available():
        return 1
    # Both as far as this process may use them: a container or a cluster's job may grant less.
    return max(1, min(joblib.cpu_count(), int(_free_memory() / worker_bytes(study))))


def _free_memory() -> float:
    free = float(psutil.virtual_memory().available)
    try:
        return min(free, float(_MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return free


def run_study(
    study: Study, *, workers: int | None = None, precision: str = "auto", progress: bool = True
) -> list[Result]:
    """Do all missing runs of a study, and return the results of all its final runs.

    Each run trains on one thread, so that its numbers do not depend on how many processes, the
    `workers`, run side by side. Whatever stops the work, finished runs stay and are not repeated.
    On `precision` see `ecgnb.training.device.choose_precision`.
    """
    check_precision(precision)
    study = data.with_what_is_here(study)
    state = open_progress(study)
    state.store.tidy()
    results = state.finished()  # before what is missing is asked for: what is damaged is made again
    if not state.open_runs():
        return results
    for dataset in study.datasets:
        data.open_dataset(study, dataset, progress=progress)
    check_data(study)
    missing = state.missing()
    count = min(workers or default_workers(study), len(missing))
    with tqdm(
        total=len(missing), desc=f"study {study.name}", disable=not progress, bar_format=_BAR
    ) as bar:
        _Runner(state, count, precision, bar).run()
    return state.finished()


def check_data(study: Study) -> None:
    """See that there is something to learn and something to score, before anything is trained.

    Raises a UserError if there is not, if a training size is larger than the training set, or a
    patient stands on two sides of a split. Datasets that are missing are passed over.
    """
    absent = data.missing_datasets(study)
    for source in {p.source for p in study.pairs if any(ARMS[arm].pretrained for arm in p.arms)}:
        if source.label_set != UNLABELLED and source.dataset not in absent:
            table, labels = _labels(study, source)
            split = source_split(table)
            subset(split, source.size)
            place = {"validation": split.validation}
            _check_classes(study, source, labels, place, MIN_VALIDATION_POSITIVES)
    asked = {(p.target, p.min_test_positives, p.seeds, max(p.sizes)) for p in study.pairs}
    for target, least, seeds, size in asked:
        if target.dataset not in absent:
            _check_target(study, target, least, seeds, size)


def _labels(study: Study, side: Side) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = data.read_table(study, side.dataset)
    return table, data.read_labels(table, side.dataset, side.label_set, side.min_positives)


def _check_target(
    study: Study, target: Side, least: int, seeds: tuple[int, ...], size: int
) -> None:
    table, labels = _labels(study, target)
    if "flags" in table and table["flags"].str.contains("clipped").all():
        raise UserError(
            f"study {study.name}: every record of {target.dataset} is clipped at 32.8 mV; its "
            "amplitudes are not in the unit that its card says"
        )
    tested = {}
    # Of seeds that test on the same fifth one is asked; only its order is another's.
    for seed in {seed % _FIFTHS: seed for seed in (study.tuning_seed, *seeds)}.values():
        split = target_split(table, labels.to_numpy(), seed)
        subset(split, size)
        place = {f"validation with seed {seed}": split.validation}
        _check_classes(study, target, labels, place, MIN_VALIDATION_POSITIVES)
        if seed in seeds:
            tested[f"the test set with seed {seed}"] = split.test
    _check_classes(study, target, labels, tested, least)


def _check_classes(
    study: Study, side: Side, labels: pd.DataFrame, places: dict[str, Rows], least: int
) -> None:
    """Raise a UserError if in none of some parts a class has enough records with and without it."""
    truth = labels.to_numpy()
    if any(eligible(truth[part], least).any() for part in places.values()):
        return
    counts = labels.sum().sort_values(ascending=False)
    known = ", ".join(f"{name} {count:,}" for name, count in counts.head(5).items())
    none = f"none is named by {side.label_set} {side.min_positives} times or more"
    raise UserError(
        f"study {study.name}: no class of {side.dataset} has {least} records with it and {least} "
        f"without it in {next(iter(places))}, so nothing can be scored; "
        f"of {len(labels):,} records, {(~truth.any(axis=1)).sum():,} without a class: "
        f"{known or none}"
    )


# What a process tells of a run: the seconds that it took and the warnings, which it does not print
# itself, so that no output is mixed; None if another runner on the same folder has the run.
_Done = tuple[float, list[str]] | None


class _Runner:
    """Keeps all processes busy, and the user told."""

    def __init__(self, state: Progress, workers: int, precision: str, bar: tqdm) -> None:
        self.state = state
        self.workers = workers
        self.precision = precision
        self.bar = bar
        self.estimate = Estimate(state.study)
        self.running: dict[Future[_Done], tuple[RunSpec, float]] = {}
        self.told: set[str] = set()
        self.taken: dict[RunSpec, float] = {}

    def run(self) -> None:
        os.environ.setdefault(*LARGE_PAGES)
        try:
            pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(os.getpid(), self.state.study, self.state.store),
            )
        except OSError as error:  # of the semaphores that processes share
            raise UserError(
                f"no process can be started, as /dev/shm cannot be used ({error.strerror}); let it "
                "be written, as by --shm-size of a container, and run again"
            ) from error
        others = multiprocessing.active_children()
        with pool:
            try:
                while self._submit(pool) or self.taken:
                    if self.running:
                        done, _ = wait(self.running, _REFRESH_S, return_when=FIRST_COMPLETED)
                        for future in done:
                            self._finish(future)
                    else:
                        time.sleep(_REFRESH_S)
                    self._show_time_left()
            except BrokenProcessPool as error:
                raise UserError(
                    "a training process was ended from outside, most likely for want of memory; "
                    "finished runs are kept: run again with fewer --workers"
                ) from error
            except BaseException:  # also Ctrl-C: nobody waits for what goes on from a checkpoint
                for process in {*multiprocessing.active_children()} - {*others}:
                    process.terminate()
                raise

    def _submit(self, pool: ProcessPoolExecutor) -> bool:
        """Start what can start; tell whether anything runs."""
        running = [spec for spec, _ in self.running.values()]
        if free := self.workers - len(running):
            open_, recently = self.state.open_runs(), time.monotonic() - _REFRESH_S
            # What another runner took is asked for again after a while.
            taken = {spec: self.taken[spec] for spec in open_ if spec in self.taken}
            self.taken = {spec: then for spec, then in taken.items() if then > recently}
            waiting = [spec for spec in open_ if spec not in running and spec not in self.taken]
            for spec in in_order(waiting, running, self.estimate)[:free]:
                key = spec.key(self.state.fingerprints)
                with _unheard():
                    future = pool.submit(_work, spec, key, self.precision)
                self.running[future] = spec, time.monotonic()
        return bool(self.running)

    def _finish(self, future: Future[_Done]) -> None:
        spec, _ = self.running.pop(future)
        done = future.result()
        if done is None:
            self.taken[spec] = time.monotonic()
            return
        seconds, texts = done
        self.estimate.learn(spec, seconds)
        self.bar.update()
        for text in texts:
            if text not in self.told:
                self.told.add(text)
                self.bar.write(f"ecgnb: {text}", file=sys.stderr)

    def _show_time_left(self) -> None:
        if self.bar.disable:
            return
        now = time.monotonic()
        running = [(spec, now - begun) for spec, begun in self.running.values()]
        missing = self.state.missing()
        # A choice of learning rate may fall on runs that are done already.
        self.bar.total = self.bar.n + len(missing)
        left = self.estimate.left(missing, running)
        if left is not None:
            self.bar.set_postfix_str(f"about {duration(left / self.workers)} left")


def in_order(waiting: list[RunSpec], running: list[RunSpec], estimate: Estimate) -> list[RunSpec]:
    """Order runs that can start.

    One run of each model comes first, to learn what it costs here. Then what others wait for: the
    tuning; then seed by seed, so that what is finished is balanced, and within a seed the longest
    first, so that none is left alone at the end.
    """
    ordered = sorted(
        waiting, key=lambda spec: (spec.stage != "tune", spec.seed, -estimate.work(spec))
    )
    seen = {spec.model for spec in running}
    first: dict[str, RunSpec] = {}
    for spec in ordered:
        if spec.model not in seen and not estimate.knows(spec):
            first.setdefault(spec.model, spec)
    return [*first.values(), *(spec for spec in ordered if spec not in first.values())]


@contextmanager
def _unheard() -> Iterator[None]:
    """Let processes that begin here not hear Ctrl-C: this one hears it too, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_materials: Materials  # of a training process: it does all its runs with the same


def _begin(parent: int, study: Study, store: Store) -> None:
    global _materials
    end_with(parent)
    torch.set_num_threads(1)
    _materials = Materials(study, store)


def _work(spec: RunSpec, key: str, precision: str) -> _Done:
    started, store = time.perf_counter(), _materials.store
    if key != spec.key(_materials.fingerprints):
        raise UserError(f"{spec.dataset} or {spec.source} has changed meanwhile: run again")
    there = store.has_weights if spec.stage == "pretrain" else store.has
    with store.claim(key) as mine, warnings.catch_warnings(record=True) as caught:
        if not mine or there(key):
            return None
        execute(_materials, spec, precision)
    return time.perf_counter() - started, [str(entry.message) for entry in caught]
