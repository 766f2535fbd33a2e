"""Pages of the book that are written by the build.

``python -m ecgnb.report.pages datasets DIR`` writes the page of datasets; ``studies`` the numbers
of the protocol.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ecgnb.analysis.statistics import LEVEL, MARGIN
from ecgnb.chapters.common import by_target
from ecgnb.data.catalog import CATALOG, JOINT, DatasetCard
from ecgnb.data.catalog import card as find_card
from ecgnb.data.labels import LABEL_SETS
from ecgnb.models import MODELS
from ecgnb.study.data import selection
from ecgnb.study.declare import load_study, study_names
from ecgnb.study.plan import size_label
from ecgnb.study.spec import Pair, Side, Study
from ecgnb.training.arms import ARMS
from ecgnb.training.metrics import UNLABELLED

_VOCABULARIES = {
    "scp": "SCP-ECG statements",
    "snomed": "SNOMED CT codes",
    "cpsc": "nine names",
    "code-test": "six columns",
    "ptb": "reason for admission",
    "brugada": "Brugada syndrome, yes or no",
    "text": "free text",
}


def write_datasets(folder: Path) -> None:
    """Write ``datasets.md`` from the catalog."""
    studies = [load_study(name) for name in study_names()]
    used = sum(not card.simulated for card in CATALOG.values() if _roles(card, studies))
    public = sum(not card.simulated for card in CATALOG.values())
    parts = [
        "# Datasets",
        f"Which ECGs does the package know, and which of them does the evidence rest on? The "
        f"catalog holds {public} public datasets and {len(CATALOG) - public} simulated ones. So "
        f"far {used} of the public ones are used by a study. No dataset comes with the package, "
        "but for a few example records.",
        "\n".join(_table(studies)),
        *(_section(card, studies) for card in CATALOG.values()),
        "## Label sets",
        "A label set is the list of classes that a task predicts. Where its classes are *found*, "
        "every code that occurs often enough becomes a class.",
        "\n".join(_label_sets()),
    ]
    (folder / "datasets.md").write_text("\n\n".join(parts) + "\n")


def _table(studies: list[Study]) -> Iterator[str]:
    yield "| dataset | records | used by |"
    yield "|---|---:|---|"
    for card in CATALOG.values():
        roles = ", ".join(
            f"`{study}`" for study in dict.fromkeys(s for s, _ in _roles(card, studies))
        )
        count = f"{card.records:,}" if card.records else "any" if card.simulated else ""
        yield f"| {card.short_title} | {count} | {roles} |"


def _roles(card: DatasetCard, studies: list[Study]) -> list[tuple[str, str]]:
    """List the studies that use a dataset, each with the dataset's role."""
    roles = [
        (study.name, role)
        for study in studies
        for pair in study.pairs
        for role, side in (("source", pair.source), ("target", pair.target))
        if card.name in side.dataset.split(JOINT)
    ]
    return list(dict.fromkeys(roles))


def _section(card: DatasetCard, studies: list[Study]) -> str:
    entries = {
        "Name here": f"`{card.name}`" + (f", version {card.version}" if card.version else ""),
        "Records": _records(card),
        "Signals": _signals(card),
        "Labels": _labels(card),
        "Used by": _used(card, studies),
        "Licence": card.licence,
        "Where": f"<{card.url}>" if card.url else "",
        "Awkward": card.notes,
        "Reference": f"{{cite:p}}`{card.citation}`" if card.citation else "",
    }
    lines = [f"{term}\n: {text}" for term, text in entries.items() if text]
    return "\n\n".join([f"## {card.title}", card.description, *lines, *_download(card)])


def _records(card: DatasetCard) -> str:
    if card.simulated:
        return "as many as a study asks for"
    if card.also:
        own = f"what is there of `{card.folders[0]}`"
        return f"{own} and of {', '.join(f'`{name}`' for name in card.also)}"
    patients = f" of {card.patients:,} patients" if card.patients else ""
    unknown = "" if card.patients_known else "; which records share a patient is not known"
    return f"{card.records:,}{patients}{unknown}"


def _signals(card: DatasetCard) -> str:
    low, high = card.seconds
    rates = " or ".join(str(rate) for rate in card.sampling_rates)
    length = f", {low:g} s" if low == high else f", {low:g} to {high:g} s"
    unit = "millivolts" if card.amplitude == "mV" else "standardised, amplitude lost"
    return f"{rates} Hz{length if high else ''}; {unit}"


