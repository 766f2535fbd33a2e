"""Whether a declared study makes sense: asked when it is read, before anything is trained."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd

from ecgnb.data.catalog import JOINT, DatasetCard, card, parts
from ecgnb.data.labels import encode
from ecgnb.errors import UserError
from ecgnb.models import HEADS, MODELS, check_model
from ecgnb.study.grid import Pair, Study
from ecgnb.training.arms import check_arm
from ecgnb.training.metrics import UNLABELLED
from ecgnb.training.protocol import check_protocol

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
        if get_origin(kind) is tuple and not value and name != "chapters":
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
