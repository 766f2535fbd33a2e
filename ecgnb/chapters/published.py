"""What the published protocol would have said, and how much it flatters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import Cell, Scores, compare_arms
from ecgnb.analysis.statistics import MARGIN
from ecgnb.chapters.common import as_list, companion, in_order
from ecgnb.models import MODELS
from ecgnb.report.wording import joined, named, network, signed
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS

_AS_PUBLISHED = "one run of each arm, F1 at one half weighted by prevalence, whichever is larger"


def read_as_published(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Read every comparison as published: the first seed alone, by its weighted F1.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.compare_arms`, with ``published``, fine-tuned less from scratch.
    """
    by_rule = compare_arms(study, results)
    scores = Scores(study, results)
    gains = []
    for row in by_rule.to_dict("records"):
        cell = Cell(**{name: row[name] for name in Cell.__dataclass_fields__})
        runs = [scores.of(cell, arm) for arm in ("finetune", "scratch")]
        seed = min(runs[0].keys() & runs[1].keys())
        gains.append(runs[0][seed].facts["weighted_f1"] - runs[1][seed].facts["weighted_f1"])
    return by_rule.assign(published=gains)


def published_view(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the published way of reading would have concluded from the same runs."""
    rows = read_as_published(study, results)
    ahead, verdicts = rows["published"] > 0, rows["verdict"]
    helps, harms = verdicts == "helps", verdicts == "harms"
    decided = int((helps | harms).sum())
    other = int((helps & ~ahead).sum() + (harms & ahead).sum())
    text = (
        f"Read as published ({_AS_PUBLISHED}), the same runs say that fine-tuning wins in "
        f"{ahead.sum()} of {len(rows)} comparisons. By the rule of this study (macro AUROC, all "
        f"seeds) it *helps* in {helps.sum()} and *harms* in {harms.sum()} of the {len(rows)}"
    )
    if decided:
        text += f"; in {other} of these {decided}, the published reading names the other arm"
    if rest := len(rows) - decided:
        text += (
            f". The other {rest} are *undecided* or *equivalent*; the published reading names a "
            "winner there as well"
        )
    return Markdown(f"{text}.")


def published_shrinking(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the published way of reading would have concluded on the shrinking gain."""
    lines = []
    for (model, head), rows in read_as_published(study, results).groupby(
        ["model", "head"], sort=False
    ):
        ordered = rows.sort_values("records")
        gains = ordered["published"].to_numpy()
        if len(gains) < 2:
            continue
        steps = int((np.diff(gains) > 0).sum())
        smaller = gains[-1] < gains[0]
        texts = [
            f"{signed(row['published'])} with {row['records']:,}"
            for row in ordered.to_dict("records")
        ]
        lines.append(
            f"{network(str(model), str(head))}: {joined(texts)}. The last is "
            f"{'smaller' if smaller else 'not smaller'} than the first; on the way it rises at "
            f"{steps} of {len(gains) - 1} steps."
        )
    return Markdown(
        f"Read as published ({_AS_PUBLISHED}), the same runs show these gains in weighted F1:\n\n"
        + as_list(lines).data
    )


def published_families(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the published way of reading would have concluded on the two families."""
    rows = read_as_published(study, results)
    heads = rows["head"] == "flattened"
    published = rows[heads | (rows["model"].map(lambda name: MODELS[name].family) == "CNN")]
    means = published.groupby(["model", "head"], sort=False)["published"].mean().reset_index()
    by_family = means.groupby(means["model"].map(lambda name: MODELS[name].family))["published"]
    families = by_family.mean()
    if len(families) < 2:
        return Markdown("The networks of the publication are not all in this study.")
    texts = [
        f"{network(row['model'], row['head'])} {signed(row['published'])}"
        for row in means.to_dict("records")
    ]
    more = families["CNN"] > families["RNN"]
    return Markdown(
        f"Read as published ({_AS_PUBLISHED}; recurrent networks with the flattened head), the "
        f"same runs gain on average over all sizes: {joined(texts)}. That reading would say that "
        f"{'convolutional' if more else 'recurrent'} networks profit more."
    )


def published_times(study: Study) -> Markdown:
    """Say what the published way of reading would have concluded on convergence.

    The first seed alone, by its curve on the test set: the epochs until it comes within the
    margin of the best F1 that training from scratch reaches.
    """
    scores = Scores(study, published_runs(study))
    lines = []
    for cell in scores.cells:
        tuned, scratch = scores.of(cell, "finetune"), scores.of(cell, "scratch")
        if not cell.source or not tuned.keys() & scratch.keys():
            continue
        seed = min(tuned.keys() & scratch.keys())
        curves = [arm[seed].history["test_f1"] for arm in (tuned, scratch)]
        epochs = [_first(curve, max(curves[1]) - MARGIN) for curve in curves]
        lines.append(
            f"{network(cell.model, cell.head)} with {scratch[seed].facts['train_records']:,} "
            f"records: fine-tuned after {epochs[0]}, from scratch after {epochs[1]}."
        )
    if not lines:
        return Markdown("The published protocol has not been run on these records yet.")
    return Markdown(
        "Read as published, off the test curve of one run of each arm trained under the published "
        f"protocol, the weighted F1 comes within {MARGIN:g} of the best that training from scratch "
        "reaches:\n\n" + as_list(lines).data
    )


def _first(curve: Sequence[float], level: float) -> str:
    reached = [place for place, value in enumerate(curve, 1) if value >= level]
    count, before = (reached[0], "") if reached else (len(curve), "more than ")
    return f"{before}{count} epoch{'s' * (count != 1)}"


def published_runs(study: Study) -> list[Result]:
    """Return the runs of a study's companion under the published protocol; empty without one."""
    return companion(study, "paper")[1]


def flattery(results: Sequence[Result]) -> pd.DataFrame:
    """Compare the best F1 over epochs on the test set with that of the epoch best on validation.

    Parameters
    ----------
    results : sequence of Result
        Runs under the published protocol.

    Returns
    -------
    DataFrame
        One row a run: ``model``, ``head``, ``arm``, ``size``, ``records``, ``seed``,
        ``published`` (chosen on the test set), ``honest`` (chosen on validation) and ``last``
        (after the last epoch), all F1 weighted by prevalence on the test set.
    """
    rows = []
    for run in results:
        test, validation = run.history["test_f1"], run.history["validation_f1"]
        rows.append(
            {
                "model": run.spec.model,
                "head": run.spec.head,
                "arm": run.spec.arm,
                "size": run.spec.size,
                "records": run.facts["train_records"],
                "seed": run.spec.seed,
                "published": max(test),
                "honest": test[int(np.argmax(validation))],
                "last": test[-1],
            }
        )
    return pd.DataFrame(rows)


def flattery_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the means over seeds, a row a network, arm and size."""
    groups = found.groupby(["model", "head", "size", "arm"], sort=False)
    means = groups[["records", "published", "honest", "last"]].mean().reset_index()
    means = in_order(means.sort_values("arm", key=lambda arm: arm.map(list(ARMS).index)))
    return pd.DataFrame(
        {
            "network": named(means["model"], means["head"]),
            "records": means["records"].map("{:,.0f}".format),
            "arm": means["arm"].map(lambda arm: ARMS[arm].title),
            "best on the test set": means["published"].map("{:.3f}".format),
            "chosen on validation": means["honest"].map("{:.3f}".format),
            "after the last epoch": means["last"].map("{:.3f}".format),
            "flattered by": (means["published"] - means["honest"]).map(signed),
        }
    )


def flattery_answer(study: Study, found: pd.DataFrame) -> Markdown:
    """State how much the choice on the test set flatters each arm, and what it does to gains."""
    if not len(found):
        return Markdown("The published protocol has not been run on these records yet.")
    extra = (found["published"] - found["honest"]).groupby(found["arm"], sort=False).mean()
    parts = [f"{signed(value)} {ARMS[str(arm)].title}" for arm, value in extra.items()]
    cells = ["model", "head", "size", "seed"]
    wide = found.pivot_table(index=cells, columns="arm", values=["published", "honest"])
    gains = {
        kind: wide[kind]["finetune"] - wide[kind]["scratch"] for kind in ("published", "honest")
    }
    turned = gains["published"] * gains["honest"] < 0
    return Markdown(
        f"Trained under the published protocol, each network is reported at the epoch at which the "
        f"test set liked it best. Against the epoch that validation would have chosen, that adds, "
        f"on average over {len(found)} runs, {' and '.join(parts)} to the weighted F1. The mean "
        f"gain from fine-tuning is {signed(gains['published'].mean())} as published and "
        f"{signed(gains['honest'].mean())} honestly chosen; in {turned.sum()} of the {len(wide)} "
        "comparisons of single runs the two disagree on which arm is better."
    )
