"""The datasets the package knows, and where they lie on this computer.

A dataset is data, not code: ``catalog.toml`` holds one table a dataset, read here into frozen
`DatasetCard` objects. A user's own dataset is one more TOML file (`load_card`).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs

from ecgnb.errors import UserError
from ecgnb.files import read_toml

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


@dataclass(frozen=True)
class DatasetCard:
    """What is known of one dataset; 0, "" and () mean unknown.

    Attributes
    ----------
    name, title : str
        Its key (small letters, digits and hyphens) and its name in print.
    version, url : str
        The release described here and its landing page.
    licence, citation : str
        The licence of the data and the key of its reference in ``book/references.bib``.
    description : str
        One sentence: country, hospital, years, who.
    records, patients : int
        As published, before any record is dropped.
    sampling_rates : tuple of int
        In Hz; the rates a release offers.
    seconds : tuple of float
        Length of the shortest and of the longest record.
    layout : str
        How records and their metadata are laid out on disk, one of `ecgnb.data.catalog.LAYOUTS`.
    vocabulary : str
        What the native codes are, see `ecgnb.data.labels`; ``text`` is read by no label set.
    folders : tuple of str
        Where it usually lies under the data root, tried in this order: a folder of the version
        (``ptb-xl/1.0.3``) before the folder that holds it. A card of one's own need not say it if
        the folder has the dataset's name.
    record_range : tuple of str
        First and last record name, where one download holds two datasets; () for all.
    patients_known : bool
        Whether records of one patient can be told: a patient id, or one record a patient.
    amplitude : str
        ``mV`` if amplitude was kept, ``z-score`` if each lead was standardised.
    homes : tuple of str
        Where it can be fetched, tried in this order; see `ecgnb.data.homes`.
    unread : tuple of str
        Folders of a download that ecgnb does not read; fetched only if all is asked for.
    patients_of : str
        The dataset some of whose patients it has, or may have, if there is one.
    also : tuple of str
        Other datasets of the catalog whose records are added; it is here only if they are.
    simulated : bool
        Whether the ECGs come from `ecgnb.simulate.ecg`.
    notes : str
        What is awkward about it.
    """

    name: str
    title: str
    layout: str
    vocabulary: str
    folders: tuple[str, ...]
    version: str = ""
    url: str = ""
    licence: str = ""
    citation: str = ""
    description: str = ""
    records: int = 0
    patients: int = 0
    sampling_rates: tuple[int, ...] = ()
    seconds: tuple[float, ...] = (0, 0)
    patients_known: bool = False
    amplitude: str = "mV"
    notes: str = ""
    record_range: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    patients_of: str = ""
    also: tuple[str, ...] = ()
    simulated: bool = False

    @property
    def short_title(self) -> str:
        """The title without what stands in brackets."""
        return self.title.partition(" (")[0]


JOINT = "+"  # between the names of datasets that are taken as one

_TABLES = tomllib.loads(files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8"))


def _card(name: str, table: Mapping[str, object], where: str) -> DatasetCard:
    """Build a card, or raise UserError with one sentence for every wrong key."""
    values = {"name": name, "folders": [name], **table}
    if wrong := [*problems(dataclasses.fields(DatasetCard), values, _TABLES)]:
        raise UserError(f"The dataset card '{name}' in {where} is wrong. {' '.join(wrong)}")
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return DatasetCard(**plain)  # type: ignore[arg-type]  # checked field by field above


CATALOG: Mapping[str, DatasetCard] = MappingProxyType(
    {name: _card(name, table, "catalog.toml") for name, table in _TABLES.items()}
)
"""The known datasets by name; the page on datasets lists them."""


def own_cards() -> dict[str, DatasetCard]:
    """Read the cards of one's own: the TOML files that lie where ``ECGNB_DATA`` points.

    Raises
    ------
    UserError
        If one of them is wrong; see `load_card`.
    """
    if not os.environ.get("ECGNB_DATA"):
        return {}
    paths = sorted(data_root().glob("*.toml"))
    return _own_cards(tuple((path, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=1)
def _own_cards(paths: tuple[tuple[Path, int], ...]) -> dict[str, DatasetCard]:
    cards: dict[str, DatasetCard] = {}
    for path, _ in paths:
        one = load_card(path)
        if cards.setdefault(one.name, one) is not one:
            raise UserError(f"The name '{one.name}' in {path} is taken: another card there has it.")
    return cards


def card(name: str) -> DatasetCard:
    """Return the card of a dataset, of the catalog or of one's own; or of several, ``a+b``.

    Raises
    ------
    UserError
        If there is no such dataset; the message names near matches.
    """
    if JOINT in name:
        return _joined(name, [card(part) for part in name.split(JOINT)])
    if name in CATALOG:
        return CATALOG[name]
    own = own_cards()
    if name in own:
        return own[name]
    known = [*CATALOG, *own]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"There is no dataset '{name}'.{hint} 'ecgnb datasets' lists them all.")


def _joined(name: str, whole: list[DatasetCard]) -> DatasetCard:
    return DatasetCard(
        name=name,
        title=" + ".join(one.short_title for one in whole),
        layout="joined",
        vocabulary="joined",
        folders=(),
        licence="; ".join(dict.fromkeys(one.licence for one in whole)),
        description="Several datasets as one.",
        records=sum(one.records for one in whole),
        patients_known=all(one.patients_known for one in whole),
        also=tuple(one.name for one in whole),
        simulated=all(one.simulated for one in whole),
    )


def parts(facts: DatasetCard) -> list[DatasetCard]:
    """List the datasets whose records a dataset holds: for most, the dataset itself."""
    if not facts.also:
        return [facts]
    own = [one for one in CATALOG.values() if not one.also and {*one.folders} & {*facts.folders}]
    return [*own, *(part for name in facts.also for part in parts(card(name)))]


def load_card(path: str | os.PathLike[str]) -> DatasetCard:
    """Read a dataset card of your own: one TOML file, one table, its header the dataset's name.

    Parameters
    ----------
    path : path
        A file such as ``[my-hospital]`` followed by the keys of `DatasetCard`.

    Raises
    ------
    UserError
        If the file cannot be read, or for every key that is unknown, missing or of a wrong kind.
    """
    path = Path(path)
    tables = read_toml(path, "dataset card")
    if len(tables) != 1 or not isinstance(next(iter(tables.values())), dict):
        raise UserError(
            f"The dataset card {path} must hold one table: start it with a line like [my-hospital]."
        )
    name, table = next(iter(tables.items()))
    if name in CATALOG:
        raise UserError(f"The name '{name}' in {path} is taken by the catalog: choose another.")
    return _card(name, table, str(path))


def data_root() -> Path:
    """Return the folder of raw datasets, from the environment variable ``ECGNB_DATA``.

    Raises
    ------
    UserError
        If the variable is not set or does not name a folder.
    """
    value = os.environ.get("ECGNB_DATA", "")
    if not value:
        raise UserError(
            "ECGNB_DATA is not set: set it to the folder that holds your datasets, for example "
            "export ECGNB_DATA=$HOME/ecg, or use a simulated dataset, which needs none."
        )
    root = Path(value).expanduser()
    if not root.is_dir():
        raise UserError(f"ECGNB_DATA is '{value}', which is not a folder: create or correct it.")
    return root


def cache_root() -> Path:
    """Return the folder of prepared data and runs: ``ECGNB_CACHE``, or the user's cache folder."""
    value = os.environ.get("ECGNB_CACHE", "")
    return Path(value).expanduser() if value else platformdirs.user_cache_path("ecgnb")


def find(facts: DatasetCard, root: Path) -> Path | None:
    """Return the first of the usual folders of a dataset that exists under `root`, else None."""
    if not all(find(card(name), root) for name in facts.also):
        return None
    folders = (root / folder for folder in facts.folders)
    return next((folder for folder in folders if folder.is_dir()), None)
