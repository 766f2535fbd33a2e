"""Reading the declaration of a study: one that comes with the package, or a file of one's own."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd

from ecgnb.data.arrays import Options
from ecgnb.data.catalog import JOINT, DatasetCard, card, data_root, find, parts
from ecgnb.data.labels import default_label_set, encode
from ecgnb.data.layouts import list_records
from ecgnb.errors import UserError
from ecgnb.files import read_toml
from ecgnb.models import HEADS, MODELS, check_model
from ecgnb.study.spec import Pair, Side, Study
from ecgnb.training.arms import check_arm, check_protocol
from ecgnb.training.metrics import UNLABELLED

# What a field holds, by its annotation, in the words of the file.
_KINDS: dict[Any, str] = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple[str, ...]: "a list of texts",
    tuple[int, ...]: "a list of whole numbers",
    tuple[tuple[str, tuple[float, ...]], ...]: "a list of numbers, or such a list by model",
    tuple[tuple[str, str], ...]: "a study by chapter",
}
_LEAST = {
    "tuning_seed": 0,
    "batch_size": 1,
    "evaluations": 0,
    "epochs": 0,
    "simulated_records": 1,
    "sizes": 0,
    "seeds": 0,
    "min_test_positives": 1,
    "min_positives": 0,
    "updates": 0,
}


def check_study(study: Study) -> None:
    """Raise a UserError if a study cannot be done as it is declared."""
    _check_values(study, study)
    _check_values(study, study.data)
    check_protocol(study.protocol)
    for pair in study.pairs:
        for part in (pair, pair.source, pair.target):
            _check_values(study, part)
        _check_networks(study, pair)
        _check_patients(study, pair)
        _check_length(study, pair)
    _check_labels(study)
    grids = dict(study.learning_rates)
    for model in study.models:
        if not any(grids.get(name) for name in (model, MODELS[model].family, "")):
            raise UserError(f"study {study.name} has no learning rates for {model}")
    if not all(rate > 0 for grid in grids.values() for rate in grid):
        raise UserError(f"study {study.name}: 'learning_rates' must be above 0")
    if study.tuning_seed in study.seeds:
        raise UserError(f"the tuning seed {study.tuning_seed} must not be one of the seeds")


def patients_of(facts: DatasetCard) -> set[str]:
    """Name the datasets whose patients a dataset has."""
    return {one.patients_of or one.name for one in parts(facts)}


def _check_values(study: Study, part: object) -> None:
    """Check the kind and the size of each value of a study, of its options, a pair or a side."""
    for name, kind in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if kind in _KINDS and not _fits(value, kind):
            raise UserError(f"study {study.name}: {name!r} must be {_KINDS[kind]}")
        if get_origin(kind) is tuple and not value and name not in ("chapters", "recipes"):
            raise UserError(f"study {study.name}: {name!r} is empty")
        several = value if isinstance(value, tuple) else (value,)
        if name in _LEAST and min(several) < _LEAST[name]:
            raise UserError(
                f"study {study.name}: {name!r} must be at least {_LEAST[name]}, not {min(several)}"
            )


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        *first, last = get_args(kind)
        if not isinstance(value, tuple):
            return False
        wanted = first * len(value) if last is Ellipsis else [*first, last]
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    if isinstance(value, bool):  # which is an int to Python, not to a reader of the file
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _check_networks(study: Study, pair: Pair) -> None:
    for head in pair.heads:
        if head not in HEADS:
            raise UserError(f"unknown head {head!r}; choose {' or '.join(HEADS)}")
    for model in pair.models:
        if model not in MODELS or not {*pair.heads} & {*MODELS[model].heads}:
            check_model(model, pair.heads[0])
    protocol = check_protocol(study.protocol)
    for model, arm in product(pair.models, pair.arms):
        kind = check_arm(arm)
        if kind.photographs and not MODELS[model].load_imagenet:
            raise UserError(f"study {study.name}: there are no weights of ImageNet for {model}")
        if protocol.chosen_on_test and kind.trained and (kind.frozen or kind.probing):
            raise UserError(
                f"study {study.name}: the protocol {study.protocol} trains whole networks, and "
                f"the arm {arm} a head by itself; leave one of them out"
            )
        alone = pair.source.label_set == UNLABELLED and kind.pretrained
        if alone and not MODELS[model].unlabelled:
            raise UserError(f"study {study.name}: {model} cannot be pre-trained without labels")


def _check_patients(study: Study, pair: Pair) -> None:
    source, target = card(pair.source.dataset), card(pair.target.dataset)
    if patients_of(source) & patients_of(target):
        raise UserError(
            f"study {study.name} trains on {source.title} and tests on {target.title}, which "
            "have patients in common; choose another source or target"
        )


def _check_labels(study: Study) -> None:
    read: set[tuple[str, str]] = set()
    for pair in study.pairs:
        whole = [arm for arm in pair.arms if check_arm(arm).keeps_head]
        if whole and pair.source.label_set != pair.target.label_set:
            raise UserError(
                f"study {study.name}: the arm {whole[0]} needs one label set for source and "
                f"target, not {pair.source.label_set} and {pair.target.label_set}"
            )
        read.add((pair.target.dataset, pair.target.label_set))
        if pair.source.label_set != UNLABELLED:
            read.add((pair.source.dataset, pair.source.label_set))
    for dataset, label_set in sorted(read):
        for name in dataset.split(JOINT):
            encode(pd.Series(dtype=str), card(name).vocabulary, label_set)  # says what is wrong


def _check_length(study: Study, pair: Pair) -> None:
    """Check that either passes over the records are counted, or updates."""
    pretrained = any(check_arm(arm).pretrained for arm in pair.arms)
    trained = [pair.target, pair.source] if pretrained else [pair.target]
    if study.epochs:
        sound = not (study.evaluations or pair.source.updates or pair.target.updates)
    else:
        sound = bool(study.evaluations) and all(side.updates for side in trained)
    if not sound:
        raise UserError(
            f"study {study.name} must give either epochs, or evaluations and the updates of every "
            "target and of every source that is trained on"
        )


_SMALL = 1000  # records; with fewer, few classes have ten positives in a fifth
_SMALL_TEST_POSITIVES = 2
_TRAINED = 0.6  # of the records; a fifth validates and a fifth tests


def study_names() -> list[str]:
    """List the studies that come with the package."""
    folder = resources.files("ecgnb.studies")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_study(name: str, **changes: Any) -> Study:
    """Read a study.

    Parameters
    ----------
    name : str
        One of `study_names`; such a name and a dataset, as ``clinical:my-hospital``, for the first
        pair of the study with the dataset as its target; or a TOML file of the same form as those
        under ``ecgnb/studies``.
    **changes
        Fields to replace, such as ``batch_size``; fields of a pair, such as ``sizes`` or
        ``seeds``, are replaced in every pair.

    Raises
    ------
    UserError
        If the study, or one of the names in it, is unknown, or the dataset is not here.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        table = read_toml(path, "study")
        # Its name may be that of a published study, whose recorded runs it must not replace.
        return build_study(path.stem, {**table, "recorded": False}, **changes)
    name, _, dataset = name.partition(":")
    if name not in study_names():
        raise UserError(
            f"unknown study {name!r}; choose one of {', '.join(study_names())}, or name a file "
            "that ends in .toml"
        )
    text = (resources.files("ecgnb.studies") / f"{name}.toml").read_text()
    study = build_study(name, tomllib.loads(text), **changes)
    return _onto(study, dataset) if dataset else study


