"""Reading the declaration of a study: one that comes with the package, or a file of one's own."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from ecgnb.data.catalog import JOINT, card, data_root, find
from ecgnb.data.convert import Options
from ecgnb.data.files import read_toml
from ecgnb.data.labels import default_label_set
from ecgnb.data.raw import list_records
from ecgnb.errors import UserError
from ecgnb.study.check import check_study, patients_of
from ecgnb.study.grid import Pair, Side, Study
from ecgnb.training.arms import check_arm

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
        grids = rates.items() if isinstance(rates, dict) else [("", rates)]
        study = Study(
            pairs=pairs,
            data=data,
            chapters=tuple(chapters.items()),
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
