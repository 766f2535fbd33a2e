"""Sentences, figures and tables of the chapter on the autoencoder.

No number of ours in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import arm_means, compare_arms
from ecgnb.analysis.statistics import LEVEL, MARGIN
from ecgnb.chapters import common
from ecgnb.chapters.collapse import Collapse, collapse_answer
from ecgnb.data.catalog import card
from ecgnb.models import MODELS
from ecgnb.report.wording import (
    at_sizes,
    interval_texts,
    joined,
    p_texts,
    seeds_of,
    signed,
    standing,
)
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS
from ecgnb.training.metrics import UNLABELLED

PUBLISHED = {"nothing": (0.843, 0.831, 0.543), "the autoencoder": (0.857, 0.843, 0.835)}
"""Mean F1 of Jang et al. (2021) with 100, 50 and 25 % of the training set."""

_SHARES, _NEAR = (1.0, 0.5, 0.25), 0.05
_IMAGES = "efficientnet-lite0"
_WORDS = {
    "helps": "**helps**",
    "harms": "**harms**",
    "equivalent": "makes **no difference**",
    "undecided": "is **undecided**",
}


def beginning(model: str, arm: str, taught: str) -> str:
    """Name what a network begins with, for a legend and a sentence."""
    if not MODELS[model].unlabelled and model != _IMAGES:
        return f"{MODELS[model].title}, {'labels of the source' if taught else 'nothing'}"
    if model == _IMAGES:
        return "spectrogram, photographs" if ARMS[arm].photographs else "spectrogram, nothing"
    if not ARMS[arm].pretrained:
        return "nothing"
    return "the autoencoder" if taught == UNLABELLED else "labels of the source"


def levels(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Average the mean F1 of every beginning at every number of records.

    Returns
    -------
    DataFrame
        See `arm_means`, with ``beginning``; runs with the study's first number
        of updates only.
    """
    arms = ("scratch", "finetune", "imagenet")
    means = arm_means(study, [run for run in results if run.spec.arm in arms], "f1")
    means = means[means["budget"] == study.pairs[0].target.updates]
    cells = zip(means["model"], means["arm"], means["taught"], strict=True)
    return means.assign(beginning=[beginning(*cell) for cell in cells])


