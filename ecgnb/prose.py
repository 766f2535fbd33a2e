"""Sentences computed from results: answers, captions, alternative texts, limits.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.data.catalog import card
from ecgnb.models import MODELS
from ecgnb.study.compare import compare_arms
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.statistics import DETECTABLE, LEVEL, MARGIN, POWER, VERDICTS
from ecgnb.training.arms import ARMS
from ecgnb.training.metrics import MIN_TEST_POSITIVES


def answer(comparison: pd.DataFrame) -> Markdown:
    """State in words, model by model, what a comparison of fine-tuning with scratch shows."""
    if comparison.empty:
        return Markdown("The study has no other source and target.")
    sentences = []
    for cell, rows in comparison.groupby(["source", "target", "model"], sort=False):
        source, target, model = map(str, cell)  # type: ignore[call-overload]
        places = f"{card(source).short_title} to {card(target).short_title}"
        parts = [
            f"{_WORDS[verdict]} {_at_sizes(rows[rows['verdict'] == verdict])}"
            for verdict in VERDICTS
            if (rows["verdict"] == verdict).any()
        ]
        sentences.append(f"**{MODELS[model].title}**, {places}: {'; '.join(parts)}.")
    return Markdown("\n\n".join([*sentences, _evidence(comparison)]))


def _evidence(comparison: pd.DataFrame) -> str:
    """Say in one sentence what the numbers of `answer` are and what they rest on."""
    tested = comparison.groupby("target", sort=False)["tested"].max()
    records = joined(
        [f"{count:,} records of {card(str(name)).short_title}" for name, count in tested.items()]
    )
    return (
        "In brackets stands the difference of macro AUROC, from "
        f"{seeds_of(comparison)} seeds that together test on {records}. Verdicts rest on "
        f"{LEVEL:.0%} intervals, and inside ±{MARGIN:g} a difference does not matter. "
        f"{_standing(comparison)}"
    )


def seeds_of(comparison: pd.DataFrame) -> str:
    """Say how many seeds there are, or from how many to how many."""
    return _range(comparison["seeds"].tolist())


def _standing(comparison: pd.DataFrame) -> str:
    """Say how many verdicts stand when all comparisons of a page are taken as one family."""
    decided = comparison[comparison["verdict"] != "undecided"]
    if not len(decided):
        return ""
    stand = int(decided["holds"].sum())
    count = "All" if stand == len(decided) else f"{stand}"
    return (
        f"{count} of the {len(decided)} verdicts other than *undecided* stand after Holm's "
        f"correction for {len(comparison)} comparisons."
    )


def power_of_undecided(comparison: pd.DataFrame) -> Markdown:
    """Say what the undecided comparisons could have found, and what would decide them."""
    rows = comparison[comparison["verdict"] == "undecided"]
    if not len(rows):
        return Markdown("No comparison is undecided.")
    reached = rows["seeds_needed"].dropna()
    text = (
        f"The {len(rows)} undecided comparisons would each have found a true difference of "
        f"{DETECTABLE:g} with a probability between {rows['power'].min():.0%} and "
        f"{rows['power'].max():.0%}. "
    )
    if len(reached):
        text += (
            f"{reached.max()} seeds would find it with {POWER:.0%} in {len(reached)} of them, if "
            "the variances are as they were found. "
        )
    if few := len(rows) - len(reached):
        text += f"In {few}, no number of seeds is enough: the test patients are too few."
    return Markdown(text)


_WORDS = {
    "helps": "fine-tuning **helps**",
    "harms": "fine-tuning **harms**",
    "equivalent": "the two are **equivalent**",
    "undecided": "**undecided**",
}


def _at_sizes(rows: pd.DataFrame) -> str:
    texts = [f"{row.records:,} ({row.difference:+.3f})" for row in rows.itertuples()]
    return f"with {joined(texts)} training records"


def joined(texts: Sequence[str]) -> str:
    """Write a list as a person would say it."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def gain_caption(study: Study, comparison: pd.DataFrame) -> str:
    """Compute the caption of the main figure."""
    return (
        "Macro AUROC of the fine-tuned network less that of the network trained from scratch, by "
        f"number of training records, with {LEVEL:.0%} intervals ({seeds_of(comparison)} seeds, "
        "each tested on "
        f"its own fifth of {card(study.pairs[0].target.dataset).short_title}; "
        f"{comparison['tested'].max():,} test records in all). The band is the margin of "
        f"±{MARGIN:g}, inside which a difference does not matter."
    )


