"""Reading the declaration of a study: one that comes with the package, or a file of one's own."""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from ecgnb.data.arrays import Options
from ecgnb.data.catalog import JOINT, DatasetCard, card, data_root, find, parts, share_patients
from ecgnb.data.labels import default_label_set, encode, label_set
from ecgnb.data.layouts import list_records
from ecgnb.errors import UserError, near
from ecgnb.files import read_toml
from ecgnb.models import FEWEST_SAMPLES, HEADS, MODELS, NO_NETWORK, check_model
from ecgnb.study.spec import ALL, Pair, Side, Study, size_label
from ecgnb.training.arms import check_arm, check_protocol, recipe_of
from ecgnb.training.metrics import UNLABELLED

_SMALL = 1000  # records; with fewer, few classes have ten positives in a fifth
_SMALL_TEST_POSITIVES = 2
_TRAINED = 0.6  # of the records; a fifth validates and a fifth tests
_MOST_SEEDS, _MOST_SIMULATED = 10_000, 1_000_000
FASTEST, LONGEST = 10_000, 3600  # Hz, and seconds of a window

_PAIR_FIELDS = ("models", "heads", "sizes", "seeds", "arms", "min_test_positives")
_LEVELS = {"study": Study, "pairs": Pair, "source": Side, "target": Side, "data": Options}
_INTERNAL = ("name", "shard", "asked", "recipes")  # fields that no file says
_KINDS = {"string": "text in quotes", "int": "a whole number", "float": "a number"}
_KINDS |= {"bool": "true or false", "finite": "a finite number"}
_WANTED = {
    "sizes": "a list of whole numbers",
    "seeds": "a list of whole numbers, or how many",
    "models": "a list of texts",
    "arms": "a list of texts",
    "heads": "a list of texts, or such a list by model",
    "learning_rates": "a list of numbers, or such a list by model",
    "recipes": "the name of a recipe, or a table of names by model",
    "chapters": "a table, such as { autoencoder = 'jang2021' }",
    "pairs": "tables, each under a line [[pairs]]",
    "source": "a table, such as { dataset = ... }",
    "target": "a table, such as { dataset = ... }",
    "data": "a table, such as { rate = 100.0 }",
}


