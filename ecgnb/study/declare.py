"""Reading the declaration of a study: one that comes with the package, or a file of one's own."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from ecgnb.data.catalog import DatasetCard, card, data_root, find, parts
from ecgnb.data.convert import Options
from ecgnb.data.files import read_toml
from ecgnb.data.labels import default_label_set
from ecgnb.data.raw import list_records
from ecgnb.errors import UserError
from ecgnb.models import MODELS, check_model
from ecgnb.study.grid import Pair, Side, Study
from ecgnb.training.arms import check_arm
from ecgnb.training.protocol import check_protocol

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
        return build_study(path.stem, {"recorded": False, **table}, **changes)
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
    _check(onto)
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
        grids = rates.items() if isinstance(rates, dict) else [("", rates)]
        study = Study(
            pairs=pairs,
            data=data,
            chapters=tuple(chapters.items()),
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


def _pairs(entry: dict[str, Any]) -> list[Pair]:
    """Build the pairs of an entry, which may name several sources or targets.

    Then each source goes with each target that has none of its patients.
    """
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
        if not _patients(card(source)) & _patients(card(target))
    ]


def _pair(entry: dict[str, Any]) -> Pair:
    fields_: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    fields_["source"], fields_["target"] = Side(**entry["source"]), Side(**entry["target"])
    if isinstance(entry["seeds"], int):
        fields_["seeds"] = tuple(range(entry["seeds"]))
    return Pair(**fields_)


def _patients(facts: DatasetCard) -> set[str]:
    return {one.patients_of or one.name for one in parts(facts)}


def _check(study: Study) -> None:
    for pair in study.pairs:
        for arm in pair.arms:
            check_arm(arm)
        source, target = card(pair.source.dataset), card(pair.target.dataset)
        for model, arm in product(pair.models, pair.arms):
            if check_arm(arm).photographs and not MODELS[model].load_imagenet:
                raise UserError(f"study {study.name}: there are no weights of ImageNet for {model}")
        whole = [arm for arm in pair.arms if check_arm(arm).keeps_head]
        if whole and pair.source.label_set != pair.target.label_set:
            raise UserError(
                f"study {study.name}: the arm {whole[0]} needs one label set for source and "
                f"target, not {pair.source.label_set} and {pair.target.label_set}"
            )
        if _patients(source) & _patients(target):
            raise UserError(
                f"study {study.name} trains on {source.title} and tests on {target.title}, which "
                "have patients in common; choose another source or target"
            )
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
