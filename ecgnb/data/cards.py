"""What may stand in a dataset card, and what is said of what may not."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

OWN_LAYOUTS = ("table", "array")
LAYOUTS = (
    *("ptb-xl", "challenge", "brugada-huca", "ptb", "incart", "ludb", "code-test"),
    *OWN_LAYOUTS,
)

_CHOICES = {
    "layout": LAYOUTS,
    "vocabulary": ("scp", "snomed", "cpsc", "code-test", "ptb", "brugada", "text", "own"),
    "amplitude": ("mV", "z-score"),
}

# What a value in TOML must be, by the annotation of its field.
_KINDS: Mapping[str, tuple[type | tuple[type, ...], type | tuple[type, ...], str]] = {
    "str": (str, object, "text in quotes"),
    "int": (int, object, "a whole number"),
    "bool": (bool, object, "true or false"),
    "tuple[str, ...]": (list, str, "a list of texts"),
    "tuple[int, ...]": (list, int, "a list of whole numbers"),
    "tuple[float, ...]": (list, (int, float), "a list of numbers"),
}


def is_plain(folder: str) -> bool:
    """Tell whether a folder lies below the data root on every system, and hides nothing there."""
    parts = folder.split("/")
    return folder.isprintable() and not any(
        part.strip(" .") != part or not part or set(part) & set('\\:*?"<>|') for part in parts
    )


# What must hold of a value of the right kind.
_RULES: Mapping[str, tuple[Callable[[Any], object], str]] = {
    "name": (
        re.compile(r"[a-z0-9]+(-[a-z0-9]+)*").fullmatch,
        "small letters and digits joined by hyphens",
    ),
    "folders": (
        lambda folders: folders and all(map(is_plain, folders)),
        "plain names of folders under the data root, or left out",
    ),
    "sampling_rates": (lambda rates: all(rate > 0 for rate in rates), "above 0, in Hz"),
    "seconds": (lambda pair: len(pair) == 2, "two numbers: the shortest and the longest record"),
    "record_range": (
        lambda pair: len(pair) in (0, 2),
        "two record names, the first and the last, or left out",
    ),
}


def problems(
    fields: Iterable[dataclasses.Field], values: Mapping[str, Any], known: Collection[str]
) -> Iterator[str]:
    """Say in a sentence each what is wrong with a card.

    Parameters
    ----------
    fields : iterable of Field
        Of `ecgnb.data.catalog.DatasetCard`.
    values : mapping
        What the card says.
    known : collection of str
        The names in the catalog, which ``also`` chooses from.
    """
    by_name = {field.name: field for field in fields}
    for key in values:
        if key not in by_name:
            near = difflib.get_close_matches(key, by_name, n=1)
            yield f"'{key}' is not a key of a card" + (f": write '{near[0]}'." if near else ".")
    for key, field in by_name.items():
        if key not in values:
            if field.default is dataclasses.MISSING:
                yield f"'{key}' is missing: add {_KINDS[str(field.type)][2]}."
        elif wrong := _wrong(field, values[key], known):
            yield wrong


def _wrong(field: dataclasses.Field, value: Any, known: Collection[str]) -> str:
    """Say what is wrong with the value of a field; "" if nothing is."""
    kind, item, wanted = _KINDS[str(field.type)]
    # bool is an int to Python, not to a reader of the file.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if fits and isinstance(value, list):
        fits = all(isinstance(one, item) and not isinstance(one, bool) for one in value)
    if not fits:
        return f"'{field.name}' must be {wanted}."
    choices = known if field.name == "also" else _CHOICES.get(field.name)
    named = value if isinstance(value, list) else [value]
    if choices and (strange := [one for one in named if one not in choices]):
        return f"'{field.name}' is '{strange[0]}': choose one of {', '.join(choices)}."
    holds, wanted = _RULES.get(field.name, (bool, ""))
    return f"'{field.name}' must be {wanted}." if wanted and not holds(value) else ""