def study_names() -> list[str]:
    """List the studies that come with the package."""
    folder = resources.files("ecgnb.studies")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_study(
    name: str,
    *,
    target: str | None = None,
    source: str | None = None,
    models: object = None,
    sizes: object = None,
    seeds: object = None,
    **changes: Any,
) -> Study:
    """Read a study, whole or as far as a reader asks for it.

    The `name` is one of `study_names`; such a name and a dataset, as ``clinical:my-hospital``,
    which is the same as `target`; or a TOML file of the same form as those under ``ecgnb/studies``.
    If the study has pairs with the datasets `target` and `source`, it is they alone; else these
    stand in the place of the target, or source, of the first pair, which is then all there is.

    Of each pair `models` and `sizes` are kept, and what no pair has is added to the first: a list,
    a single value, or its text as papermill hands it over, ``'["gru"]'`` or ``'gru, lstm'``.
    `seeds` says how many, or which, in every pair. `changes` are fields to replace, such as
    ``batch_size``; fields of a pair in every pair.

    Raises a UserError if the study, or a name in it, is unknown, or the dataset is not here.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"a study is a name in quotes, such as 'demo', and not {name!r}")
    name, colon, dataset = (name, "", "") if _is_file(name) else name.partition(":")
    if colon:
        if target:
            raise UserError(f"{name}:{dataset} names a target already; leave out {target!r}")
        if not dataset:
            raise UserError(f"{name}: names no dataset; write {name}, or {name}:my-hospital")
        target = dataset
    for one in (target, source):
        if one and not isinstance(one, str):
            raise UserError(f"target and source are names of a dataset in quotes, not {one!r}")
    study = build_study(*_read(name), **changes)
    if isinstance(seeds, str) and seeds.isdecimal():
        seeds = _number(seeds)
    if isinstance(seeds, int):
        seeds = _seeds(study.name, seeds)
    said = {
        "target": target or None,
        "source": source or None,
        "models": _several(models, str),
        "sizes": _several(sizes, int),
        "seeds": _several(seeds, int),
    }
    asked = {key: value for key, value in said.items() if value is not None}
    if not asked:
        return study
    narrowed = _validated(asdict(_narrowed(study, asked)))
    return replace(narrowed, asked=tuple(asked.items()))


def chapter_study(study: Study, chapter: str) -> Study:
    """Return the study of a chapter: its own, where the given one names it, else the given one."""
    own = dict(study.chapters).get(chapter)
    if not own:
        return study
    # What the given one was asked to change holds for it too, as far as it has such models.
    asked = dict(study.asked)
    if not {*asked.get("models", ())} & {*load_study(own).models}:
        asked.pop("models", None)
    return load_study(own, **asked)


def _is_file(name: str) -> bool:
    return name.lower().endswith(".toml")


def _read(name: str) -> tuple[str, dict[str, Any]]:
    if _is_file(name):
        path = Path(os.path.expanduser(name))
        # Its name may be that of a published study, whose recorded runs it must not replace.
        return path.stem, {**read_toml(path, "study"), "recorded": False}
    if name not in study_names():
        raise UserError(
            f"unknown study {name!r}{near(name, study_names())}; choose one of "
            f"{', '.join(study_names())}, or name a file that ends in .toml"
        )
    text = (resources.files("ecgnb.studies") / f"{name}.toml").read_text(encoding="utf-8")
    return name, tomllib.loads(text)


def _several(value: object, kind: type) -> tuple[Any, ...] | None:
    """Read one value or several, also from the text that papermill makes of them."""
    if value is None or value == "":
        return None
    found: Any = value if isinstance(value, Sequence) else (value,)
    try:
        if isinstance(value, str):
            listed = json.loads(value) if value.strip().startswith("[") else value.split(",")
            texts = (one.strip() if isinstance(one, str) else one for one in listed)
            found = [_number(one) if kind is int else one for one in texts]
        hash(tuple(found))  # neither lists nor tables stand in it
    except (ValueError, TypeError) as error:
        raise UserError(f"{value!r} is no list; write '[50, 0]' or '[\"gru\"]'") from error
    return tuple(found)


def _number(text: object) -> object:
    """Read a number from its text; what is none is named by `_validated`."""
    if text == size_label(ALL):
        return ALL
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 20 else text


def _seeds(name: str, count: int) -> range:
    if not 0 <= count <= _MOST_SEEDS:
        raise UserError(f"study {name}: 'seeds' must be 1 to {_MOST_SEEDS:,}")
    return range(count)


def _narrowed(study: Study, asked: Mapping[str, Any]) -> Study:
    """Return the part of a study that a reader asked for; see `load_study`."""
    target, source = asked.get("target"), asked.get("source")
    pairs = [
        pair
        for pair in study.pairs
        if (source or pair.source.dataset, target or pair.target.dataset) == pair.datasets
    ]
    if not pairs:
        study = _onto(study, target, source, "sizes" in asked)
        pairs = [*study.pairs]
    for field in ("models", "sizes"):
        if field in asked:
            pairs = list(_kept(pairs, field, asked[field]))
    if "seeds" in asked:
        pairs = [replace(pair, seeds=asked["seeds"]) for pair in pairs]
    return replace(study, pairs=tuple(pairs))


def _kept(pairs: Sequence[Pair], field: str, asked: tuple[Any, ...]) -> Iterable[Pair]:
    """Keep of each pair what is asked for; what no pair has, the first gets."""
    new = {*asked} - {value for pair in pairs for value in getattr(pair, field)}
    for place, pair in enumerate(pairs):
        has = {*getattr(pair, field)} | (new if place == 0 else set())
        if values := tuple(value for value in asked if value in has):
            changed: dict[str, Any] = {field: values}
            yield replace(pair, **changed)


def _onto(study: Study, target: str | None, source: str | None, sized: bool) -> Study:
    """Put other datasets in the places of a study's first pair, as far as they are large enough."""
    pair = study.pairs[0]
    # A head that is kept names the classes of the source, which must be those of the target.
    whole = any(check_arm(arm).keeps_head for arm in pair.arms)

    def side(old: Side, name: str) -> Side:
        if JOINT in name and old is pair.target:
            raise UserError(
                f"the target of {study.name}:{name} is several datasets; name one, or declare a "
                "study of your own in a TOML file"
            )
        kept = whole or old.label_set == UNLABELLED
        names = old.label_set if kept else default_label_set(card(name).vocabulary)
        return replace(old, dataset=name, label_set=names)

    if source and source != pair.source.dataset:
        pair = replace(pair, source=side(pair.source, source))
    if target and target != pair.target.dataset:
        pair = replace(pair, target=side(pair.target, target))
        count = _count(study, card(target))
        if not sized:
            pair = replace(pair, sizes=tuple(n for n in pair.sizes if n <= _TRAINED * count))
        if count < _SMALL:
            pair = replace(pair, min_test_positives=_SMALL_TEST_POSITIVES)
    titles = [card(one.dataset).short_title for one in (pair.source, pair.target)]
    return replace(
        study,
        name=study.name + (f":{target}" if target else "") + (f" from {source}" if source else ""),
        title=" to ".join(titles),
        description=f"As the study {study.name}, from {titles[0]} to {titles[1]}.",
        recorded=False,
        pairs=(pair,),
    )


