"""What a run is, and which runs a study declares."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from itertools import product
from typing import Any

from ecgnb.data.catalog import card
from ecgnb.data.convert import Options
from ecgnb.errors import UserError
from ecgnb.models import check_model
from ecgnb.training.transfer import check_arm

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
    source, source_label_set, source_min_positives, source_learning_rate, source_updates
        What the encoder was pre-trained on and how; empty or 0 in arms that start at random.
    model, head, arm : str
        Names of the registries.
    size : int
        Training records; `ALL` for all.
    seed : int
        Decides the test fifth, the training subset, the initial weights and the order of records.
    protocol : str
        ``clean``.
    learning_rate, updates, batch_size, evaluations
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

    def key(self, fingerprints: Mapping[str, str]) -> str:
        """Hash of the spec, of the data it reads and of `RESULTS_VERSION`.

        Parameters
        ----------
        fingerprints : mapping
            Fingerprint of each prepared dataset by its name.
        """
        read = [fingerprints[name] for name in (self.dataset, self.source) if name]
        # Without the fields that stand at their defaults, a field added later changes no old key.
        defaults = {entry.name: entry.default for entry in fields(self)}
        said = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        text = json.dumps([RESULTS_VERSION, said, read], sort_keys=True)
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
        )


@dataclass(frozen=True)
class Side:
    """The source or the target of a pair: a dataset, its label set, and how long to train on it."""

    dataset: str
    label_set: str
    min_positives: int
    updates: int


@dataclass(frozen=True)
class Pair:
    """A source and a target with the models, heads and sizes to compare on them."""

    source: Side
    target: Side
    models: tuple[str, ...]
    heads: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """A declared grid of runs, read from one TOML file.

    Attributes
    ----------
    name, title, description : str
    recorded : bool
        Whether its records are named, and its runs recorded, under ``results/``.
    protocol : str
    seeds : tuple of int
    tuning_seed : int
        Chooses the learning rate of each arm, model and size; it stands in no comparison.
    arms : tuple of str
    learning_rates : tuple of float
        The grid, the same for every arm; with one value nothing is tuned.
    batch_size, evaluations : int
    data : Options
        How its datasets are prepared.
    pairs : tuple of Pair
    """

    name: str
    title: str
    description: str
    recorded: bool
    protocol: str
    seeds: tuple[int, ...]
    tuning_seed: int
    arms: tuple[str, ...]
    learning_rates: tuple[float, ...]
    batch_size: int
    evaluations: int
    pairs: tuple[Pair, ...]
    data: Options = field(default_factory=Options)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets that the study reads, sources first."""
        names = [pair.source.dataset for pair in self.pairs]
        names += [pair.target.dataset for pair in self.pairs]
        return tuple(dict.fromkeys(names))

    @property
    def digest(self) -> str:
        """Hash of the declaration, to tell one version of a study from another."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]

    def cells(self) -> Iterator[RunSpec]:
        """Go through all final runs, seeds outermost, learning rates still open (0)."""
        for seed, pair in product(self.seeds, self.pairs):
            for size, model, head, arm in product(pair.sizes, pair.models, pair.heads, self.arms):
                if head in check_model(model, pair.heads[0]).heads:
                    yield self._cell(pair, model, head, arm, size, seed)

    def _cell(self, pair: Pair, model: str, head: str, arm: str, size: int, seed: int) -> RunSpec:
        source = pair.source if check_arm(arm).pretrained else Side("", "", 0, 0)
        return RunSpec(
            stage="final",
            dataset=pair.target.dataset,
            label_set=pair.target.label_set,
            min_positives=pair.target.min_positives,
            model=model,
            head=head,
            arm=arm,
            size=size,
            seed=seed,
            protocol=self.protocol,
            learning_rate=0.0,
            updates=pair.target.updates,
            batch_size=self.batch_size,
            evaluations=self.evaluations,
            source=source.dataset,
            source_label_set=source.label_set,
            source_min_positives=source.min_positives,
            source_updates=source.updates,
        )

    def candidates(self, cell: RunSpec) -> list[RunSpec]:
        """Return the tuning runs among which the learning rate of `cell` is chosen."""
        tuning = replace(cell, stage="tune", seed=self.tuning_seed)
        return [replace(tuning, learning_rate=rate) for rate in self.learning_rates]

    def source_candidates(self, cell: RunSpec) -> list[RunSpec]:
        """Return the pre-trainings among which the source's learning rate is chosen."""
        runs = []
        for rate in self.learning_rates:
            tuning = replace(cell, seed=self.tuning_seed, source_learning_rate=rate)
            run = tuning.pretraining()
            if run:
                runs.append(run)
        return runs


def study_names() -> list[str]:
    """List the studies that come with the package."""
    folder = resources.files("ecgnb.studies")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_study(name: str, **changes: Any) -> Study:
    """Read a study.

    Parameters
    ----------
    name : str
        One of `study_names`.
    **changes
        Fields to replace, such as ``seeds``; ``models``, ``heads`` and ``sizes`` apply to every
        pair.

    Raises
    ------
    UserError
        If the study, or one of the names in it, is unknown.
    """
    if name not in study_names():
        raise UserError(f"unknown study {name!r}; choose one of {', '.join(study_names())}")
    text = (resources.files("ecgnb.studies") / f"{name}.toml").read_text()
    return build_study(name, tomllib.loads(text), **changes)


def build_study(name: str, table: dict[str, Any], **changes: Any) -> Study:
    """Build a study from the content of its TOML file; see `load_study`."""
    values: dict[str, Any] = {**table, "name": name}
    for_pairs: dict[str, Any] = {
        key: changes.pop(key) for key in ("models", "heads", "sizes") if key in changes
    }
    values.update(changes)
    try:
        pairs = tuple(_pair({**entry, **for_pairs}) for entry in values.pop("pairs"))
        data = Options(**values.pop("data", {}))
        plain: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
        }
        study = Study(pairs=pairs, data=data, **plain)
    except (TypeError, KeyError) as error:
        raise UserError(
            f"study {name} has a wrong or missing field: {error}; its fields are "
            f"{', '.join(entry.name for entry in fields(Study))}"
        ) from error
    _check(study)
    return study


def _pair(entry: dict[str, Any]) -> Pair:
    return Pair(
        source=Side(**entry.pop("source")),
        target=Side(**entry.pop("target")),
        **{key: tuple(value) for key, value in entry.items()},
    )


def _check(study: Study) -> None:
    for arm in study.arms:
        check_arm(arm)
    for pair in study.pairs:
        card(pair.source.dataset)
        card(pair.target.dataset)
        for model, head in product(pair.models, pair.heads[:1]):
            check_model(model, head)
    if study.protocol != "clean":
        raise UserError(f"unknown protocol {study.protocol!r}; choose clean")
    if study.tuning_seed in study.seeds:
        raise UserError(f"the tuning seed {study.tuning_seed} must not be one of the seeds")