def gains(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare every beginning with nothing, in the same network, by mean F1.

    Returns
    -------
    DataFrame
        See `compare_arms`, with ``beginning`` and ``arm``, a family for each.
    """
    budget = study.pairs[0].target.updates
    chosen = [run for run in results if run.spec.updates == budget]
    tables = []
    for arm in ("finetune", "imagenet"):
        table = compare_arms(study, chosen, arm, metric="f1")
        if len(table):
            cells = zip(table["model"], table["taught"], strict=True)
            names = [beginning(model, arm, taught) for model, taught in cells]
            tables.append(table.assign(beginning=names, arm=arm))
    return pd.concat(tables, ignore_index=True)


def advice(table: pd.DataFrame) -> str:
    """Say which beginnings are worth it, and what a network for photographs is worth beside."""
    better, rest, lines = [], [], []
    for name, rows in table.groupby("beginning", sort=False):
        where = {
            verdict: joined([f"{records:,}" for records in some["records"]])
            for verdict, some in rows.groupby("verdict")
        }
        worse = f" (worse at {where['harms']})" if "harms" in where else ""
        if "helps" in where:
            better.append(f"{_article(str(name))} at {where['helps']} labelled ECGs{worse}")
        else:
            rest.append(f"{_article(str(name))}{worse}")
    if better:
        lines.append(f"Better beginnings than nothing were {joined(better)}.")
    if rest:
        lines.append(f"Not shown to be better at any number of labelled ECGs: {joined(rest)}.")
    most = table[table["records"] == table["records"].max()]
    other = most["model"] == _IMAGES
    if other.any() and not other.all():
        lines.append(
            f"At {most['records'].iloc[0]:,}, the network on spectrograms reaches a mean F1 of "
            f"{most.loc[other, 'first'].iloc[0]:.3f} after photographs, the other one "
            f"{most.loc[~other, 'second'].iloc[0]:.3f} from nothing."
        )
    return f"**In short.** {' '.join(lines)}"


def gains_answer(table: pd.DataFrame) -> list[str]:
    """State for every beginning where it helps."""
    lines = []
    for name, rows in table.groupby("beginning", sort=False):
        sizes = {
            verdict: f"with {joined(at_sizes(rows[rows['verdict'] == verdict]))} records"
            for verdict in _WORDS
            if (rows["verdict"] == verdict).any()
        }
        (first, at), *rest = sizes.items()
        parts = [f"Beginning with {_article(str(name))} {_WORDS[first]} {at}"]
        parts += [f"{at} it {_WORDS[verdict]}" for verdict, at in rest]
        lines.append(f"{'; '.join(parts)}.")
    return lines


def _standing(table: pd.DataFrame) -> str:
    """Say which verdicts would not stand after Holm's correction, family by family."""
    lines = []
    families = table.groupby("arm", sort=False)
    for _, rows in families:
        names = [
            f"{_article(str(row['beginning']))} with {row['records']:,} records"
            for row in rows.to_dict("records")
        ]
        text = standing(rows, names)
        if text and len(families) > 1:
            text = f"{MODELS[rows['model'].iloc[0]].title}: {text[0].lower()}{text[1:]}"
        lines.append(text)
    return " ".join(filter(None, lines))


def _article(name: str) -> str:
    kind, _, of = name.partition(", ")
    return f"{of} ({kind})" if of else name


def answer(study: Study, table: pd.DataFrame, found: Sequence[Collapse]) -> Markdown:
    """State what each beginning is worth, and what the collapse is."""
    evidence = (
        "In brackets stands the difference of mean F1 over the rhythms, each network against the "
        f"same network from nothing ({seeds_of(table)}, {table['tested'].max():,} test records in "
        f"all). Verdicts rest on {LEVEL:.0%} intervals. Inside ±{MARGIN:g} a difference does not "
        "matter: the margin for macro AUROC, the same number applied to F1."
    )
    seen = _published_collapse(study, found, int(table["records"].max()))
    lines = [advice(table), *gains_answer(table), *collapse_answer(found), *seen]
    return Markdown("\n\n".join([*lines, f"{evidence} {_standing(table)}".strip()]))


def _published_collapse(study: Study, found: Sequence[Collapse], whole: int) -> list[str]:
    """Set the published collapse beside ours at the same share of the records and equal epochs."""
    if card(study.pairs[0].target.dataset).simulated:
        return []
    share, published = _SHARES[-1], PUBLISHED["nothing"][-1]
    return [
        f"The published network from nothing fell to {published:.3f} with {share:.0%} of the "
        f"records; with the same share and as many epochs, ours has "
        f"{one.table['few_mean'].iloc[0]:.3f}."
        for one in found
        if abs(one.records / whole / share - 1) < _NEAR
    ]


def levels_text(study: Study, table: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the learning curves."""
    target = card(study.pairs[0].target.dataset).short_title
    caption = (
        f"Mean F1 over the rhythms of {target} by number of training records, with {LEVEL:.0%} "
        f"intervals over seeds and patients ({seeds_of(table)}). Thresholds were chosen on "
        "validation."
    )
    parts = [
        f"{row.beginning} at {row.records}: {row.mean:.3f}, {row.low:.3f} to {row.high:.3f}"
        for row in table.itertuples()
    ]
    return caption, f"Learning curves. {'; '.join(parts)}."


def beside_table(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Put the published mean F1 beside ours, a row a beginning, a column a share of the records."""
    whole = table["records"].max()
    rows = []
    for name, ours in table.groupby("beginning", sort=False):
        paper = PUBLISHED.get(str(name))
        cells = {}
        for place, share in enumerate(_SHARES):
            near = ours[(ours["records"] / whole / share - 1).abs() < _NEAR]
            found = [f"{r.mean:.3f} ({r.low:.3f} to {r.high:.3f})" for r in near.itertuples()]
            cells[f"published, {share:.0%}"] = f"{paper[place]:.3f}" if paper else "not known"
            cells[f"here, {share:.0%}"] = found[0] if found else "not run"
        rows.append({"begins with": name, **cells})
    return pd.DataFrame(rows)


def gains_table(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the comparisons, a row a beginning and a number of records."""
    rows = table.sort_values(["beginning", "records"], kind="stable")
    return pd.DataFrame(
        {
            "begins with": rows["beginning"],
            "records": rows["records"].map("{:,}".format),
            "difference of mean F1": rows["difference"].map(signed),
            f"{LEVEL:.0%} interval": interval_texts(rows),
            "verdict": rows["verdict"],
            "p (Holm)": p_texts(rows),
            "with it": rows["first"].map("{:.3f}".format),
            "from nothing": rows["second"].map("{:.3f}".format),
            "seeds": rows["seeds"],
            "tested": rows["tested"].map("{:,}".format),
        }
    )


_WITHOUT_PHOTOGRAPHS = {
    True: "The network for photographs has not been run yet.",
    False: "The network for photographs is left out: its weights are not part of the package.",
}


def limits(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the chapter cannot tell."""
    photographs = any(run.spec.model == _IMAGES for run in results)
    sources = dict.fromkeys(
        card(pair.source.dataset).short_title
        for pair in study.pairs
        if pair.source.label_set == UNLABELLED
    )
    lines = [
        f"One target, {card(study.pairs[0].target.dataset).short_title}.",
        f"The autoencoder reads one lead, and was pre-trained on {joined(list(sources))}: a small "
        "part of what Jang et al. had."
        if sources
        else "",
        *common.limits(study, results)[1:],
        "The layers, the optimiser and the number of epochs of the paper are not published, nor "
        "are its deviations: only its means can stand beside ours.",
        "" if photographs else _WITHOUT_PHOTOGRAPHS[_IMAGES in study.models],
        "Their test sets are drawn anew in every repetition; here five fifths are tested in turn, "
        "so that every record is tested equally often.",
    ]
    return common.as_list(lines)
