"""Which runs a study declares."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from itertools import product
from typing import Any

from ecgnb.data.catalog import card
from ecgnb.data.convert import Options
from ecgnb.errors import UserError
from ecgnb.models import MODELS, check_model
from ecgnb.study.shards import share
from ecgnb.study.spec import RunSpec
from ecgnb.training.metrics import MIN_TEST_POSITIVES
from ecgnb.training.protocol import check_protocol
from ecgnb.training.transfer import check_arm


@dataclass(frozen=True)
class Side:
    """The source or the target of a pair: a dataset, its label set, and how long to train on it.

    In a study that counts epochs, `updates` is 0.
    """

    dataset: str
    label_set: str
    min_positives: int
    updates: int = 0


@dataclass(frozen=True)
class Pair:
    """A source and a target, and what to compare on them.

    Attributes
    ----------
    source, target : Side
    models, heads : tuple of str
    sizes : tuple of int
        Training records; `ecgnb.study.spec.ALL` for all.
    seeds : tuple of int
    arms : tuple of str
    min_test_positives : int
        See `ecgnb.study.spec.RunSpec`.
    """

    source: Side
    target: Side
    models: tuple[str, ...]
    heads: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    min_test_positives: int = MIN_TEST_POSITIVES


@dataclass(frozen=True)
class Study:
    """A declared grid of runs, read from one TOML file.

    Attributes
    ----------
    name, title, description : str
    recorded : bool
        Whether its records are named, and its runs recorded, under ``results/``.
    protocol : str
    tuning_seed : int
        Chooses the learning rate of each arm, model and size; it stands in no comparison.
    learning_rates : tuple of (str, tuple of float)
        The grid of a model, of a family of models, or of all (an empty name); the same for every
        arm. With one value nothing is tuned.
    batch_size : int
    evaluations, epochs : int
        How often validation is looked at, or for how many epochs to train, with a look each.
    data : Options
        How its datasets are prepared.
    pairs : tuple of Pair
    shard : tuple of int
        Which share of the final runs to do, such as (2, 5) for the second of five.
    """

    name: str
    title: str
    description: str
    recorded: bool
    protocol: str
    tuning_seed: int
    learning_rates: tuple[tuple[str, tuple[float, ...]], ...]
    batch_size: int
    pairs: tuple[Pair, ...]
    evaluations: int = 0
    epochs: int = 0
    data: Options = field(default_factory=Options)
    shard: tuple[int, int] = (1, 1)

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of all pairs."""
        return tuple(sorted({seed for pair in self.pairs for seed in pair.seeds}))

    @property
    def models(self) -> tuple[str, ...]:
        """All models of all pairs."""
        return tuple(dict.fromkeys(model for pair in self.pairs for model in pair.models))

    def rates(self, model: str) -> tuple[float, ...]:
        """Return the grid of learning rates of a model."""
        known = dict(self.learning_rates)
        return known.get(model) or known.get(MODELS[model].family) or known[""]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets that the study reads, sources first."""
        names = [pair.source.dataset for pair in self.pairs]
        names += [pair.target.dataset for pair in self.pairs]
        return tuple(dict.fromkeys(names))

    @property
    def digest(self) -> str:
        """Hash of the declaration, to tell one version of a study from another."""
        declared = {**asdict(self), "shard": None}
        return hashlib.sha256(json.dumps(declared).encode()).hexdigest()[:8]

    def cells(self) -> Iterator[RunSpec]:
        """Go through all final runs, seeds outermost, learning rates still open (0).

        An arm that starts at random is the same run beside every source of its target.
        """
        yield from share(list(dict.fromkeys(self._all_cells())), *self.shard)

    def _all_cells(self) -> Iterator[RunSpec]:
        for seed, pair in product(self.seeds, self.pairs):
            if seed not in pair.seeds:
                continue
            for size, model, head, arm in product(pair.sizes, pair.models, pair.heads, pair.arms):
                if head in MODELS[model].heads:
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
            epochs=self.epochs,
            source=source.dataset,
            source_label_set=source.label_set,
            source_min_positives=source.min_positives,
            source_updates=source.updates,
            min_test_positives=pair.min_test_positives,
        )

    def candidates(self, cell: RunSpec) -> list[RunSpec]:
        """Return the tuning runs among which the learning rate of `cell` is chosen."""
        tuning = replace(cell, stage="tune", seed=self.tuning_seed)
        return [replace(tuning, learning_rate=rate) for rate in self.rates(cell.model)]

    def source_candidates(self, cell: RunSpec) -> list[RunSpec]:
        """Return the pre-trainings among which the source's learning rate is chosen."""
        runs = []
        for rate in self.rates(cell.model):
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
        Fields to replace, such as ``batch_size``; fields of a pair, such as ``sizes`` or
        ``seeds``, are replaced in every pair.

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
    # What stands over the pairs holds for each that says nothing else.
    common = {key: values.pop(key) for key in _PAIR_FIELDS if key in values}
    replaced = {key: changes.pop(key) for key in _PAIR_FIELDS if key in changes}
    values.update(changes)
    try:
        pairs = tuple(_pair({**common, **entry, **replaced}) for entry in values.pop("pairs"))
        data = Options(**values.pop("data", {}))
        rates = values.pop("learning_rates")
        grids = rates.items() if isinstance(rates, dict) else [("", rates)]
        study = Study(
            pairs=pairs,
            data=data,
            learning_rates=tuple((name, tuple(grid)) for name, grid in grids),
            **values,
        )
    except (TypeError, KeyError) as error:
        raise UserError(
            f"study {name} has a wrong or missing field: {error}; its fields are "
            f"{', '.join(entry.name for entry in fields(Study))}"
        ) from error
    _check(study)
    return study


_PAIR_FIELDS = ("models", "heads", "sizes", "seeds", "arms", "min_test_positives")


def _pair(entry: dict[str, Any]) -> Pair:
    fields_: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    fields_["source"], fields_["target"] = Side(**entry["source"]), Side(**entry["target"])
    if isinstance(entry["seeds"], int):
        fields_["seeds"] = tuple(range(entry["seeds"]))
    return Pair(**fields_)


def _check(study: Study) -> None:
    for pair in study.pairs:
        for arm in pair.arms:
            check_arm(arm)
        card(pair.source.dataset)
        card(pair.target.dataset)
        for model, head in product(pair.models, pair.heads[:1]):
            check_model(model, head)
    check_protocol(study.protocol)
    updates = [side.updates for pair in study.pairs for side in (pair.source, pair.target)]
    if bool(study.epochs) == bool(study.evaluations) or bool(study.epochs) == any(updates):
        raise UserError(
            f"study {study.name} must give either epochs, or evaluations and the updates of every "
            "source and target"
        )
    grids = dict(study.learning_rates)
    for model in study.models:
        if not any(grids.get(name) for name in (model, MODELS[model].family, "")):
            raise UserError(f"study {study.name} has no learning rates for {model}")
    if study.tuning_seed in study.seeds:
        raise UserError(f"the tuning seed {study.tuning_seed} must not be one of the seeds")
