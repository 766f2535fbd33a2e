"""What is done of a study, what can start, and what is still to come."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ecgnb.data.files import writable
from ecgnb.errors import UserError
from ecgnb.study.data import fingerprints, recorded_runs
from ecgnb.study.grid import Study
from ecgnb.study.plan import inventory, open_runs, resolver
from ecgnb.study.recorded import write_table
from ecgnb.study.result import Result
from ecgnb.study.spec import RunSpec
from ecgnb.study.store import Store, open_store


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
