"""Figures with computed captions, and what a page says of the datasets of a study.

No number is typed: whoever changes the records changes the text.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from ecgnb.data.labels import full_name, unknown_codes
from ecgnb.data.records import LEADS
from ecgnb.data.splits import target_split
from ecgnb.study.describe import COMMON, Described, Example, counterparts, shares
from ecgnb.study.grid import Study
from ecgnb.training.metrics import MIN_TEST_POSITIVES, eligible

_PHONE = "(max-width: 600px)"
_CAPTION = "text-align:left;color:inherit;font-size:0.9em;font-weight:normal;letter-spacing:normal"


def show(figure: Figure, caption: str, alt: str, *, narrow: Figure | None = None) -> None:
    """Show a figure with its caption and its alternative text.

    Parameters
    ----------
    figure : Figure
    caption, alt : str
        Plain text. The alternative text says in words what the picture shows.
    narrow : Figure, optional
        Stands in for the figure on narrow screens.
    """
    source = f'<source media="{_PHONE}" srcset="{_uri(narrow)}">' if narrow else ""
    image = f'<img src="{_uri(figure)}" alt="{html.escape(alt)}" style="max-width:100%">'
    page = (
        f'<figure style="margin:1em 0;text-align:left"><picture>{source}{image}</picture>'
        f'<figcaption style="{_CAPTION}">{html.escape(caption)}</figcaption></figure>'
    )
    display({"text/html": page, "text/plain": f"{alt}\n{caption}"}, raw=True)


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Neither the date nor random ids: the same figure gives the same page.
    with mpl.rc_context({"svg.hashsalt": "ecgnb"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def counterparts_table(source: Described, target: Described) -> HTML:
    """Show `counterparts` for reading."""
    table = counterparts(source, target)
    for column in ("source", "target"):
        table[column] = [f"{count:,}" if pd.notna(count) else "–" for count in table[column]]
    return as_table(table.rename(columns={"target": target.name, "source": source.name}))


def names_table(side: Described) -> HTML:
    """Show the labels of a dataset with their full names and their records."""
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
        "women": [f"{_women(side):.0%}" for side in sides],
        "age, median (quartiles)": [_quartiles(side.table["age"]) for side in sides],
        "labels learnt": [f"{side.labels.shape[1]} of {side.side.label_set}" for side in sides],
        "labels a record, mean": [f"{side.labels.sum(axis=1).mean():.1f}" for side in sides],
        "licence": [side.card.licence for side in sides],
    }
    table = pd.DataFrame(rows, index=[side.name for side in sides]).T
    return as_table(table.rename_axis("").reset_index(), wrap=True)


def as_table(frame: pd.DataFrame, *, wrap: bool = False) -> HTML:
    """Show a table for reading, without row numbers; `wrap` lets long cells break."""
    classes = [] if wrap else ["unbroken"]
    return HTML(frame.to_html(index=False, border=0, justify="left", classes=classes))


def _quartiles(values: pd.Series) -> str:
    low, middle, high = np.nanquantile(values.astype(float), (0.25, 0.5, 0.75))
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _women(side: Described) -> float:
    return float((side.table["sex"] == "female").mean())


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}"


def in_short(source: Described, target: Described) -> Markdown:
    """Answer in a few sentences how different two datasets are."""
    table = shares(source, target)
    widest = table.diff(axis=1).iloc[:, 1].abs().nlargest(3).index
    gaps = _joined(
        f"{name} ({_percent(here)} against {_percent(there)})"
        for name, here, there in table.loc[widest].itertuples()
    )
    return Markdown(
        f"**{source.name}** is the source, {_size(source)}; **{target.name}** is the target, "
        f"{_size(target)}.\n\n"
        f"- **Patients.** Median age {source.table['age'].median():.0f} against "
        f"{target.table['age'].median():.0f} years; {_women(source):.0%} against "
        f"{_women(target):.0%} women.\n"
        f"- **Labels.** Furthest apart are {gaps}.\n"
        f"- **What can carry over.** {_carried(source, target)}"
    )


def _size(side: Described) -> str:
    return f"{len(side.table):,} records of {side.table['patient'].nunique():,} patients"


def _carried(source: Described, target: Described) -> str:
    table = counterparts(source, target)
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


def prevalence_text(source: Described, target: Described) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of labels."""
    parts = []
    for side in (source, target):
        counts = side.labels.sum().sort_values(ascending=False, kind="stable")
        parts.append(
            f"{side.name}: from {counts.index[0]} on {counts.iloc[0]:,} records down to "
            f"{counts.index[-1]} on {counts.iloc[-1]:,}"
        )
    caption = "The labels that are learnt, each dataset in its own vocabulary. "
    floors = _joined(f"{side.side.min_positives} in {side.name}" for side in (source, target))
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


def example_text(side: Described, example: Example) -> tuple[str, str]:
    """Compute the caption and the alternative text of an ECG."""
    who = {"female": "a woman", "male": "a man"}.get(example.sex, "a person")
    age = "unknown age" if np.isnan(example.age) else f"{example.age:.0f}"
    labels = ", ".join(example.findings)
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
    bare = int((~side.labels.any(axis=1)).sum())
    unknown = unknown_codes(side.table["codes"], side.card.vocabulary)
    lines = [
        f"{several:,} patients have more than one record: splits go by patient." if several else "",
        f"{ages:,} records have no age." if ages else "",
        f"{bare:,} records carry none of the labels that are learnt." if bare else "",
        f"Codes in no table, kept under their number: {', '.join(unknown)}." if unknown else "",
        side.card.notes,
    ]
    return f"**{side.name}**\n\n" + "\n".join(f"- {line}" for line in lines if line) + "\n"


def _scored(study: Study, target: Described) -> str:
    truth = target.labels.to_numpy()
    counts = [
        int(eligible(truth[target_split(target.table, truth, seed).test]).sum())
        for seed in study.pairs[0].seeds
    ]
    low, high = min(counts), max(counts)
    return (
        f"\n**The test sets.** {low if low == high else f'{low} to {high}'} of the "
        f"{truth.shape[1]} labels of {target.name} have {MIN_TEST_POSITIVES} positive records or "
        "more in the fifth that a seed tests on, and only those are scored."
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
