"""What a run is."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import product
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from ecgnb.data.arrays import Options
from ecgnb.errors import UserError
from ecgnb.models import MODELS, NO_NETWORK
from ecgnb.training.arms import ARMS, check_arm
from ecgnb.training.metrics import MIN_TEST_POSITIVES

RESULTS_VERSION = 1  # raised by hand when the meaning of a recorded result changes
ALL = 0  # the training size that stands for all training records


def size_label(size: int) -> str:
    """Write a training size; `ALL` as ``all``."""
    return "all" if size == ALL else f"{size:,}"


@dataclass(frozen=True)
class RunSpec:
    """One training of one model in one arm at one size with one seed.

    The `stage` is ``pretrain`` (on a source, whose encoder is kept), ``tune`` (chooses a learning
    rate, and by the clean protocol never sees a test set) or ``final``. Data-driven label sets
    leave out classes with fewer than `min_positives`, and classes with fewer than
    `min_test_positives` are not scored.
    What the encoder was pre-trained on is empty or 0 in arms that start at random. `size` and
    `source_size` count training records, those of the source drawn by the seed; `ALL` for all.
    With `shuffled`, the labels of a pre-training, its own or that of the source, are dealt out anew
    among its records: what is left of a gain then owes nothing to what they say. The `seed` decides
    the test fifth, the training subset, the initial weights and the order of records;
    `tells_hospitals`, whether it is measured how well the encoder's features tell the source from
    the target. On the others see `ecgnb.training.fit.Schedule`.
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
    recipe: str = ""
    source_size: int = ALL
    shuffled: bool = False

    def key(self, fingerprints: Mapping[str, str]) -> str:
        """Hash of the spec, `RESULTS_VERSION` and the fingerprints of the datasets it reads."""
        read = [fingerprints[name] for name in (self.dataset, self.source) if name]
        # Without the fields that stand at their defaults, a field added later changes no old key.
        said = {name: value for name, value in vars(self).items() if value != _DEFAULTS[name]}
        text = _as_json([RESULTS_VERSION, said, read])
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def decided(self) -> bool:
        """Whether every learning rate it needs is chosen; those that are not are 0."""
        arm = ARMS[self.arm]
        own = self.learning_rate > 0 or not arm.trained or not arm.network
        return own and (self.source_learning_rate > 0 or not self.source)

    def pretraining(self) -> "RunSpec | None":
        """Return the run that this one takes its encoder from, or None."""
        if not self.source:
            return None
        said = vars(self)
        of_source = ("label_set", "min_positives", "learning_rate", "updates", "size")
        kept = ("model", "head", "recipe", "seed", "shuffled", *_OF_STUDY)
        return RunSpec(
            stage="pretrain",
            dataset=self.source,
            arm="scratch",
            **{name: said[f"source_{name}"] for name in of_source},
            **{name: said[name] for name in kept},
        )


_OF_STUDY = ("protocol", "batch_size", "evaluations", "epochs")


def changed(spec: RunSpec, **values: object) -> RunSpec:
    """Do as `dataclasses.replace`, but quickly: a study makes tens of thousands of specs."""
    new = object.__new__(RunSpec)
    new.__dict__.update(spec.__dict__, **values)
    return new


_DEFAULTS = {entry.name: entry.default for entry in fields(RunSpec)}
_as_json = json.JSONEncoder(sort_keys=True).encode


def share(cells: Sequence[RunSpec], number: int, shards: int) -> list[RunSpec]:
    """Return the final runs of one shard, in their order: the `number`th, from 1, of so many."""
    if shards == 1:
        return list(cells)
    # Runs that start from one pre-training are in one shard, so that no other needs it.
    sizes = Counter(cell.pretraining() or cell for cell in cells)
    groups = list(sizes)
    # Drawn, so that every shard has long runs and short ones; the large groups first.
    random.Random(0).shuffle(groups)
    groups.sort(key=sizes.__getitem__, reverse=True)
    filled = [0] * shards
    mine = set()
    for group in groups:
        emptiest = filled.index(min(filled))
        filled[emptiest] += sizes[group]
        if emptiest == number - 1:
            mine.add(group)
    return [cell for cell in cells if (cell.pretraining() or cell) in mine]


def read_shard(text: str) -> tuple[int, int]:
    """Read which shard of how many is meant, as ``2/5``; raise a UserError if there is none."""
    number, _, shards = text.partition("/")
    decimal = number.isdecimal() and shards.isdecimal()
    if not (decimal and len(shards) <= 6 and 1 <= int(number) <= int(shards)):
        raise UserError(
            f"--shard {text:.40} is not a share; write 2/5 for the second of five (of 999,999)"
        )
    return int(number), int(shards)


# What a file may say; `ecgnb.study.declare` puts what is wrong in the words of the file.
Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**6)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Rates = Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Side:
    """The source or the target of a pair: a dataset, its label set, and how long to train on it."""

    dataset: str
    label_set: str
    min_positives: Count
    updates: Count = 0  # in a study that counts epochs it is 0
    size: Count = ALL  # of a source only, and so is `shuffled`; see `RunSpec`
    shuffled: bool = False


