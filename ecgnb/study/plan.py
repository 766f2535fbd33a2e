"""Which runs of a study are done, which can start now, and what is still to come.

A final run needs a learning rate, chosen among tuning runs, and the encoder of a pre-training,
whose own learning rate is chosen too. So the list of runs unfolds as results come in.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from ecgnb.data.catalog import card
from ecgnb.errors import UserError
from ecgnb.files import writable
from ecgnb.study.data import fingerprints, missing_datasets, read_table, recorded_runs, results_root
from ecgnb.study.spec import RunSpec, Study, changed
from ecgnb.study.store import Result, Store, hash_of, open_store, recorded_scores, write_table
from ecgnb.training.arms import ARMS
from ecgnb.training.metrics import UNLABELLED

Score = Callable[[RunSpec], float | None]  # validation score of a run; None if it is not done


def rounds(study: Study, score: Score) -> Iterator[list[RunSpec]]:
    """Go through all runs of a study in the order in which they can be done.

    Pre-trainings among which the source's learning rate is chosen; encoders of tuning runs; tuning
    runs; encoders of final runs; final runs. None of a round needs another of it. A learning rate
    that is not chosen yet, as far as `score` knows of runs, is 0, and the run not `decided`.
    """
    cells = list(study.cells())
    alike = {cell: changed(cell, seed=study.tuning_seed) for cell in cells}
    tuned = dict.fromkeys(alike.values())
    source = {cell: study.source_candidates(cell) for cell in tuned}
    yield _unique(run for runs in source.values() if len(runs) > 1 for run in runs)
    known = {cell: changed(cell, source_learning_rate=_best(source[cell], score)) for cell in tuned}
    target = {cell: study.candidates(known[cell]) for cell in tuned}
    several = [run for runs in target.values() if len(runs) > 1 for run in runs]
    # Those with an open rate stand in the first round.
    yield _unique(run.pretraining() for run in several if run.source_learning_rate)
    yield _unique(several)
    chosen = {
        cell: changed(known[cell], learning_rate=_best(target[cell], score)) for cell in tuned
    }
    final = [changed(chosen[alike[cell]], seed=cell.seed) for cell in cells]
    yield _unique(run.pretraining() for run in final if run.source)
    yield final


def _best(runs: list[RunSpec], score: Score) -> float:
    """Choose the learning rate with the best validation score, the lower one of equals, or 0."""
    if len(runs) < 2:
        return runs[0].learning_rate if runs else 0.0
    ranks = []
    for run in runs:
        value = score(run) if run.decided else None
        if value is None:
            return 0.0
        ranks.append((-math.inf if math.isnan(value) else value, -run.learning_rate))
    return -max(ranks)[1]


def _unique(runs: Iterable[RunSpec | None]) -> list[RunSpec]:
    return [run for run in dict.fromkeys(runs) if run]


def first_seeds(study: Study, count: int | None) -> Study:
    """Return a study with the first seeds of each pair only; with all of them for None."""
    # One seed needs every learning rate chosen, so it does all the tuning of the study.
    pairs = tuple(replace(pair, seeds=pair.seeds[:count]) for pair in study.pairs)
    return replace(study, pairs=pairs)


_SOURCE_PART, _TARGET_PART = 0.1, 0.2  # of the records validate, and as many test
UPDATE_PASSES = 3  # an update costs about three forward passes: one forward and two backward
RUN_S = 0.2  # what a run takes beside its records: reading weights, scoring, storing


class Estimate:
    """What the runs of a study cost."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._known: dict[tuple[str, ...], tuple[float, float]] = {}
        self._missing = missing_datasets(study)
        self._count = cache(self._records)

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
        if spec.epochs:  # each is looked at twice at most: on validation and on the test set
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

        `running` are those of the missing runs that have begun, with the seconds since.
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
        self._names = cache(lambda dataset: frozenset(read_table(study, dataset)["record"]))
        self._key = cache(lambda spec: spec.key(self.fingerprints))

    def score(self, spec: RunSpec) -> float | None:
        """Return the validation score of a run, or None if it has not been done."""
        if not self._has_data(spec):
            return None
        key = self._key(spec)
        if key not in self._by_key:
            # What was not done when this was opened may be now, here or by another program.
            if (score := self.store.score(key)) is None:
                return None
            self._by_key[key] = score
        return self._by_key[key]

    def _has_data(self, spec: RunSpec) -> bool:
        return {spec.dataset, spec.source or spec.dataset} <= self.fingerprints.keys()

    def _load(self, spec: RunSpec) -> Result | None:
        if not spec.decided or not self._has_data(spec):
            return None
        result = self.store.load(self._key(spec), spec)
        if result is None:  # what was damaged counts no more
            self._by_key.pop(self._key(spec), None)
        elif result.spec.label_set != UNLABELLED:  # which shows records of any dataset
            names = self._names(spec.dataset)
            unknown = {*result.records} - names
            if strange := [one for one in unknown if one.rpartition("#")[0] not in names]:
                raise UserError(
                    f"a recorded run of study {self.study.name} was tested on {min(strange)}, "
                    f"which {spec.dataset} does not have; get results/ again"
                )
        return result

    def runs(self) -> dict[RunSpec, bool]:
        """Tell of every run of the study, in all stages, whether it is done."""
        return {
            run: run.decided and self.score(run) is not None
            for runs in self.rounds()
            for run in runs
        }

    def rounds(self) -> Iterator[list[RunSpec]]:
        """Go through all runs, as far as results decide which they are; see `rounds`."""
        return rounds(self.study, self.score)

    def open_runs(self) -> list[RunSpec]:
        """List what can start now: the missing runs, or the pre-trainings that they wait for."""
        source, _, target, _, final = self.rounds()
        found: dict[RunSpec, None] = {}
        for run in (*source, *target, *final):
            if run.decided and self._has_data(run) and self.score(run) is None:
                pretraining = run.pretraining()  # may be recorded, without its weights
                if pretraining and not self.store.has_weights(self._key(pretraining)):
                    run = pretraining
                found.setdefault(run)
        return list(found)

    def missing(self) -> list[RunSpec]:
        """List every run that is not done, also those whose learning rate is not chosen yet.

        And those pre-trainings that are recorded without their weights and are needed again.
        """
        left = (run for run, done in self.runs().items() if not done)
        return list(dict.fromkeys([*left, *self.open_runs()]))

    def all_done(self) -> list[Result]:
        """Return the results of all runs that are done, tuning and pre-training among them."""
        return [result for run in self.runs() if (result := self._load(run))]

    def finished(self) -> list[Result]:
        """Return the results of all final runs that are done, in the order of the study."""
        *_, final = self.rounds()
        return [result for run in final if (result := self._load(run))]