def _count(study: Study, facts: DatasetCard) -> int:
    if facts.simulated:
        return study.data.simulated_records
    folder = find(facts, data_root())
    if folder is None:
        raise UserError(
            f"{facts.title} is not in {data_root()}; put it there, or correct 'folders' of its card"
        )
    return len(list_records(facts, folder).table)


def build_study(name: str, table: Mapping[str, Any], **changes: Any) -> Study:
    """Build a study from the content of its TOML file; or raise a UserError on what is wrong."""
    if wrong := {*_INTERNAL} & {*table}:
        raise UserError(f"study {name} has no field {min(wrong)!r}: leave it out")
    values: dict[str, Any] = {**table, "name": name}
    # What stands over the pairs holds for each that says nothing else.
    common = {key: values.pop(key) for key in _PAIR_FIELDS if key in values}
    replaced = {key: changes.pop(key) for key in _PAIR_FIELDS if key in changes}
    values = {"recorded": False, **values, **changes}
    entries = values.get("pairs")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"study {name}: 'pairs' must be {_WANTED['pairs']}")
    whole = ({**common, **entry, **replaced} for entry in entries)
    values["pairs"] = [pair for entry in whole for pair in _expanded(name, entry)]
    if "recipe" in values:
        values["recipes"] = values.pop("recipe")
    for key in {"learning_rates", "recipes"} & values.keys():
        values[key] = _by_model(values[key])
    if isinstance(values.get("chapters"), dict):
        values["chapters"] = list(values["chapters"].items())
    return _validated(values)


def _by_model(said: Any) -> list[tuple[str, Any]]:
    """Read what is said of each model, or of all of them."""
    return list(said.items()) if isinstance(said, dict) else [("", said)]


