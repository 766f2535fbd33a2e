"""Sentences, figures and tables of the chapter on the autoencoder.

No number of ours in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters import common
from ecgnb.data.catalog import card
from ecgnb.models import MODELS
from ecgnb.prose import joined, seeds_of
from ecgnb.study.compare import arm_means, compare_arms, with_tests
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Scores
from ecgnb.study.statistics import LEVEL, MARGIN
from ecgnb.training.arms import ARMS
from ecgnb.training.task import UNLABELLED

PUBLISHED = {"nothing": (0.843, 0.831, 0.543), "the autoencoder": (0.857, 0.843, 0.835)}
"""Mean F1 of Jang et al. (2021) with 100, 50 and 25 % of the training set."""

_SHARES, _NEAR = (1.0, 0.5, 0.25), 0.05
_IMAGES = "efficientnet-lite0"
_WORDS = {"helps": "**helps**", "harms": "**harms**", "equivalent": "makes **no difference**"}


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
        See `ecgnb.study.compare.arm_means`, with ``beginning``; runs with the study's first number
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
        See `ecgnb.study.compare.compare_arms`, with ``beginning``.
    """
    budget = study.pairs[0].target.updates
    chosen = [run for run in results if run.spec.updates == budget]
    tables = []
    for arm in ("finetune", "imagenet"):
        table = compare_arms(study, chosen, arm, metric="f1")
        if len(table):
            cells = zip(table["model"], table["taught"], strict=True)
            tables.append(table.assign(beginning=[beginning(m, arm, t) for m, t in cells]))
    return pd.concat(tables, ignore_index=True)


def gains_answer(table: pd.DataFrame) -> list[str]:
    """State for every beginning where it helps."""
    lines = []
    for name, rows in table.groupby("beginning", sort=False):
        parts = []
        for verdict in ("helps", "harms", "equivalent", "undecided"):
            some = rows[rows["verdict"] == verdict]
            if len(some):
                sizes = joined([f"{r.records:,} ({r.difference:+.3f})" for r in some.itertuples()])
                parts.append(f"{_WORDS.get(verdict, 'is **undecided**')} with {sizes} records")
        lines.append(f"To begin with {_article(str(name))} {joined(parts)}.")
    return lines


def _article(name: str) -> str:
    kind, _, of = name.partition(", ")
    return f"{of} ({kind})" if of else name


@dataclass(frozen=True)
class Collapse:
    """One training size with fewer and with more updates, from scratch.

    Attributes
    ----------
    records, few, many : int
        Training records, and the two numbers of updates.
    table : DataFrame
        One row, the columns of `ecgnb.study.compare.with_tests`: more updates less fewer; and
        ``few_mean``, ``many_mean``, and ``pretrained``, the mean F1 after the autoencoder with few.
    """

    records: int
    few: int
    many: int
    table: pd.DataFrame


def collapses(study: Study, results: Sequence[Result]) -> list[Collapse]:
    """Compare training from scratch with as many updates, and with as many epochs, as with all.

    That is the question of the published collapse: with a quarter of the records, the same number
    of epochs is a quarter of the updates.
    """
    scores = Scores(study, results, "f1")
    many = study.pairs[0].target.updates
    found = []
    for cell in scores.cells:
        if cell.source or cell.budget >= many:
            continue
        rich = [one for one in scores.cells if _same_but_budget(one, cell) and one.budget == many]
        few_runs = scores.of(cell, "scratch")
        if not rich or not few_runs:
            continue
        difference = scores.contrast([(1.0, scores.of(rich[0], "scratch")), (-1.0, few_runs)])
        if difference is None:
            continue
        means = {
            name: np.mean([run.facts["f1"] for run in runs.values()])
            for name, runs in (("few_mean", few_runs), ("many_mean", scores.of(rich[0], "scratch")))
        }
        after = [
            run.facts["f1"]
            for run in results
            if run.spec.arm == "finetune"
            and run.spec.source_label_set == UNLABELLED
            and (run.spec.size, run.spec.updates) == (cell.size, cell.budget)
        ]
        means["pretrained"] = np.mean(after) if after else np.nan
        records = next(iter(few_runs.values())).facts["train_records"]
        found.append(
            Collapse(records, cell.budget, many, with_tests(pd.DataFrame([means]), [difference]))
        )
    return found


def _same_but_budget(one: object, other: object) -> bool:
    return {**vars(one), "budget": 0} == {**vars(other), "budget": 0}


def collapse_answer(found: Sequence[Collapse]) -> list[str]:
    """Answer whether the published collapse is want of records or want of updates."""
    lines = []
    for one in found:
        row = one.table.iloc[0]
        cause = {
            "helps": "what is missing there is **optimisation**, at least in part",
            "equivalent": "more updates change nothing: what is missing is **records**",
            "harms": "more updates make it worse: what is missing is **records**",
        }.get(str(row["verdict"]), "whether more updates would help is **undecided**")
        lines.append(
            f"With {one.records:,} records and as many epochs as with all, {one.few} updates, the "
            f"network from nothing reaches a mean F1 of {row['few_mean']:.3f}; with as many "
            f"updates, {one.many}, it reaches {row['many_mean']:.3f} "
            f"({row['difference']:+.3f}, {row['low']:+.3f} to {row['high']:+.3f}): {cause}. From "
            f"the autoencoder, the {one.few} updates reach {row['pretrained']:.3f}."
        )
    return lines


def answer(study: Study, table: pd.DataFrame, found: Sequence[Collapse]) -> Markdown:
    """State what each beginning is worth, and what the collapse is."""
    lines = gains_answer(table)
    tested = table["tested"].max()
    lines.append(
        "In brackets stands the difference of mean F1 over the rhythms, each network against the "
        f"same network from nothing ({seeds_of(table)} seeds, {tested:,} test records in all). "
        f"Verdicts rest on {LEVEL:.0%} intervals, and inside ±{MARGIN:g} a difference does not "
        "matter."
    )
    seen = _published_collapse(study, found, int(table["records"].max()))
    return Markdown("\n\n".join([*lines[:-1], *collapse_answer(found), *seen, lines[-1]]))


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
        f"intervals over seeds and patients ({seeds_of(table)} seeds). Thresholds were chosen on "
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
            "difference of mean F1": rows["difference"].map("{:+.3f}".format),
            f"{LEVEL:.0%} interval": [f"{r.low:+.3f} to {r.high:+.3f}" for r in rows.itertuples()],
            "verdict": rows["verdict"],
            "p (Holm)": rows["p_holm"].map("{:.3f}".format),
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
