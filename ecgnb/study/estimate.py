"""How much work a run is, and how long what is left will take, learnt from the runs that finish."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ecgnb.data.catalog import card
from ecgnb.study.data import missing_datasets, read_table
from ecgnb.study.grid import Study
from ecgnb.study.spec import RunSpec
from ecgnb.training.arms import ARMS

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