def open_progress(study: Study) -> Progress:
    """Look up what is known of a study, on this computer and in its recorded results."""
    return Progress(study, open_store(recorded_runs(study)))


def check_recorded(study: Study) -> None:
    """Raise a UserError if a study is none of those that are recorded."""
    if not study.recorded:
        raise UserError(
            f"study {study.name} is not recorded: it is trained where it is read; leave out "
            "--record, and its finished runs are kept in the cache"
        )


def record_runs(study: Study) -> Path | None:
    """Write the finished runs that are not recorded yet into a part of their own, and return it.

    None if there are none. Raises a UserError if the study is none of those that are recorded.
    """
    check_recorded(study)
    progress = open_progress(study)
    recorded = recorded_scores(progress.store.recorded)
    new = [result for result in progress.all_done() if result.key not in recorded]
    return _write_part(new, results_root() / study.name) if new else None


def write_part(
    study: Study, folder: Path, origin: str, results: Sequence[Result] | None = None
) -> Path:
    """Write runs, or all that are finished, into a part that others can add to theirs; return it.

    It says whose it is, and on which data by their fingerprints. UserError if nothing is finished.
    """
    progress = open_progress(study)
    done = list(progress.all_done() if results is None else results)
    if not done:
        raise UserError(f"no run of study {study.name} is finished; `ecgnb run` trains them")
    for result in done:
        result.facts["origin"] = origin
    facts = {"study": study.name, "origin": origin, "fingerprints": progress.fingerprints}
    return _write_part(done, folder, facts)


def _write_part(
    results: list[Result], folder: Path, facts: Mapping[str, object] | None = None
) -> Path:
    with writable(folder, "no part was changed; name another folder, or let ECGNB_RESULTS do"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as room:
            write_table(results, written := Path(room) / "new", facts)
            # Its name is its hash, which is asked when it is read.
            return written.replace(folder / f"{hash_of(written)[:16]}.parquet")