def chapter_study(study: Study, chapter: str) -> Study:
    """Return the study of a chapter: its own, where the given one names it, else the given one."""
    own = dict(study.chapters).get(chapter)
    return load_study(own) if own else study


def _onto(study: Study, dataset: str) -> Study:
    """Put another dataset in the place of a study's first target, as far as it is large enough."""
    if JOINT in dataset:
        raise UserError(
            f"the target of {study.name}:{dataset} is several datasets; name one, or declare a "
            "study of your own in a TOML file"
        )
    facts, pair = card(dataset), study.pairs[0]
    if facts.simulated:
        count = study.data.simulated_records
    else:
        folder = find(facts, data_root())
        if folder is None:
            raise UserError(
                f"{facts.title} is not in {data_root()}; put it there, or correct 'folders' of its "
                "card"
            )
        count = len(list_records(facts, folder).table)
    sizes = tuple(size for size in pair.sizes if size <= _TRAINED * count)
    # A head that is kept names the classes of the source, which must be those of the target.
    whole = any(check_arm(arm).keeps_head for arm in pair.arms)
    names = pair.target.label_set if whole else default_label_set(facts.vocabulary)
    target = replace(pair.target, dataset=dataset, label_set=names)
    scored = pair.min_test_positives if count >= _SMALL else _SMALL_TEST_POSITIVES
    onto = replace(
        study,
        name=f"{study.name}:{dataset}",
        title=f"{card(pair.source.dataset).short_title} to {facts.short_title}",
        description=f"As the study {study.name}, with {facts.title} as the target.",
        recorded=False,
        chapters=tuple((chapter, f"{own}:{dataset}") for chapter, own in study.chapters),
        pairs=(replace(pair, target=target, sizes=sizes, min_test_positives=scored),),
    )
    check_study(onto)
    return onto


