"""Sentences computed from results: answers, captions, alternative texts, limits.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import compare_across
from ecgnb.analysis.statistics import DETECTABLE, LEVEL, MARGIN, MOST_SEEDS, POWER
from ecgnb.data.catalog import card
from ecgnb.models import MODELS
from ecgnb.report.wording import interval_texts, joined, named, seeds_of, signed, spread, standing
from ecgnb.study.data import read_table
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS

_FAMILIES = {"CNN": "convolutional", "RNN": "recurrent"}


def choice(study: Study, results: Sequence[Result]) -> Markdown:
    """Say so if one network from scratch is better than most others are fine-tuned."""
    table = compare_across(study, results)
    better = {
        str(model): [
            str(other)
            for other, beside in rows.groupby("other_model", sort=False)
            if (beside["difference"] > 0).all()
        ]
        for model, rows in table.groupby("model", sort=False)
    }
    first = max(better, key=lambda model: len(better[model]), default="")
    others = better.get(first, [])
    if not others or len(others) <= (table["model"].nunique() - 1) / 2:
        return Markdown("")
    rows = table[(table["model"] == first) & table["other_model"].isin(others)]
    low, high = rows["difference"].min(), rows["difference"].max()
    return Markdown(
        f"**Choose the network first.** {_described(first)} from scratch is better than "
        f"{joined([_described(name) for name in others])} fine-tuned, at every number of "
        f"training records ({signed(low)} to {signed(high)} macro AUROC; the interval excludes "
        f"zero in {(rows['low'] > 0).sum()} of {len(rows)} comparisons)."
    )


def _described(model: str) -> str:
    return f"{MODELS[model].title} ({_FAMILIES[MODELS[model].family]})"


def answer(comparison: pd.DataFrame) -> Markdown:
    """State in words, size by size, what a comparison of fine-tuning with scratch shows."""
    if comparison.empty:
        return Markdown("The study has no other source and target.")
    comparison = comparison.assign(network=named(comparison["model"], comparison["head"]))
    parts = []
    for pair, rows in comparison.groupby(["source", "target"], sort=False):
        source, target = (card(str(name)).short_title for name in pair)
        parts.append(f"**{source} to {target}**, by the number of training records:")
        parts.append("\n".join(_verdicts(rows)))
        parts.append(_levels(rows))
    return Markdown("\n\n".join([*parts, _evidence(comparison)]))


_WORDS = {
    "helps": "fine-tuning **helps**",
    "harms": "fine-tuning **harms**",
    "equivalent": "the two are **equivalent** for",
    "undecided": "**undecided** for",
}


def _verdicts(rows: pd.DataFrame) -> list[str]:
    """Write one line for all sizes at which the same holds for the same networks."""
    alike: dict[frozenset[tuple[str, str]], list[pd.DataFrame]] = {}
    for _, one in rows.groupby("size", sort=False):
        known = frozenset(zip(one["network"], one["verdict"], strict=True))
        alike.setdefault(known, []).append(one)
    lines = []
    for several in alike.values():
        records = joined([f"{one['records'].iloc[0]:,}" for one in several])
        found = pd.concat(several)
        texts = [
            f"{word} {joined(_differences(found[found['verdict'] == verdict]))}"
            for verdict, word in _WORDS.items()
            if (found["verdict"] == verdict).any()
        ]
        lines.append(f"- **{records}:** {'; '.join(texts)}.")
    return lines


def _differences(rows: pd.DataFrame) -> list[str]:
    return [
        f"{name} ({joined([signed(value) for value in one['difference']])})"
        for name, one in rows.groupby("network", sort=False)
    ]


def _levels(rows: pd.DataFrame) -> str:
    """Say from which AUROC to which the networks come, from the fewest records to the most."""
    texts: dict[str, list[str]] = {}
    for name, one in rows.groupby("network", sort=False):
        ends = one.loc[list(dict.fromkeys([one["records"].idxmin(), one["records"].idxmax()]))]
        sizes = " to ".join(ends["records"].map("{:,}".format))
        said = texts.setdefault(sizes, [])
        sides = {"second": " from scratch", "first": " fine-tuned"}
        levels = [
            " to ".join(ends[side].map("{:.3f}".format)) + ("" if said else what)
            for side, what in sides.items()
        ]
        said.append(f"{joined(levels)} for {name}")
    return " ".join(
        f"With {sizes} training records, macro AUROC is {'; '.join(said)}."
        for sizes, said in texts.items()
    )


def _evidence(comparison: pd.DataFrame) -> str:
    """Say what the numbers of `answer` are and what they rest on."""
    tested = comparison.groupby("target", sort=False)["tested"]
    records = joined(
        [
            f"{spread(counts.tolist())} records of {card(str(name)).short_title}"
            for name, counts in tested
        ]
    )
    return (
        "In brackets stands macro AUROC fine-tuned less from scratch: 0.5 is guessing, 1 is "
        f"perfect, every diagnosis counts alike. Each comparison has {seeds_of(comparison)}, "
        "repetitions with other test patients and other first weights, which together test on "
        f"{records}. Verdicts rest on {LEVEL:.0%} intervals, and inside ±{MARGIN:g} a difference "
        f"does not matter. {standing(comparison, _names(comparison))}"
    )


def _names(comparison: pd.DataFrame) -> list[str]:
    """Name each row: its network and size, and its source and target where there are several."""
    several = len(comparison[["source", "target"]].drop_duplicates()) > 1
    return [
        f"{row.network} with {row.records:,}"
        + (
            f" from {card(str(row.source)).short_title} to {card(str(row.target)).short_title}"
            if several
            else ""
        )
        for row in comparison.itertuples()
    ]


def scale(study: Study) -> Markdown:
    """Say how the numbers of training records are to be read, and how large the source is."""
    source = study.pairs[0].source.dataset
    here, whole = len(read_table(study, source)), card(source).records
    text = (
        "*Training records* are what a network learns from. Another fifth of the records validates "
        "and another is tested on: of 400 labelled ECGs, divided as here, 240 train."
    )
    if whole and here < whole:
        text += (
            f" The source is {here:,} of the {whole:,} records of {card(source).short_title}; "
            "whether more of it would help more is not known."
        )
    return Markdown(text)


def power_of_undecided(comparison: pd.DataFrame) -> Markdown:
    """Say what the undecided comparisons could have found, and what would decide them."""
    rows = comparison[comparison["verdict"] == "undecided"]
    if not len(rows):
        return Markdown("No comparison is undecided.")
    shares = [f"{share:.0%}" for share in (rows["power"].min(), rows["power"].max())]
    many = len(rows) > 1
    text = (
        f"The {len(rows)} undecided comparisons would each have found a true difference of "
        if many
        else "The undecided comparison would have found a true difference of "
    )
    text += f"{DETECTABLE:g} with a probability of {' to '.join(dict.fromkeys(shares))}."
    needs = rows["seeds_needed"]
    counts = [int(count) for count in needs if np.isfinite(count)]
    if counts:
        text += (
            f" To find it with {POWER:.0%}, {spread(counts)} seeds are needed in {len(counts)} of "
            "them, if the variances are as they were found."
        )
    if beyond := int(np.isinf(needs).sum()):
        text += (
            f" In {beyond}, more than {MOST_SEEDS} would be: there the test patients are too few."
        )
    if unknown := int(needs.isna().sum()):
        text += (
            f" In {unknown} the number is not known: with one seed for each fifth, what is due to "
            "the patients and what to the training cannot be told apart."
        )
    return Markdown(text)


def gain_caption(study: Study, comparison: pd.DataFrame) -> str:
    """Compute the caption of the main figure."""
    return (
        "Macro AUROC of the fine-tuned network less that of the network trained from scratch, by "
        f"number of training records, with {LEVEL:.0%} intervals ({seeds_of(comparison)}, "
        f"tested in turn on the fifths of {card(study.pairs[0].target.dataset).short_title}; "
        f"{comparison['tested'].max():,} test records in all). The band is the margin of "
        f"±{MARGIN:g}, inside which a difference does not matter."
    )


def gain_alt(comparison: pd.DataFrame) -> str:
    """Compute the alternative text of the main figure."""
    columns = (
        named(comparison["model"], comparison["head"]),
        comparison["records"],
        comparison["difference"],
        interval_texts(comparison),
    )
    lines = [
        f"{name} at {records} records: {signed(difference)}, interval {interval}"
        for name, records, difference, interval in zip(*columns, strict=True)
    ]
    return "Gain from fine-tuning. " + "; ".join(lines) + "."


def curves_text(metrics: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the curves over the training size."""
    counts = metrics.groupby(["model", "arm", "records"])["seed"].nunique()
    caption = (
        "Macro AUROC on the test fifth by number of training records. Lines: mean of "
        f"{spread(counts.tolist())} seeds; dots: single runs, each seed trained and tested on "
        "records of its own."
    )
    means = metrics.groupby(["model", "arm", "records"], sort=False)["auroc"].mean()
    alt = "; ".join(
        f"{MODELS[str(row.model)].title} {ARMS[str(row.arm)].title} at {row.records}: "
        f"{row.auroc:.2f}"
        for row in means.reset_index().itertuples()
    )
    return caption, f"Macro AUROC of every arm. {alt}."


