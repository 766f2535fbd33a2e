"""What the chapter on the data says of the source and the target of a study.

No number is typed: whoever changes the records changes the text.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display

from ecgnb.analysis.describe import (
    COMMON,
    Described,
    Example,
    comparable,
    counterparts,
    find_examples,
    shares,
)
from ecgnb.data.labels import full_name
from ecgnb.data.records import LEADS
from ecgnb.data.splits import target_split
from ecgnb.report.ecg_paper import draw_ecg, draw_overlap, draw_prevalence
from ecgnb.report.tables import as_table, show
from ecgnb.study.spec import Study
from ecgnb.training.metrics import eligible

_NOT_COMPARABLE = (
    f"None of the codes of one of the two has a class in the common label set {COMMON}, so their "
    "labels cannot be compared. Codes of one's own can, where they have the names of its classes."
)
_UNLABELLED = "The source is learnt from without its labels: only what ECGs look like carries over."


def counterparts_table(source: Described, target: Described) -> HTML:
    """Show `counterparts` for reading."""
    table = counterparts(source, target)
    for column in ("source", "target"):
        table[column] = [f"{count:,}" if pd.notna(count) else "–" for count in table[column]]
    return as_table(table.rename(columns={"target": target.name, "source": source.name}))


def names_table(side: Described) -> HTML | Markdown:
    """Show the labels of a dataset with their full names and their records, if it has any."""
    if side.labels.empty:
        return Markdown(_UNLABELLED)
    counts = side.labels.sum().sort_values(ascending=False, kind="stable")
    return as_table(
        pd.DataFrame(
            {
                "label": counts.index,
                "finding": [full_name(str(label)) for label in counts.index],
                "records": counts.map("{:,}".format).to_numpy(),
            }
        )
    )


def overview(source: Described, target: Described) -> HTML:
    """Show the two datasets side by side, as the study uses them."""
    sides = (source, target)
    rows = {
        "role": ["source", "target"],
        "from": [side.card.description.partition(":")[0] for side in sides],
        "records": [f"{len(side.table):,}" for side in sides],
        "patients": [f"{side.table['patient'].nunique():,}" for side in sides],
        "women": [_women(side) for side in sides],
        "age, median (quartiles)": [_quartiles(side.table["age"]) for side in sides],
        "labels learnt": [_learnt(side) for side in sides],
        "labels a record, mean": [f"{side.labels.sum(axis=1).mean():.1f}" for side in sides],
        "licence": [side.card.licence for side in sides],
    }
    table = pd.DataFrame(rows, index=[side.name for side in sides]).T
    return as_table(table.rename_axis("").reset_index(), wrap=True)


def _learnt(side: Described) -> str:
    return "none" if side.labels.empty else f"{side.labels.shape[1]} of {side.side.label_set}"


def _quartiles(values: pd.Series) -> str:
    if values.isna().all():
        return "unknown"
    low, middle, high = np.nanquantile(values.astype(float), (0.25, 0.5, 0.75))
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _women(side: Described) -> str:
    known = side.table["sex"][side.table["sex"] != ""]
    return f"{(known == 'female').mean():.0%}" if len(known) else "unknown"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}"


def in_short(source: Described, target: Described) -> Markdown:
    """Answer in a few sentences how different two datasets are."""
    facts = [
        f"**Patients.** Median age {_median_age(source)} against {_median_age(target)} years; "
        f"{_women(source)} against {_women(target)} women.",
        f"**Labels.** {_furthest(source, target)}",
        f"**What can carry over.** {_carried(source, target)}",
    ]
    return Markdown(
        f"**{source.name}** is the source, {_size(source)}; **{target.name}** is the target, "
        f"{_size(target)}.\n\n" + "\n".join(f"- {fact}" for fact in facts)
    )


def _median_age(side: Described) -> str:
    return _quartiles(side.table["age"]).partition(" ")[0]


def _furthest(source: Described, target: Described) -> str:
    if not comparable(source, target):
        return _NOT_COMPARABLE
    table = shares(source, target)
    widest = table.diff(axis=1).iloc[:, 1].abs().nlargest(3).index
    gaps = _joined(
        f"{name} ({_percent(here)} against {_percent(there)})"
        for name, here, there in table.loc[widest].itertuples()
    )
    return f"Furthest apart are {gaps}."


def show_overlap(source: Described, target: Described) -> None:
    """Show how common the common labels are in either dataset, if they can be compared."""
    if comparable(source, target):
        show(draw_overlap(shares(source, target)), *overlap_text(source, target))
    else:
        display(Markdown(_NOT_COMPARABLE))


def _size(side: Described) -> str:
    return f"{len(side.table):,} records of {side.table['patient'].nunique():,} patients"


def _carried(source: Described, target: Described) -> str:
    table = counterparts(source, target)
    if source.labels.empty:
        return f"The target has {len(table)} labels. {_UNLABELLED}"
    enough = source.side.min_positives
    known = table[table["source"].fillna(0) >= enough]
    rare = table[table["source"].fillna(enough) < enough]
    other = table[table["source"].isna()]
    count = "All" if len(known) == len(table) else len(known)
    text = (
        f"The target has {len(table)} labels. {count} of them have {enough} or more examples in "
        "the source"
    )
    if len(rare):
        text += f"; {len(rare)} have fewer ({', '.join(rare['finding'])})"
    if len(other):
        text += f"; {len(other)} cannot be compared ({', '.join(other['finding'])})"
    return text + "."


def _joined(texts: Iterable[str]) -> str:
    *head, last = [*texts] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def ages_text(source: Described, target: Described) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of ages."""
    sides = (source, target)
    groups = [
        f"{side.name}, {who}: {int(chosen.sum()):,} records, age {_quartiles(ages)}"
        for side in sides
        for sex, who in (("female", "women"), ("male", "men"))
        for chosen in [side.table["sex"] == sex]
        for ages in [side.table.loc[chosen, "age"]]
    ]
    missing = [(int(side.table["age"].isna().sum()), side.name) for side in sides]
    left_out = _joined(f"{count:,} of {name}" for count, name in missing if count)
    caption = "Ages in bins of ten years."
    if left_out:
        caption += f" Left out are records without an age: {left_out}."
    return caption, "Ages, median and quartiles. " + "; ".join(groups) + "."