@dataclass(frozen=True)
class Pair:
    """A source and a target, and what to compare on them."""

    source: Side
    target: Side
    models: Names
    # of a model, of a family of models, or of all (an empty name), as far as it has them
    heads: Annotated[tuple[tuple[str, Names], ...], Field(min_length=1)]
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)]  # training records; `ALL` for all
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=10**6)], ...], Field(min_length=1)]
    arms: Names
    min_test_positives: Positive = MIN_TEST_POSITIVES
    tells_hospitals: bool = False  # see `RunSpec`; only arms that have a source can tell

    @property
    def datasets(self) -> tuple[str, str]:
        """The names of both datasets."""
        return self.source.dataset, self.target.dataset

    def heads_of(self, model: str) -> tuple[str, ...]:
        """List the heads that are asked of a model, also those that it does not have."""
        return _of(self.heads, model) or ()

    def networks(self) -> list[tuple[str, str]]:
        """List its models, each with each of its heads."""
        pairs = ((model, head) for model in self.models for head in self.heads_of(model))
        return [(model, head) for model, head in pairs if head in MODELS[model].heads]


def _of(known: tuple[tuple[str, Any], ...], model: str) -> Any:
    """Look up what is said of a model, else of its family, else of all."""
    said = dict(known)
    return said.get(model) or said.get(MODELS[model].family) or said.get("")


@dataclass(frozen=True)
class Study:
    """A declared grid of runs, read from one TOML file.

    Where it is `recorded`, its records are named, and its runs recorded, under ``results/``. The
    `tuning_seed` chooses the learning rate of each arm, model and size; it stands in no comparison.
    `learning_rates` are the grid, the same for every arm, and `recipes` the recipe of a model, of a
    family of models, or of all (an empty name); with one learning rate nothing is tuned.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    title: str
    description: str
    recorded: bool
    protocol: str
    tuning_seed: Annotated[int, Field(ge=0, le=10**6)]
    learning_rates: Annotated[tuple[tuple[str, Rates], ...], Field(min_length=1)]
    batch_size: Positive
    pairs: Annotated[tuple[Pair, ...], Field(min_length=1)]
    evaluations: Annotated[int, Field(ge=0, le=10**6)] = 0  # how often validation is looked at,
    epochs: Annotated[int, Field(ge=0, le=10**6)] = 0  # or for how long to train, with a look each
    data: Options = field(default_factory=Options)
    shard: tuple[int, int] = (1, 1)  # of the final runs, such as (2, 5) for the second of five
    chapters: tuple[tuple[str, str], ...] = ()  # with the study that each has of its own
    recipes: tuple[tuple[str, str], ...] = ()
    asked: tuple[tuple[str, Any], ...] = ()  # what `load_study` was asked to change

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
        return _of(self.learning_rates, model) or ()

    def recipe(self, model: str) -> str:
        """Return the name of the recipe of a model; "" for that of the protocol."""
        return _of(self.recipes, model) or ""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets that the study reads, sources first."""
        sources, targets = zip(*(pair.datasets for pair in self.pairs), strict=True)
        return tuple(dict.fromkeys(sources + targets))

    @cached_property
    def digest(self) -> str:
        """Hash of the declaration, to tell one version of a study from another."""
        declared = {**asdict(self), "shard": None}
        del declared["asked"]  # it shows in the rest
        return hashlib.sha256(json.dumps(declared).encode()).hexdigest()[:8]

    def cells(self) -> Iterator[RunSpec]:
        """Go through all final runs, seeds outermost, learning rates still open (0)."""
        return iter(self._cells)

    @cached_property
    def _cells(self) -> list[RunSpec]:
        every = (
            self._cell(pair, model, head, arm, size, seed)
            for seed, pair in product(self.seeds, self.pairs)
            if seed in pair.seeds
            for size, (model, head), arm in product(pair.sizes, pair.networks(), pair.arms)
        )
        # An arm that starts at random is the same run beside every source of its target.
        return share(list(dict.fromkeys(every)), *self.shard)

    def _cell(self, pair: Pair, model: str, head: str, arm: str, size: int, seed: int) -> RunSpec:
        kind = check_arm(arm)
        source = pair.source if kind.pretrained else Side("", "", 0)
        if not kind.network:
            model, head = NO_NETWORK, "pooled"
        learnt = ("label_set", "min_positives", "updates")
        return RunSpec(
            stage="final",
            dataset=pair.target.dataset,
            model=model,
            head=head,
            arm=arm,
            size=size if kind.trained else ALL,  # one run, whatever others are trained on
            seed=seed,
            learning_rate=0.0,
            source=source.dataset,
            source_size=source.size,
            shuffled=source.shuffled,
            min_test_positives=pair.min_test_positives,
            tells_hospitals=pair.tells_hospitals and kind.pretrained,
            recipe=self.recipe(model) if kind.network else "",
            **{name: getattr(self, name) for name in _OF_STUDY},
            **{name: getattr(pair.target, name) for name in learnt},
            **{f"source_{name}": getattr(source, name) for name in learnt},
        )

    def candidates(self, cell: RunSpec) -> list[RunSpec]:
        """Return the tuning runs among which the learning rate of `cell` is chosen."""
        kind = ARMS[cell.arm]
        rates = self.rates(cell.model) if kind.trained and kind.network else (0.0,)
        tuning = changed(cell, stage="tune", seed=self.tuning_seed, tells_hospitals=False)
        return [changed(tuning, learning_rate=rate) for rate in rates]

    def source_candidates(self, cell: RunSpec) -> list[RunSpec]:
        """Return the pre-trainings among which the source's learning rate is chosen."""
        cells = (
            changed(cell, seed=self.tuning_seed, source_learning_rate=rate)
            for rate in self.rates(cell.model)
        )
        return [run for run in map(RunSpec.pretraining, cells) if run]