def limits(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the runs of a study cannot tell, with their own numbers."""
    scored = [result.facts["classes"] for result in results]
    enough = spread([result.spec.min_test_positives for result in results])
    validation = max(result.facts["validation_records"] for result in results)
    fewest = min(result.facts["train_records"] for result in results)
    target = card(study.pairs[0].target.dataset)
    lines = [
        f"{spread(scored)} of {len(results[0].classes)} classes have the {enough} test positives "
        "in a fifth that the metric asks for. The rarer ones are trained, not scored.",
        f"Every arm chooses its checkpoint on {validation} validation records, more than a "
        f"hospital with {fewest} labelled ECGs would have."
        if validation > fewest
        else "",
        f"The training sets of two seeds share records of {target.short_title}. In simulated "
        "cross-validation this leaves intervals as wide as they should be; it was not tested on "
        "networks.",
        _search(study, results),
        f"{target.short_title} does not say which records share a patient."
        if not target.patients_known
        else "",
        "These ECGs are simulated: the page shows the method at work, not patients."
        if target.simulated
        else "",
    ]
    return Markdown("\n".join(f"- {line}" for line in lines if line))


def _search(study: Study, results: Sequence[Result]) -> str:
    """Say how learning rates were chosen, and how often at an end of their grid."""
    grids = {model: study.rates(model) for model in study.models}
    if all(len(grid) == 1 for grid in grids.values()):
        return "One learning rate was used for all arms, not searched."
    chosen = {
        (r.spec.model, r.spec.head, r.spec.arm, r.spec.size): r.spec.learning_rate for r in results
    }
    count = sum(
        rate in (min(grids[model]), max(grids[model])) for (model, *_), rate in chosen.items()
    )
    return (
        "Learning rates were chosen with one seed of their own, on records that other seeds test "
        f"on. {count} of {len(chosen)} choices fell on an end of the grid; the log tells what a "
        "wider one did."
    )