def show_prevalence(source: Described, target: Described) -> None:
    """Show how common the labels are that are learnt of either dataset."""
    sides = [side for side in (source, target) if not side.labels.empty]
    own = {side.name: side.labels.mean().sort_values(ascending=False) for side in sides}
    show(draw_prevalence(own), *prevalence_text(*sides))


def prevalence_text(*sides: Described) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of labels."""
    parts = []
    for side in sides:
        counts = side.labels.sum().sort_values(ascending=False, kind="stable")
        parts.append(
            f"{side.name}: from {counts.index[0]} on {counts.iloc[0]:,} records down to "
            f"{counts.index[-1]} on {counts.iloc[-1]:,}"
        )
    caption = "The labels that are learnt, each dataset in its own vocabulary. "
    floors = _joined(f"{side.side.min_positives} in {side.name}" for side in sides)
    caption += f"Labels on fewer records are left out (fewer than {floors})."
    return caption, "Share of records with each label. " + "; ".join(parts) + "."


def overlap_text(source: Described, target: Described) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of common labels."""
    table = shares(source, target)
    both = int((table > 0).all(axis=1).sum())
    only = {name: int(((table > 0).sum(axis=1).eq(1) & (table[name] > 0)).sum()) for name in table}
    caption = (
        f"Labels of both datasets in the common label set {COMMON}: {both} occur in both, "
        + _joined(f"{count} in {name} only" for name, count in only.items())
        + ". A long line is a finding that is common in one and rare in the other."
    )
    parts = [
        f"{name} {_percent(here)} and {_percent(there)}" for name, here, there in table.itertuples()
    ]
    return caption, f"Share of records in {source.name} and {target.name}. {'; '.join(parts)}."