def gain_alt(comparison: pd.DataFrame) -> str:
    """Compute the alternative text of the main figure."""
    lines = [
        f"{MODELS[str(row.model)].title} at {row.records} records: {row.difference:+.3f}, interval "
        f"{row.low:+.3f} to {row.high:+.3f}"
        for row in comparison.itertuples()
    ]
    return "Gain from fine-tuning. " + "; ".join(lines) + "."


def curves_text(metrics: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the curves over the training size."""
    seeds = metrics["seed"].nunique()
    caption = (
        f"Macro AUROC on the test fifth by number of training records. Lines: mean of {seeds} "
        "seeds; dots: single runs, each seed trained and tested on records of its own."
    )
    means = metrics.groupby(["model", "arm", "records"], sort=False)["auroc"].mean()
    alt = "; ".join(
        f"{MODELS[str(row.model)].title} {ARMS[str(row.arm)].title} at {row.records}: "
        f"{row.auroc:.2f}"
        for row in means.reset_index().itertuples()
    )
    return caption, f"Macro AUROC of every arm. {alt}."


def probe_answer(study: Study, results: Sequence[Result]) -> Markdown:
    """State what frozen pre-trained features are worth beside random ones and training."""
    random = compare_arms(study, results, "linear-probe", "random-probe")
    scratch = compare_arms(study, results, "linear-probe", "scratch")
    sentences = []
    for model in dict.fromkeys(random["model"]):
        over_random = random[random["model"] == model]
        over_scratch = scratch[scratch["model"] == model]
        sentences.append(
            f"**{MODELS[model].title}.** Over the random probe, the linear probe gains "
            f"{_span(over_random)}; {_tally(over_random)}. Over training from scratch, the "
            f"difference is {_span(over_scratch)}; {_tally(over_scratch)}."
        )
    return Markdown("\n\n".join(sentences))


def _span(rows: pd.DataFrame) -> str:
    texts = [f"{row.difference:+.3f} at {row.records:,}" for row in rows.itertuples()]
    return f"{joined(texts)} records"


def _tally(rows: pd.DataFrame) -> str:
    counts = rows["verdict"].value_counts()
    return joined([f"*{name}* at {counts[name]} of {len(rows)} sizes" for name in counts.index])


def limits(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the runs of a study cannot tell, with their own numbers."""
    scored = [result.facts["classes"] for result in results]
    validation = max(result.facts["validation_records"] for result in results)
    target = card(study.pairs[0].target.dataset)
    lines = [
        f"{_range(scored)} of {len(results[0].classes)} classes have the {MIN_TEST_POSITIVES} test "
        "positives in a fifth that the metric asks for. The rarer ones are trained, not scored.",
        f"Every arm chooses its checkpoint on {validation} validation records, more than a "
        "hospital with fifty labelled ECGs would have.",
        f"The training sets of two seeds share records of {target.short_title}. In simulated "
        "cross-validation this leaves intervals as wide as they should be; it was not tested on "
        "networks.",
        "Learning rates were chosen with one seed of their own, on records that other seeds test "
        f"on; in every arm alike. {_at_the_edge(study, results)}",
    ]
    if not target.patients_known:
        lines.append(f"{target.short_title} does not say which records share a patient.")
    if target.simulated:
        lines.append("These ECGs are simulated: the page shows the method at work, not patients.")
    return Markdown("\n".join(f"- {line}" for line in lines))


def _at_the_edge(study: Study, results: Sequence[Result]) -> str:
    chosen = {
        (r.spec.model, r.spec.head, r.spec.arm, r.spec.size): r.spec.learning_rate for r in results
    }
    grids = {model: study.rates(model) for model in study.models}
    count = sum(
        rate in (min(grids[model]), max(grids[model])) for (model, *_), rate in chosen.items()
    )
    return f"{count} of {len(chosen)} choices fell on an end of the grid, which could be wider."


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"