def _labels(card: DatasetCard) -> str:
    sets = [f"`{s.name}`" for s in LABEL_SETS.values() if card.vocabulary in s.vocabularies]
    read = f"read by {', '.join(sets)}" if sets else "read by no label set"
    return f"{_VOCABULARIES[card.vocabulary]}, {read}"


def _used(card: DatasetCard, studies: list[Study]) -> str:
    texts = []
    for name, role in _roles(card, studies):
        named = selection(next(study for study in studies if study.name == name), card.name)
        count = f", {len(named):,} records" if named is not None else ""
        texts.append(f"`{name}` ({role}{count})")
    return "; ".join(texts) or "no study yet"


def _download(card: DatasetCard) -> Iterator[str]:
    if card.homes:
        yield f"To download it:\n\n```\necgnb fetch {card.name}\n```"


def _label_sets() -> Iterator[str]:
    yield "| label set | classes | what |"
    yield "|---|---|---|"
    for label_set in LABEL_SETS.values():
        count = str(len(label_set.classes)) if label_set.classes else "found"
        yield f"| `{label_set.name}` | {count} | {label_set.description} |"


def write_studies(folder: Path) -> None:
    """Write the numbers of the protocol, from the declarations of the studies.

    ``rule.md`` has those of the rule, ``studies.md`` a table for each study.
    """
    enough = {pair.min_test_positives for name in study_names() for pair in load_study(name).pairs}
    rule = (
        f"Intervals are at {LEVEL:.0%}; the margin is ±{MARGIN:g}, of macro AUROC and of whatever "
        f"else is compared. A class is scored if it has at least {max(enough)} positives and as "
        f"many negatives in a test fifth, {min(enough)} where the target is small.\n"
    )
    (folder / "rule.md").write_text(rule)
    parts = []
    for name in study_names():
        study = load_study(name)
        rows = {
            "learning rates": "; ".join(
                f"{name}{': ' * bool(name)}{', '.join(f'{rate:g}' for rate in grid)}"
                for name, grid in study.learning_rates
            ),
            "chosen with": f"seed {study.tuning_seed}, for each number of records"
            if any(len(grid) > 1 for _, grid in study.learning_rates)
            else "nothing to choose",
            "records in a batch": str(study.batch_size),
            "looks at validation": "after every epoch"
            if study.epochs
            else f"{study.evaluations} in a training",
            "sampling rate and window": f"{study.data.rate:g} Hz, {study.data.seconds:g} s",
        }
        body = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
        pairs = "\n".join(
            f"| {' | '.join(_pair(study, *several))} |" for several in by_target(study.pairs)
        )
        parts.append(
            f"**{study.title}** (`{name}`)\n\n| | |\n|---|---|\n{body}\n\n"
            "| source | target | networks | heads | training records | arms | seeds |\n"
            f"|---|---|---|---|---|---|---|\n{pairs}\n"
        )
    (folder / "studies.md").write_text("\n".join(parts))


def _pair(study: Study, sources: list[Side], pair: Pair) -> list[str]:
    pretrained = any(ARMS[arm].pretrained for arm in pair.arms)
    seeds = len(pair.seeds)
    return [
        _sides(study, sources) if pretrained else "none",
        _sides(study, [pair.target]),
        ", ".join(MODELS[model].title for model in pair.models),
        ", ".join(pair.heads),
        ", ".join(size_label(size) for size in pair.sizes),
        ", ".join(ARMS[arm].title for arm in pair.arms),
        f"{seeds} seed{'s' * (seeds != 1)}",
    ]


def _sides(study: Study, sides: list[Side]) -> str:
    """Name datasets, and once for all that are alike, what of them is learnt and for how long."""
    alike: dict[Side, list[str]] = {}
    for side in sides:
        title = find_card(side.dataset).short_title
        alike.setdefault(replace(side, dataset=""), []).append(title)
    return "; ".join(f"{'; '.join(names)}, {_learnt(study, side)}" for side, names in alike.items())


def _learnt(study: Study, side: Side) -> str:
    length = f"{study.epochs} epochs" if study.epochs else f"{side.updates} updates"
    if side.label_set == UNLABELLED:
        return f"no labels, {length}"
    enough = f" with at least {side.min_positives} positives" if side.min_positives else ""
    return f"labels `{side.label_set}`{enough}, {length}"


if __name__ == "__main__":
    pages = {"datasets": write_datasets, "studies": write_studies}
    pages[sys.argv[1]](Path(sys.argv[2]))