def show_examples(study: Study, source: Described, target: Described) -> None:
    """Show two ECGs of each dataset, on millimetre paper."""
    for side, ecg in find_examples(study, source, target):
        wide, narrow = (draw_ecg(ecg.signals, ecg.rate, columns=count) for count in (4, 2))
        show(wide, *example_text(side, ecg), narrow=narrow)


def example_text(side: Described, example: Example) -> tuple[str, str]:
    """Compute the caption and the alternative text of an ECG."""
    who = {"female": "a woman", "male": "a man"}.get(example.sex, "a person")
    age = "unknown age" if np.isnan(example.age) else f"{example.age:.0f}"
    labels = ", ".join(example.findings) or "none that is learnt"
    caption = (
        f"{side.name}, record {example.record}, {who} of {age}. Labelled: {labels}. Drawn at "
        f"{example.rate:g} Hz, as the networks see it."
    )
    heights = np.ptp(example.signals, axis=1) / 1000.0
    largest = int(heights.argmax())
    alt = (
        f"Twelve-lead ECG on millimetre paper, labelled {labels}. Peak to peak, lead II spans "
        f"{heights[LEADS.index('II')]:.1f} mV, and {LEADS[largest]}, the largest, "
        f"{heights[largest]:.1f} mV."
    )
    return caption, alt


def awkward(study: Study, source: Described, target: Described) -> Markdown:
    """List what is awkward about the records, counted, and what the catalog says of them."""
    return Markdown("\n".join(_awkward(side) for side in (source, target)) + _scored(study, target))


def _awkward(side: Described) -> str:
    several = int((side.table["patient"].value_counts() > 1).sum())
    ages = int(side.table["age"].isna().sum())
    bare = 0 if side.labels.empty else int((~side.labels.any(axis=1)).sum())
    unknown = side.unknown_codes
    lines = [
        f"{several:,} patients have more than one record: splits go by patient." if several else "",
        f"{ages:,} records have no age." if ages else "",
        _UNLABELLED if side.labels.empty else "",
        f"{bare:,} records carry none of the labels that are learnt." if bare else "",
        f"Codes in no table, kept under their number: {', '.join(unknown)}." if unknown else "",
        *(one.notes if one == side.card else f"{one.title}: {one.notes}" for one in side.parts),
    ]
    return f"**{side.name}**\n\n" + "\n".join(f"- {line}" for line in lines if line) + "\n"


def _scored(study: Study, target: Described) -> str:
    truth = target.labels.to_numpy()
    enough = study.pairs[0].min_test_positives
    tests = [target_split(target.table, truth, seed).test for seed in study.pairs[0].seeds]
    counts = [int(eligible(truth[test], enough).sum()) for test in tests]
    low, high = min(counts), max(counts)
    return (
        f"\n**The test sets.** {low if low == high else f'{low} to {high}'} of the "
        f"{truth.shape[1]} labels of {target.name} have {enough} positive records or more "
        "in the fifth that a seed tests on, and only those are scored."
    )


def limits(source: Described, target: Described) -> Markdown:
    """Say what a comparison of two datasets cannot tell."""
    lines = [
        "Labels are readings, not truths. They were not checked again, and a label that is missing "
        "is taken for a finding that is absent.",
        "The common label set is a translation, and some of its classes are wider than the codes "
        "behind them.",
    ]
    if source.card.simulated and target.card.simulated:
        lines.append("Both hospitals are simulated, and so are all differences between them.")
    else:
        lines.append(
            "Two datasets differ in patients, country, device and years all at once: what does "
            "not transfer cannot be put down to one of them."
        )
    return Markdown("\n".join(f"- {line}" for line in lines))
