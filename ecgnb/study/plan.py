"""Which runs of a study are done, which can start now, and what is still to come.

A final run needs a learning rate, chosen among tuning runs, and the encoder of a pre-training,
whose own learning rate is chosen too. So the list of runs unfolds as results come in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ecgnb.data.catalog import card
from ecgnb.errors import UserError
from ecgnb.files import writable
from ecgnb.study.data import fingerprints, missing_datasets, read_table, recorded_runs
from ecgnb.study.spec import ALL, RunSpec, Study, changed
from ecgnb.study.store import Result, Store, open_store, write_table
from ecgnb.training.arms import ARMS

Score = Callable[[RunSpec], float | None]
"""The validation score of a run, or None if it has not been done."""


@dataclass(frozen=True)
class Resolved:
    """A cell of the study's grid, as far as it is known which run it stands for.

    Attributes
    ----------
    cell : RunSpec
        With the learning rates that are chosen already; others are 0.
    waits_for : tuple of RunSpec
        The runs that the next choice waits for.
    """

    cell: RunSpec
    waits_for: tuple[RunSpec, ...] = ()

    @property
    def run(self) -> RunSpec | None:
        """The run it stands for, or None while a choice is open."""
        return None if self.waits_for else self.cell


def resolver(study: Study, score: Score) -> Callable[[RunSpec], Resolved]:
    """Return a function that finds the run of a cell, as far as the results so far decide it.

    Parameters
    ----------
    study : Study
    score : callable
        What is known of a run.

    Returns
    -------
    callable
        For one of `Study.cells`. Cells that differ in their seed alone share their learning rate,
        so it is looked up once.
    """
    known: dict[RunSpec, Resolved] = {}

    def resolve(cell: RunSpec) -> Resolved:
        tuning = changed(cell, seed=study.tuning_seed)
        if tuning not in known:
            known[tuning] = _resolve(study, tuning, score)
        found = known[tuning]
        return Resolved(changed(found.cell, seed=cell.seed), found.waits_for)

    return resolve


def _resolve(study: Study, cell: RunSpec, score: Score) -> Resolved:
    if cell.source:
        rate, missing = _choose(study.source_candidates(cell), score)
        if missing:
            return Resolved(cell, missing)
        cell = replace(cell, source_learning_rate=rate)
    rate, missing = _choose(study.candidates(cell), score)
    if missing:
        return Resolved(cell, missing)
    return Resolved(replace(cell, learning_rate=rate))


def _choose(candidates: list[RunSpec], score: Score) -> tuple[float, tuple[RunSpec, ...]]:
    """Choose the learning rate with the best validation score, the lower one of equals."""
    if len(candidates) == 1:
        return candidates[0].learning_rate, ()
    scores = {run: score(run) for run in candidates}
    missing = tuple(run for run, value in scores.items() if value is None)
    if missing:
        return 0.0, missing
    best = max(candidates, key=lambda run: (scores[run], -run.learning_rate))
    return best.learning_rate, ()


def open_runs(study: Study, score: Score, has_encoder: Callable[[RunSpec], bool]) -> list[RunSpec]:
    """List the runs that are missing and can start now, in the order of the study.

    Parameters
    ----------
    study : Study
    score : callable
        What is known of a run.
    has_encoder : callable
        Whether the weights of a pre-training are at hand; a recorded one without its weights is
        trained again when a run needs it.
    """
    found: dict[RunSpec, None] = {}
    resolve = resolver(study, score)
    for cell in study.cells():
        resolved = resolve(cell)
        runs = resolved.waits_for or (resolved.cell,)
        for run in runs:
            if score(run) is not None:
                continue
            pretraining = run.pretraining()
            if pretraining and not has_encoder(pretraining):
                found.setdefault(pretraining)
            else:
                found.setdefault(run)
    return list(found)


def first_seeds(study: Study, count: int | None) -> Study:
    """Return a study with the first seeds of each pair only; with all of them for None.

    One seed needs every learning rate chosen, so it does all the tuning of the study.
    """
    pairs = tuple(replace(pair, seeds=pair.seeds[:count]) for pair in study.pairs)
    return replace(study, pairs=pairs)


@dataclass(frozen=True)
class Planned:
    """A run as far as it is known before learning rates are chosen, and whether it is done."""

    spec: RunSpec
    done: bool


def inventory(study: Study, score: Score) -> list[Planned]:
    """List every run that a study needs, in all stages, done or not."""
    found: dict[RunSpec, bool] = {}
    resolve = resolver(study, score)
    tuned: set[RunSpec] = set()
    for cell in study.cells():
        known = resolve(cell).cell
        runs = [known]
        if pretraining := known.pretraining():
            runs.append(pretraining)
        tuning = changed(known, seed=study.tuning_seed)
        if tuning not in tuned:
            tuned.add(tuning)
            for several in (study.candidates(tuning), study.source_candidates(cell)):
                runs += several if len(several) > 1 else []
        for run in runs:
            # Only tuning runs are known by their learning rate before one is chosen.
            rate = run.learning_rate if run.seed == study.tuning_seed else 0.0
            name = changed(run, learning_rate=rate, source_learning_rate=0.0)
            found[name] = found.get(name, False) or score(run) is not None
    return [Planned(spec, done) for spec, done in found.items()]


def size_label(size: int) -> str:
    """Write a training size; `ALL` as ``all``."""
    return "all" if size == ALL else f"{size:,}"


_SOURCE_PART, _TARGET_PART = 0.1, 0.2  # of the records validate, and as many test
UPDATE_PASSES = 3  # an update costs about three forward passes: one forward and two backward
RUN_S = 0.2  # what a run takes beside its records: reading weights, scoring, storing


class Estimate:
    """What the runs of a study cost.

    Parameters
    ----------
    study : Study
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._known: dict[tuple[str, ...], tuple[float, float]] = {}
        self._missing = missing_datasets(study)
        self._count = lru_cache(maxsize=None)(self._records)

    def _records(self, dataset: str) -> int:
        if dataset in self._missing:
            return card(dataset).records  # as published
        return len(read_table(self._study, dataset))

    def work(self, spec: RunSpec) -> float:
        """Count the forward passes of a run: records times passes through the encoder."""
        count = self._count(spec.dataset)
        part = count * (_SOURCE_PART if spec.stage == "pretrain" else _TARGET_PART)
        train = spec.size or count - 2 * part
        tested = 0 if spec.stage == "tune" else part
        if not ARMS[spec.arm].trained:
            return part + tested
        if ARMS[spec.arm].frozen:
            return train + part + tested
        if spec.epochs:  # each is looked at twice: on validation and on the test set
            return UPDATE_PASSES * spec.epochs * train + 2 * (spec.epochs + 1) * part
        updates = (1 - ARMS[spec.arm].probing) * spec.updates
        trained = UPDATE_PASSES * updates * min(spec.batch_size, train)
        return trained + (spec.evaluations + 1) * part + tested

    def learn(self, spec: RunSpec, seconds: float) -> None:
        """Take note of how long a run took."""
        for group in _groups(spec):
            spent, work = self._known.get(group, (0.0, 0.0))
            self._known[group] = spent + max(seconds - RUN_S, 0), work + self.work(spec)

    def knows(self, spec: RunSpec) -> bool:
        """Tell whether a run of the same model has finished."""
        return _groups(spec)[1] in self._known

    def seconds(self, spec: RunSpec) -> float:
        """Estimate how long a run takes, from runs of its kind if any has finished."""
        spent, work = next(self._known[group] for group in _groups(spec) if group in self._known)
        return spent / work * self.work(spec) + RUN_S

    def left(
        self, missing: Iterable[RunSpec], running: Iterable[tuple[RunSpec, float]]
    ) -> float | None:
        """Add up the seconds of work that are left, on one process; None before any has finished.

        Parameters
        ----------
        missing : iterable of RunSpec
            All runs that are not finished.
        running : iterable of (RunSpec, float)
            Those of them that have begun, and for how many seconds they have run.
        """
        if not self._known:
            return None
        total = sum(self.seconds(spec) for spec in missing)
        return total - sum(min(age, self.seconds(spec)) for spec, age in running)


