"""Pages of the book whose content is declared: the catalog's datasets, and the studies.

``python book/pages.py datasets DIR`` writes ``datasets.md``, ``studies`` writes ``studies.md``.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ecgnb.data.catalog import CATALOG, JOINT, DatasetCard
from ecgnb.data.catalog import card as find_card
from ecgnb.data.labels import LABEL_SETS
from ecgnb.models import MODELS
from ecgnb.study.data import selection
from ecgnb.study.declare import load_study, study_names
from ecgnb.study.spec import Pair, Side, Study, size_label
from ecgnb.training.arms import ARMS, check_protocol
from ecgnb.training.metrics import UNLABELLED


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a Markdown table; what stands in it is text, never HTML or another cell."""
    cells = [head, ["---"] * len(head)]
    cells += [[html.escape(str(one)).replace("|", "\\|") for one in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def write_datasets(folder: Path) -> None:
    """Write ``datasets.md`` from the catalog."""
    studies = [load_study(name) for name in study_names()]
    overview = (
        (card.short_title, f"{card.records:,}" if card.records else "any", _named(card, studies))
        for card in CATALOG.values()
    )
    sets = (
        (f"`{one.name}`", len(one.classes) or "those in the data", one.description)
        for one in LABEL_SETS.values()
    )
    parts = [
        "# Datasets",
        "The ECGs that the package knows, and the studies that use them. None comes with the "
        "package, but for a few example records.",
        _table(["dataset", "records", "used by"], overview),
        *(_section(card, studies) for card in CATALOG.values()),
        "## Label sets",
        "A label set is the list of classes that a task predicts. Where they are *those in the "
        "data*, every code that occurs often enough becomes a class.",
        _table(["label set", "classes", "what"], sets),
    ]
    (folder / "datasets.md").write_text("\n\n".join(parts) + "\n")


def _roles(card: DatasetCard, studies: list[Study]) -> list[tuple[Study, str]]:
    """List the studies that use a dataset, each with the dataset's role."""
    roles = [
        (study, role)
        for study in studies
        for pair in study.pairs
        for role, side in (("source", pair.source), ("target", pair.target))
        if card.name in side.dataset.split(JOINT)
    ]
    return list(dict.fromkeys(roles))


def _named(card: DatasetCard, studies: list[Study]) -> str:
    return ", ".join(dict.fromkeys(f"`{study.name}`" for study, _ in _roles(card, studies)))


def _section(card: DatasetCard, studies: list[Study]) -> str:
    readers = [
        f"`{one.name}`" for one in LABEL_SETS.values() if card.vocabulary in one.vocabularies
    ]
    uses = [
        f"`{study.name}` ({role}{_count(study, card)})" for study, role in _roles(card, studies)
    ]
    low, high = card.seconds
    patients = f"{card.patients:,}" if card.patients else "not counted"
    entries = {
        "Name here": f"`{card.name}`" + f", version {card.version}" * bool(card.version),
        "Records": f"{card.records:,}" if card.records else "",
        "Patients": (patients if card.patients_known else "not named by record")
        * (not card.simulated),
        "Joins": ", ".join(f"`{name}`" for name in card.also),
        "Sampling rate": " or ".join(map(str, card.sampling_rates)) + " Hz",
        "Length": (f"{low:g} s" if low == high else f"{low:g} to {high:g} s") * bool(high),
        "Amplitude": "millivolts" if card.amplitude == "mV" else "standardised, amplitude lost",
        "Codes": f"`{card.vocabulary}`",
        "Label sets": ", ".join(readers) or "none",
        "Used by": "; ".join(uses) or "no study yet",
        "Licence": card.licence,
        "Where": f"<{card.url}>" if card.url else "",
        "Awkward": card.notes,
        "Reference": f"{{cite:p}}`{card.citation}`" if card.citation else "",
        "Download": f"`ecgnb fetch {card.name}`" if card.homes else "",
    }
    lines = [f"{term}\n: {text}" for term, text in entries.items() if text]
    return "\n\n".join([f"## {card.title}", card.description, *lines])


def _count(study: Study, card: DatasetCard) -> str:
    named = selection(study, card.name)
    return "" if named is None else f", {len(named):,} records"


def by_target(pairs: Sequence[Pair]) -> list[tuple[list[Side], Pair]]:
    """Put pairs together that differ in their source alone, with all their sources."""
    found: dict[Pair, list[Side]] = {}
    for pair in pairs:
        found.setdefault(replace(pair, source=pair.target), []).append(pair.source)
    return [
        (list(dict.fromkeys(sides)), replace(pair, source=sides[0]))
        for pair, sides in found.items()
    ]


def write_studies(folder: Path) -> None:
    """Write ``studies.md``: for each study what stands in its declaration."""
    parts = []
    for study in map(load_study, study_names()):
        rates = [(name, ", ".join(f"{r:g}" for r in grid)) for name, grid in study.learning_rates]
        settings = {
            "protocol": study.protocol,
            "recipe": _by_model(study.recipes) or check_protocol(study.protocol).recipe,
            "learning rates": _by_model(rates),
            "seed that chooses among several": study.tuning_seed,
            "records in a batch": study.batch_size,
            "looks at validation": study.evaluations or f"{study.epochs}, after every epoch",
            "sampling rate and window": f"{study.data.rate:g} Hz, {study.data.seconds:g} s",
        }
        head = ["source", "target", "networks", "records", "arms", "least test positives", "seeds"]
        rows = [_pair(study, *several) for several in by_target(study.pairs)]
        parts += [f"### {html.escape(study.title)}", f"`{study.name}`"]
        parts += [_table(["what", "value"], settings.items()), _table(head, rows)]
    (folder / "studies.md").write_text("\n\n".join(parts) + "\n")


def _by_model(said: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {one}" if name else one for name, one in said)


def _pair(study: Study, sources: list[Side], pair: Pair) -> list[object]:
    pretrained = any(ARMS[arm].pretrained for arm in pair.arms)
    return [
        "; ".join(_sides(study, sources)) if pretrained else "none",
        "; ".join(_sides(study, [pair.target])),
        ", ".join(f"{MODELS[model].title} ({head})" for model, head in pair.networks()),
        ", ".join(size_label(size) for size in pair.sizes),
        ", ".join(ARMS[arm].title for arm in pair.arms),
        pair.min_test_positives,
        len(pair.seeds),
    ]


def _sides(study: Study, sides: list[Side]) -> Iterator[str]:
    """Name datasets, and once for all that are alike, what of them is learnt and for how long."""
    alike: dict[Side, list[str]] = {}
    for side in sides:
        alike.setdefault(replace(side, dataset=""), []).append(find_card(side.dataset).short_title)
    for side, names in alike.items():
        labels = "no labels" if side.label_set == UNLABELLED else f"`{side.label_set}`"
        least = f", at least {side.min_positives} positives" * bool(side.min_positives)
        length = f"{study.epochs} epochs" if study.epochs else f"{side.updates} updates"
        part = f"; {side.size:,} records" * bool(side.size) + "; labels shuffled" * side.shuffled
        yield f"{'; '.join(names)} ({labels}{least}; {length}{part})"


if __name__ == "__main__":
    pages = {"datasets": write_datasets, "studies": write_studies}
    pages[sys.argv[1]](Path(sys.argv[2]))