def build_study(name: str, table: dict[str, Any], **changes: Any) -> Study:
    """Build a study from the content of its TOML file; see `load_study`."""
    values: dict[str, Any] = {**table, "name": name}
    # What stands over the pairs holds for each that says nothing else.
    common = {key: values.pop(key) for key in _PAIR_FIELDS if key in values}
    replaced = {key: changes.pop(key) for key in _PAIR_FIELDS if key in changes}
    values.update(changes)
    try:
        pairs = tuple(
            pair
            for entry in values.pop("pairs")
            for pair in _pairs({**common, **entry, **replaced})
        )
        data = Options(**values.pop("data", {}))
        rates = values.pop("learning_rates")
        chapters = values.pop("chapters", {})
        recipes = values.pop("recipe", {})
        grids = rates.items() if isinstance(rates, dict) else [("", rates)]
        study = Study(
            pairs=pairs,
            data=data,
            chapters=tuple(chapters.items()),
            recipes=tuple(recipes.items() if isinstance(recipes, dict) else [("", recipes)]),
            learning_rates=tuple((name, _listed(grid)) for name, grid in grids),
            **values,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"study {name} has a wrong or missing field: {error}; its fields are "
            f"{', '.join(entry.name for entry in fields(Study))}"
        ) from error
    check_study(study)
    return study


_PAIR_FIELDS = ("models", "heads", "sizes", "seeds", "arms", "min_test_positives")


def _pairs(entry: dict[str, Any]) -> list[Pair]:
    """Build the pairs of an entry, which may name several sources or targets.

    Then each source goes with each target that has none of its patients.
    """
    for side in ("source", "target"):
        if not isinstance(entry[side], dict):
            raise TypeError(f"{side!r} must be a table, such as {{ dataset = ... }}")
    names = [entry[side]["dataset"] for side in ("source", "target")]
    if all(isinstance(name, str) for name in names):
        return [_pair(entry)]
    several = [[name] if isinstance(name, str) else name for name in names]
    return [
        _pair(
            {
                **entry,
                "source": {**entry["source"], "dataset": source},
                "target": {**entry["target"], "dataset": target},
            }
        )
        for target, source in product(several[1], several[0])
        if not patients_of(card(source)) & patients_of(card(target))
    ]


def _pair(entry: dict[str, Any]) -> Pair:
    fields_ = {key: _listed(value) for key, value in entry.items()}
    fields_["source"], fields_["target"] = Side(**entry["source"]), Side(**entry["target"])
    if type(entry["seeds"]) is int:
        fields_["seeds"] = tuple(range(entry["seeds"]))
    return Pair(**fields_)


def _listed(value: Any) -> Any:
    """Turn a list into a tuple, which a study holds; what is no list is named by `check_study`."""
    return tuple(value) if isinstance(value, list) else value