def _groups(spec: RunSpec) -> list[tuple[str, ...]]:
    """Name the groups whose runs cost alike a forward pass, the closest first."""
    frozen = "frozen" if ARMS[spec.arm].frozen else "trained"
    return [(spec.model, spec.head, frozen), (spec.model,), ()]


def duration(seconds: float) -> str:
    """Write a time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """What is known of the runs of a study, and which of them can start."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.store = store
        self.fingerprints = fingerprints(study)
        self._by_key = store.scores()
        self._scores: dict[RunSpec, float] = {}
        self._key = lru_cache(maxsize=None)(lambda spec: spec.key(self.fingerprints))

    def score(self, spec: RunSpec) -> float | None:
        """Return the validation score of a run, or None if it has not been done."""
        if spec not in self._scores:
            if not self._has_data(spec):
                return None
            key = self._key(spec)
            # What was not done when this was opened may be now, here or by another program.
            score = self._by_key[key] if key in self._by_key else self.store.score(key)
            if score is None:
                return None
            self._scores[spec] = score
        return self._scores[spec]

    def _has_data(self, spec: RunSpec) -> bool:
        return {spec.dataset, spec.source or spec.dataset} <= self.fingerprints.keys()

    def _load(self, spec: RunSpec) -> Result | None:
        return self.store.load(self._key(spec)) if self._has_data(spec) else None

    def has_encoder(self, spec: RunSpec) -> bool:
        """Tell whether the weights of a pre-training are in the cache."""
        return self.store.has_weights(self._key(spec))

    def open_runs(self) -> list[RunSpec]:
        """List the missing runs that can start now."""
        return open_runs(self.study, self.score, self.has_encoder)

    def missing(self) -> list[RunSpec]:
        """List every run that is not done, also those whose learning rate is not chosen yet."""
        return [run.spec for run in inventory(self.study, self.score) if not run.done]

    def all_done(self) -> list[Result]:
        """Return the results of all runs that are done, tuning and pre-training among them."""
        specs: dict[RunSpec, None] = {}
        resolve = resolver(self.study, self.score)
        for cell in self.study.cells():
            known = resolve(cell).cell
            runs = [*self.study.source_candidates(cell), *self.study.candidates(known)]
            for run in (*runs, known, known.pretraining()):
                if run:
                    specs.setdefault(run)
        found = (self._load(spec) for spec in specs)
        return [result for result in found if result]

    def finished(self) -> list[Result]:
        """Return the results of all final runs that are done, in the order of the study."""
        found = []
        resolve = resolver(self.study, self.score)
        for cell in self.study.cells():
            spec = resolve(cell).run
            result = self._load(spec) if spec else None
            if result:
                found.append(result)
        return found


def open_progress(study: Study) -> Progress:
    """Look up what is known of a study, on this computer and in its recorded results."""
    return Progress(study, open_store(recorded_runs(study)))


def recorded_table(study: Study) -> Path:
    """Return where the runs of a study are recorded.

    Raises
    ------
    UserError
        If the study is none of those that are recorded.
    """
    if not study.recorded:
        raise UserError(
            f"study {study.name} is not recorded: it is trained where it is read; leave out "
            "--record, and its finished runs are kept in the cache"
        )
    return recorded_runs(study)


def record_runs(study: Study) -> Path:
    """Write all finished runs of a study into its recorded table, and return where that is.

    Raises
    ------
    UserError
        If the study is none of those that are recorded, or the table cannot be written.
    """
    path = recorded_table(study)
    with writable(path.parent, "the table is as it was; point ECGNB_RESULTS at another folder"):
        write_table(open_progress(study).all_done(), path)
    return path
