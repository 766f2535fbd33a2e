"""The datasets the package knows, and where they lie on this computer.

``catalog.toml`` holds one table a dataset; a user's own dataset is one more such file.
"""

import functools
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints

import platformdirs
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ecgnb.data.labels import VOCABULARIES
from ecgnb.errors import UserError, near
from ecgnb.files import read_toml

OWN_LAYOUTS = ("table", "array")
_PUBLISHED = ("ptb-xl", "challenge", "brugada-huca", "ptb", "incart", "ludb", "code-test")
LAYOUTS = (*_PUBLISHED, *OWN_LAYOUTS)
_TABLES = tomllib.loads(files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8"))

# What Windows keeps for devices, whatever suffix follows.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


def is_plain(path: str, *, hidden: bool = False) -> bool:
    """Tell whether a path stays below its folder on every system, and hides nothing there."""
    return path.isprintable() and all(
        part == part.lstrip(" ").rstrip(" .")
        and part
        and (hidden or part[0] != ".")
        and not set(part) & set('\\:*?"<>|')
        and not _DEVICES.fullmatch(part)
        for part in path.split("/")
    )


def _must(holds: Callable[[Any], object], wanted: str) -> AfterValidator:
    """Refuse a value of the right kind for which something does not hold."""

    def check(value: Any) -> Any:
        if not holds(value):
            shown = [*value] if isinstance(value, tuple) else value
            raise ValueError(f"is {shown!r}: write {wanted}")
        return value

    return AfterValidator(check)


def _of(choices: Iterable[str]) -> AfterValidator:
    return _must({*choices}.__contains__, f"one of {', '.join(choices)}")


def _whole(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(int(one) if one.is_integer() else one for one in numbers)


_NAME = _must(
    re.compile(r"[a-z0-9]+(-[a-z0-9]+)*").fullmatch, "small letters and digits joined by hyphens"
)
_FOLDERS = _must(
    lambda folders: folders and all(map(is_plain, folders)),
    "plain names of folders under the data root, or left out",
)
_RATES = _must(lambda rates: all(0 < rate < 1e9 for rate in rates), "numbers above 0, in Hz")
_SECONDS = _must(lambda pair: len(pair) == 2, "two numbers: the shortest and the longest record")
_RANGE = _must(
    lambda pair: len(pair) in (0, 2), "two record names, the first and the last, or left out"
)
# What a user writes for each kind of value stands beside the kind.
Text = Annotated[str, _must(str.isprintable, "text without control characters"), "text in quotes"]
Texts = Annotated[tuple[Text, ...], "a list of texts"]
Numbers = Annotated[tuple[float, ...], AfterValidator(_whole), "a list of numbers"]
Count = Annotated[int, Field(ge=0), "a whole number, 0 or more"]
Flag = Annotated[bool, "true or false"]


@dataclass(frozen=True)
class DatasetCard:
    """What is known of one dataset; 0, "" and () mean unknown."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    name: Annotated[Text, _NAME]  #: Its key.
    title: Text  #: Its name in print.
    #: How records and their metadata are laid out on disk.
    layout: Annotated[Text, _of(LAYOUTS)]
    #: What the native codes are, see `ecgnb.data.labels`; ``text`` is read by no label set.
    vocabulary: Annotated[Text, _of(VOCABULARIES)]
    #: Where it usually lies under the data root, tried in this order; a folder of the version
    #: (``ptb-xl/1.0.3``) before the folder that holds it. By default the dataset's name.
    folders: Annotated[Texts, _FOLDERS]
    version: Text = ""  #: The release described here.
    url: Text = ""  #: Its landing page.
    licence: Text = ""  #: The licence of the data.
    citation: Text = ""  #: The key of its reference in ``book/references.bib``.
    description: Text = ""  #: One sentence; country, hospital, years, who.
    records: Count = 0  #: As published, before any record is dropped.
    patients: Count = 0  #: As published.
    sampling_rates: Annotated[Numbers, _RATES] = ()  #: In Hz; the rates a release offers.
    #: Length of the shortest and of the longest record.
    seconds: Annotated[Numbers, _SECONDS] = (0, 0)
    #: Whether records of one patient can be told, by an id or as there is one record a patient.
    patients_known: Flag = False
    #: ``mV`` if amplitude was kept, ``z-score`` if each lead was standardised.
    amplitude: Annotated[Text, _of(("mV", "z-score"))] = "mV"
    notes: Text = ""  #: What is awkward about it.
    #: First and last record name, where one download holds two datasets; () for all.
    record_range: Annotated[Texts, _RANGE] = ()
    homes: Texts = ()  #: Where it can be fetched, tried in this order; see `ecgnb.data.homes`.
    #: Folders of a download that ecgnb does not read; fetched only if all is asked for.
    unread: Texts = ()
    patients_of: Text = ""  #: The dataset some of whose patients it has, or may have, if any.
    #: Other datasets of the catalog whose records are added; it is here only if they are.
    also: Annotated[tuple[Annotated[Text, _of(_TABLES)], ...], "a list of texts"] = ()
    simulated: Flag = False  #: Whether the ECGs come from `ecgnb.simulate.ecg`.

    @property
    def short_title(self) -> str:
        """The title without what stands in brackets."""
        return self.title.partition(" (")[0]


JOINT = "+"  # between the names of datasets that are taken as one

_CARD = TypeAdapter(DatasetCard)


def _card(name: str, table: Mapping[str, object], where: str) -> DatasetCard:
    """Build a card, or raise UserError with one sentence for every wrong key."""
    try:
        # As JSON, in which a list may stand for a tuple and nothing else for anything else.
        values = {"name": name, "folders": [name], **table}
        return _CARD.validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        wrong = {str(one["loc"][0]): _wrong(one) for one in reversed(error.errors())}
    said = " ".join(reversed(wrong.values()))
    raise UserError(f"The dataset card '{name}' in {where} is wrong. {said}")


def _wrong(error: Any) -> str:
    """Say in a sentence what is wrong with a key, and what to write."""
    key = str(error["loc"][0])
    if error["type"] == "unexpected_keyword_argument":
        return f"'{key}' is not a key of a card{near(key, [f.name for f in fields(DatasetCard)])}."
    if error["type"] == "value_error":
        return f"'{key}' {error['ctx']['error']}."
    metadata = get_type_hints(DatasetCard, include_extras=True)[key].__metadata__
    said = "is missing: add" if error["type"] == "missing" else "must be"
    return f"'{key}' {said} {next(one for one in metadata if isinstance(one, str))}."


CATALOG: Mapping[str, DatasetCard] = MappingProxyType(
    {name: _card(name, table, "catalog.toml") for name, table in _TABLES.items()}
)
"""The known datasets by name; the page on datasets lists them."""


def own_cards() -> dict[str, DatasetCard]:
    """Read the cards of one's own: the TOML files that lie where ``ECGNB_DATA`` points."""
    if not os.environ.get("ECGNB_DATA"):
        return {}
    cards: dict[str, DatasetCard] = {}
    for path in sorted(data_root().glob("[!.]*.toml")):
        one = _own_card(path, path.stat().st_mtime_ns) if path.is_file() else None
        if one and cards.setdefault(one.name, one) is not one:
            raise UserError(f"The name '{one.name}' in {path} is taken: another card there has it.")
    return cards


@functools.lru_cache
def _own_card(path: Path, time: int) -> DatasetCard | None:
    """Read the card in a file of that time; None if it holds none."""
    whole = read_toml(path, "dataset card")
    tables = [whole, *(table for table in whole.values() if isinstance(table, dict))]
    return load_card(path) if any({"layout", "vocabulary"} & {*one} for one in tables) else None


def card(name: str) -> DatasetCard:
    """Return the card of a dataset, of the catalog or of one's own; or of several, ``a+b``.

    UserError names near matches if there is no such dataset.
    """
    if JOINT in name:
        if again := [part for part, n in Counter(name.split(JOINT)).items() if n > 1]:
            raise UserError(f"'{name}' names {again[0]} twice: name it once.")
        return _joined(name, [card(part) for part in name.split(JOINT)])
    if name in CATALOG:
        return CATALOG[name]
    own = own_cards()
    if name in own:
        return own[name]
    if os.environ.get("ECGNB_DATA") and is_plain(name):
        own_file = data_root() / f"{name}.toml"
        if own_file.is_file():
            load_card(own_file)  # which says what it lacks to be a card
    known = [*CATALOG, *own]
    hint = near(name.lower().replace("_", "-"), known)
    raise UserError(f"There is no dataset '{name}'{hint}; 'ecgnb datasets' lists them all.")


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


def share_patients(first: DatasetCard, second: DatasetCard) -> bool:
    """Tell whether datasets have, or may have, patients in common: by their cards, or as files."""
    known = {**CATALOG, **own_cards()}
    mine, theirs = parts(first), parts(second)
    for side in (mine, theirs):
        for one in side:  # and, as they are found, those whose patients they have
            side += {known[n] for n in (one.patients_of,) if n in known} - {*side}
    names, others = ({n for c in side for n in (c.name, c.patients_of)} for side in (mine, theirs))
    return bool(names & others - {""}) or any(
        overlap(one.folders, other.folders) and not (one.record_range and other.record_range)
        for one, other in product(mine, theirs)
    )


def overlap(folders: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether one of some folders is, or is in or around, one of others, on any system."""
    pairs = product(*([f"{one.casefold()}/" for one in many] for many in (folders, others)))
    return any(one.startswith(other) or other.startswith(one) for one, other in pairs)


def load_card(path: str | os.PathLike[str]) -> DatasetCard:
    """Read a card of your own: a TOML file of one table, ``[its-name]`` and keys of `DatasetCard`.

    Raises UserError if it cannot be read, or for every key that is unknown, missing or wrong.
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


def _from_environment(variable: str) -> Path | None:
    """Read a folder from a variable; None if it is not set."""
    value = os.environ.get(variable, "")
    path = Path(os.path.expanduser(value))
    if str(path).startswith("~"):
        raise UserError(f"{variable} is '{value}', and there is no such home: give the whole path.")
    return path if value else None


def data_root() -> Path:
    """Return the folder of raw datasets, from the environment variable ``ECGNB_DATA``."""
    root = _from_environment("ECGNB_DATA")
    if root is None:
        raise UserError(
            "ECGNB_DATA is not set: set it to the folder that holds your datasets, for example "
            "export ECGNB_DATA=$HOME/ecg, or use a simulated dataset, which needs none."
        )
    try:
        os.listdir(root)
        os.stat(root / ".")
    except PermissionError as error:
        raise UserError(
            f"ECGNB_DATA is '{root}', which you may not read: ask its owner for "
            f"`chmod a+rX {root}`, or name another folder."
        ) from error
    except OSError as error:
        raise UserError(
            f"ECGNB_DATA is '{root}', which is not a folder: create or correct it."
        ) from error
    return root


def cache_root() -> Path:
    """Return the folder of prepared data and runs: ``ECGNB_CACHE``, or the user's cache folder."""
    try:
        root = _from_environment("ECGNB_CACHE") or platformdirs.user_cache_path("ecgnb")
    except RuntimeError:  # of platformdirs; older ones leave the sign as it is
        root = Path("~")
    if str(root).startswith("~"):
        raise UserError("there is no home folder here: set ECGNB_CACHE to a folder you can write.")
    return root


def find(facts: DatasetCard, root: Path) -> Path | None:
    """Return the first of the usual folders of a dataset that exists under `root`, else None."""
    if not all(find(card(name), root) for name in facts.also):
        return None
    folders = (root / folder for folder in facts.folders)
    return next((folder for folder in folders if os.path.isdir(folder)), None)