def _expanded(name: str, entry: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Give the pairs of an entry: each source with each target that has none of its patients."""
    if type(entry.get("seeds")) is int:
        entry = {**entry, "seeds": list(_seeds(name, entry["seeds"]))}
    if "heads" in entry:
        entry = {**entry, "heads": _by_model(entry["heads"])}
    found = (entry.get("source"), entry.get("target"))
    sides = [side if isinstance(side, dict) else {} for side in found]
    names = [side.get("dataset") for side in sides]
    sources, targets = (one if isinstance(one, list) else [one] for one in names)
    several = any(isinstance(one, list) for one in names)
    if not several or not all(isinstance(one, str) for one in (*sources, *targets)):
        yield entry
        return
    for target, source in product(targets, sources):
        if not share_patients(card(source), card(target)):
            both = zip(("source", "target"), sides, (source, target), strict=True)
            yield {**entry, **{key: {**side, "dataset": one} for key, side, one in both}}


_adapter: TypeAdapter[Study] = TypeAdapter(Study)


def _validated(values: Mapping[str, Any]) -> Study:
    """Check the kind and the size of each value, then what they mean together."""
    try:
        # As JSON a list is a tuple, and nothing is taken for what it is not.
        study = _adapter.validate_json(json.dumps(values, default=str))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"study {values['name']}{_sentence(error)}") from error
    check_protocol(study.protocol)
    for _, recipe in study.recipes:
        recipe_of(recipe, study.protocol)
    for mistake in _mistakes(study):
        raise UserError(f"study {study.name}{mistake}")
    return study


def _sentence(error: Exception) -> str:
    """Say the first thing that pydantic found, in the words of the file."""
    first: Any = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else {}
    where = [part for part in first.get("loc", ()) if isinstance(part, str)]
    if not where:
        return f" holds a value that no study has: {first.get('msg', error)}"
    key, given, kind = where[-1], first["input"], first["type"]
    if kind.startswith("unexpected"):
        place = where[-2] if where[1:] else "study"
        known = [entry.name for entry in fields(_LEVELS[place]) if entry.name not in _INTERNAL]
        known += ("recipe", *_PAIR_FIELDS) if place == "study" else ()
        return f" has no field {key!r}{near(key, known)}; its fields are {', '.join(known)}"
    if kind.startswith("missing"):
        return f" lacks the field {key!r}" + (f" of {where[-2]!r}" if where[1:] else "")
    if kind == "too_short":
        return f": {key!r} is empty"
    limits = first.get("ctx", {})
    for limit, words in (("ge", "at least"), ("gt", "above"), ("le", "at most")):
        if limit in limits:
            return f": {key!r} must be {words} {limits[limit]:,}, not {given}"
    wanted = _WANTED.get(key) or _KINDS.get(kind.partition("_")[0], first["msg"])
    return f": {key!r} must be {wanted}, not {given!r:.60}"


def _mistakes(study: Study) -> Iterable[str]:
    data = study.data
    whole = 1 <= data.rate <= FASTEST and 0 < data.seconds <= LONGEST
    if not (whole and data.samples >= FEWEST_SAMPLES):
        yield (
            f": 'rate' must be 1 to {FASTEST:,} Hz and 'seconds' at most {LONGEST:,}, and a window "
            f"{FEWEST_SAMPLES} samples or more, not {data.rate:g} and {data.seconds:g}"
        )
    if not 1 <= data.simulated_records <= _MOST_SIMULATED:
        yield f": 'simulated_records' must be 1 to {_MOST_SIMULATED:,}"
    for pair in study.pairs:
        yield from _mistakes_of(study, pair)
    read = {
        (side.dataset, side.label_set)
        for pair in study.pairs
        for side in (pair.target, pair.source)
        if side is pair.target or side.label_set != UNLABELLED
    }
    for dataset, labels in sorted(read):
        for name in dataset.split(JOINT):
            encode(pd.Series(dtype=str), card(name).vocabulary, labels)  # says what is wrong
    grids = dict(study.learning_rates)
    known = {"", *MODELS, *(entry.family for entry in MODELS.values())}
    heads = (name for pair in study.pairs for name, _ in pair.heads)
    for name in (*grids, *dict(study.recipes), *heads):
        if name not in known:  # it would be used for nothing, without a word
            yield f": no model or family {name!r}{near(name, known)}"
    for model in study.models:
        if not study.rates(model):
            yield f" has no learning rates for {model}"
    if study.tuning_seed in study.seeds:
        yield f": the tuning seed {study.tuning_seed} must not be one of the seeds"


def _mistakes_of(study: Study, pair: Pair) -> Iterable[str]:
    source, target = map(card, pair.datasets)
    for one in (*parts(source), *parts(target)):
        card(one.patients_of or one.name)  # says what is wrong with it
    if pair.target.size or pair.target.shuffled:
        yield (
            ": 'size' and 'shuffled' are of a source; 'sizes' of the pair says how many records "
            "of the target train"
        )
    for head in (head for _, several in pair.heads for head in several):
        if head not in HEADS:
            raise UserError(f"unknown head {head!r}; choose {' or '.join(HEADS)}")
    for model in pair.models:
        asked = pair.heads_of(model) if model in MODELS else ()
        if model == NO_NETWORK or not any(head in MODELS[model].heads for head in asked):
            check_model(model, *asked[:1] or [""])
    chosen_on_test = check_protocol(study.protocol).chosen_on_test
    for model, arm in product(pair.models, pair.arms):
        kind = check_arm(arm)
        if kind.photographs and not MODELS[model].load_imagenet:
            yield f": there are no weights of ImageNet for {model}"
        if chosen_on_test and kind.trained and (kind.frozen or kind.probing):
            yield (
                f": the protocol {study.protocol} trains whole networks, and the arm {arm} a head "
                "by itself; leave one of them out"
            )
        if kind.probing and pair.target.updates < 2:
            yield f": the arm {arm} divides the updates of a target, of which it needs two or more"
        unlabelled = pair.source.label_set == UNLABELLED and kind.pretrained
        if unlabelled and not MODELS[model].unlabelled:
            yield f": {model} cannot be pre-trained without labels"
        names = {pair.source.label_set, pair.target.label_set}
        if kind.keeps_head and (len(names) > 1 or not label_set(min(names)).classes):
            yield (
                f": the arm {arm} needs one label set, of given classes, for source and target, "
                f"not {' and '.join(sorted(names))}"
            )
    if share_patients(source, target):
        yield (
            f" trains on {source.title} and tests on {target.title}, which have patients in "
            "common; choose another source or target"
        )
    pretrained = any(check_arm(arm).pretrained for arm in pair.arms)
    sides = [pair.target, pair.source] if pretrained or study.epochs else [pair.target]
    counts = [study.evaluations, *(side.updates for side in sides)]
    if any(counts) if study.epochs else not all(counts):
        yield (
            " must give either epochs, or evaluations and the updates of every target and of every "
            "source that is trained on"
        )
