"""What a run is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ecgnb.training.metrics import MIN_TEST_POSITIVES

RESULTS_VERSION = 1
"""Raised by hand when the meaning of a recorded result changes."""

ALL = 0
"""The training size that stands for all training records."""


@dataclass(frozen=True)
class RunSpec:
    """One training of one model in one arm at one size with one seed.

    Attributes
    ----------
    stage : str
        ``pretrain`` (on a source, whose encoder is kept), ``tune`` (chooses a learning rate and
        never sees a test set) or ``final``.
    dataset, label_set, min_positives
        What is learnt; data-driven label sets leave out classes with fewer positives.
    min_test_positives : int
        Classes with fewer test positives are not scored.
    source, source_label_set, source_min_positives, source_learning_rate, source_updates
        What the encoder was pre-trained on and how; empty or 0 in arms that start at random.
    model, head, arm : str
        Names of the registries.
    size : int
        Training records; `ALL` for all.
    seed : int
        Decides the test fifth, the training subset, the initial weights and the order of records.
    tells_hospitals : bool
        Whether it is measured how well the encoder's features tell the source from the target.
    protocol : str
        A name of `ecgnb.training.protocol.PROTOCOLS`.
    learning_rate, updates, batch_size, evaluations, epochs
        See `ecgnb.training.fit.Schedule`.
    """

    stage: str
    dataset: str
    label_set: str
    min_positives: int
    model: str
    head: str
    arm: str
    size: int
    seed: int
    protocol: str
    learning_rate: float
    updates: int
    batch_size: int
    evaluations: int
    source: str = ""
    source_label_set: str = ""
    source_min_positives: int = 0
    source_learning_rate: float = 0.0
    source_updates: int = 0
    min_test_positives: int = MIN_TEST_POSITIVES
    epochs: int = 0
    tells_hospitals: bool = False

    def key(self, fingerprints: Mapping[str, str]) -> str:
        """Hash of the spec, of the data it reads and of `RESULTS_VERSION`.

        Parameters
        ----------
        fingerprints : mapping
            Fingerprint of each prepared dataset by its name.
        """
        read = [fingerprints[name] for name in (self.dataset, self.source) if name]
        # Without the fields that stand at their defaults, a field added later changes no old key.
        said = {name: value for name, value in vars(self).items() if value != _DEFAULTS[name]}
        text = _as_json([RESULTS_VERSION, said, read])
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def pretraining(self) -> RunSpec | None:
        """Return the run that this one takes its encoder from, or None."""
        if not self.source:
            return None
        return RunSpec(
            stage="pretrain",
            dataset=self.source,
            label_set=self.source_label_set,
            min_positives=self.source_min_positives,
            model=self.model,
            head=self.head,
            arm="scratch",
            size=ALL,
            seed=self.seed,
            protocol=self.protocol,
            learning_rate=self.source_learning_rate,
            updates=self.source_updates,
            batch_size=self.batch_size,
            evaluations=self.evaluations,
            epochs=self.epochs,
        )


def changed(spec: RunSpec, **values: object) -> RunSpec:
    """Return a spec with other values, as `dataclasses.replace` does.

    That takes several times as long, and a study makes tens of thousands of them.
    """
    new = object.__new__(RunSpec)
    new.__dict__.update(spec.__dict__, **values)
    return new


_DEFAULTS = {entry.name: entry.default for entry in fields(RunSpec)}
_as_json = json.JSONEncoder(sort_keys=True).encode
