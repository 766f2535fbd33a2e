"""Advice for one's own ECGs: checks, a quick study, the recorded evidence beside it, a verdict."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecgnb.analysis.compare import pair, runs_table, summarise
from ecgnb.data.catalog import CATALOG, JOINT, card, data_root, find, share_patients
from ecgnb.data.prepare import summary
from ecgnb.errors import UserError
from ecgnb.models import NO_NETWORK
from ecgnb.study.cost import groups
from ecgnb.study.data import open_dataset, recorded_runs
from ecgnb.study.declare import load_study
from ecgnb.study.plan import duration, open_progress
from ecgnb.study.run import check_data, default_workers, run_study
from ecgnb.study.spec import ALL, Study
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS

LARGE = 0.03
"""A gain of macro AUROC from which on a verdict says *clearly*: three times what matters at all."""

_ANSWERS = {
    "equivalent": "It makes no difference that matters. Either will do.",
    "undecided": "Cannot tell: the ECGs at hand do not settle it.",
    "harms": "No. Start from nothing.",
}
_RIVAL_ANSWERS = {
    "helps": "No network is the better choice.",
    "equivalent": "No network does as well, and is simpler.",
    "undecided": "Cannot tell them apart: no network is simpler.",
    "harms": "The pre-trained network is the better choice.",
}

QUICK, EVIDENCE = "quick", "clinical"
_SIMULATED = ("sim-north", "sim-south")
_REFERENCE = "scratch"
_NEAREST = 4
_CELL = ["source", "target", "size"]
_WORTH_FINDING = 0.02  # AUROC: a smaller difference is not what a decision waits for

CERTAINTY = {
    "high": "the 95 % interval says so, also after correction for everything compared here",
    "moderate": "the 95 % interval says so, but not after correction for everything compared here",
    "low": "the 95 % interval leaves it open",
}
"""What the words of certainty mean, as GRADE orders them."""


def quick_study(dataset: str) -> Study:
    """Return a dataset's quick study: from the largest public source here, or a simulated one.

    Raises UserError if the dataset is unknown or is not here.
    """
    facts = card(dataset)
    root = data_root() if os.environ.get("ECGNB_DATA") else None
    sources = [
        one
        for one in CATALOG.values()  # one's own may be the same ECGs in other files
        if not (one.simulated or one.also or one.amplitude != facts.amplitude)
        and root
        and find(one, root)
        and not share_patients(one, facts)
    ]
    largest = max(sources, key=lambda one: one.records, default=None)
    simulated = next(name for name in _SIMULATED if name != dataset)
    return load_study(QUICK, target=dataset, source=largest.name if largest else simulated)


def advise(dataset: str, workers: int | None = None, *, progress: bool = False) -> Iterator[str]:
    """Say, line by line, what to do with a dataset of one's own; trains the quick study for it.

    Parameters
    ----------
    dataset : str
        Of the catalog, or one's own; a joined dataset is none.
    workers : int, optional
        Processes side by side.
    progress : bool
        Whether to show progress bars.

    Raises UserError if it is not here, cannot be prepared, or has too little to learn or to score.
    """
    if JOINT in dataset:
        raise UserError(f"{dataset} is several datasets; ask about each")
    study = quick_study(dataset)
    yield "1. What is there"
    yield summary(open_dataset(study, dataset, progress=progress))
    check_data(study)
    source = card(study.pairs[0].source.dataset).short_title
    left = sum(one.seconds_left for one in groups(open_progress(study), "auto"))
    count = workers or default_workers(study)
    rate = f"at {study.data.rate:g} Hz"
    yield f"2. A quick study {rate}, pre-trained on {source}: about {duration(left / count)}"
    results = run_study(study, workers=workers, progress=progress)
    arms, gains, rival = compare_arms(study, results)
    for row in arms.assign(low=arms["low"].clip(0), high=arms["high"].clip(upper=1)).itertuples():
        level = f"AUROC {row.mean:.3f} ({row.low:.3f} to {row.high:.3f})"
        yield f"  {ARMS[str(row.arm)].title:25} {level}"
    yield "3. Against training from scratch, same patients and seeds"
    for row in gains.itertuples():
        ends = f"({row.low:+.3f} to {row.high:+.3f})"
        yield f"  {ARMS[str(row.arm)].title:25} {row.mean:+.3f} {ends} {row.verdict}"
    records = int(arms["records"].iloc[0])
    yield f"4. Recorded beside it, nearest to {records} training records, ResNet1d18 fine-tuned"
    yield from nearest(records)
    yield "5. Advice"
    yield from verdict(gains, rival)
    yield f"  More, in hours: ecgnb run {EVIDENCE}:{dataset}"
    side = study.pairs[0].source.dataset
    yield f"  The network: ecgnb export {QUICK} my-network --target {dataset} --source {side}"


def compare_arms(study: Study, results: Sequence[Result]) -> tuple[pd.DataFrame, ...]:
    """Return the level of each arm, its gain over training from scratch, and the rival's.

    Rows of `ecgnb.analysis.compare.summarise`, the best first; no arm that cannot be scored. The
    second is one family of comparisons. The third is no network less the best network.
    """
    runs = runs_table(study, results)
    levels = summarise(runs, ["arm"]).sort_values("mean", ascending=False)
    reference = runs[runs["arm"] == _REFERENCE]
    others = runs[runs["arm"] != _REFERENCE]
    keys = ["target", "label_set", "min_positives", "size"]
    gains = summarise(pair(others, reference, keys), ["arm"])
    plain = ~runs["arm"].map(lambda arm: ARMS[arm].network).astype(bool)
    best = next((arm for arm in levels["arm"] if ARMS[arm].network), None)
    rival = summarise(pair(runs[plain], runs[runs["arm"] == best], keys), ["arm", "arm_other"])
    return levels, gains.sort_values("mean", ascending=False), rival


def advice(study: Study, results: Sequence[Result]) -> list[str]:
    """Return what runs advise for a study's first pair at its most records: lines of `verdict`.

    Of its first network. Nothing where no arm can be compared.
    """
    first = study.pairs[0]
    most = ALL if ALL in first.sizes else max(first.sizes)
    networks = (*first.networks()[:1], (NO_NETWORK, "pooled"))
    wanted = [
        run
        for run in results
        if (run.spec.dataset, run.spec.size) == (first.target.dataset, most)
        and (run.spec.model, run.spec.head) in networks
        and run.spec.source in ("", first.source.dataset)
        and run.spec.label_set == first.target.label_set
    ]
    _, gains, rival = compare_arms(study, wanted)
    known = any(ARMS[arm].pretrained for arm in gains["arm"])
    return [line.strip() for line in verdict(gains, rival)] if known else []


def answer(row: Any, *, rival: bool = False) -> str:
    """Put a verdict of `summarise` into a sentence by its sign and size.

    It is of pre-trained less from scratch; for a `rival`, of no network less pre-trained.
    """
    if rival:
        return _RIVAL_ANSWERS[row.verdict]
    if row.verdict == "helps":
        return f"Yes{', clearly' if row.first - row.second >= LARGE else '; expect a little'}."
    return _ANSWERS[row.verdict]


def certainty(row: Any) -> str:
    """Say how sure a verdict of `summarise` is: a word of `CERTAINTY`."""
    if row.verdict == "undecided":
        return "low"
    return "high" if row.holds else "moderate"


def verdict(gains: pd.DataFrame, rival: pd.DataFrame) -> Iterator[str]:
    """Say which arm to take, how sure that is, and how many patients would settle it.

    `gains` and `rival` are as `compare_arms` returns them.
    """
    best = gains.iloc[0]
    if best.verdict == "helps":
        yield (
            f"  Take: {ARMS[best.arm].title}. It gains {best['mean']:.3f} AUROC "
            f"({best.low:+.3f} to {best.high:+.3f}) over training from scratch; certainty "
            f"{certainty(best)}."
        )
    elif "undecided" in set(gains["verdict"]):
        yield "  Cannot tell of any way that it is better than training from scratch."
    else:
        yield "  Train from scratch: nothing that was tried is better by what matters."
    top = gains[[ARMS[arm].pretrained for arm in gains["arm"]]].iloc[0]
    yield f"  Start from somebody else's ECGs? {answer(top)} Certainty {certainty(top)}."
    if top.verdict == "undecided":
        yield f"  {_needed(top)}"
    for row in rival.itertuples():
        yield (
            f"  No network less {ARMS[str(row.arm_other)].title}: {row.mean:+.3f} ({row.low:+.3f} "
            f"to {row.high:+.3f}) {row.verdict}; certainty {certainty(row)}."
        )
    yield "  Certainty: " + "; ".join(f"{word}: {what}" for word, what in CERTAINTY.items()) + "."
    yield "  Not shown: other hospitals, other networks, diagnoses with too few positives."


def _needed(row: Any) -> str:
    """Say how many tested patients would settle a difference; an interval shrinks as their root."""
    half = (row.high - row.low) / 2
    sought = max(abs(row["mean"]), _WORTH_FINDING)
    if not math.isfinite(half):
        return "One seed cannot say how many patients would settle it."
    times = (half / sought) ** 2
    if times <= 1:
        return f"A difference of {_WORTH_FINDING:g} would have been seen."
    return (
        f"About {times:.1f} times as many patients with labels, {math.ceil(times * row.tested):,} "
        f"ECGs instead of {int(row.tested):,}, would settle a difference of {sought:.2f}."
    )


def nearest(records: int) -> Iterator[str]:
    """Quote the recorded comparisons whose training records are nearest in number."""
    study = load_study(EVIDENCE)
    if not recorded_runs(study):
        yield "  none is recorded here"
        return
    done = [
        run
        for run in open_progress(study).finished()
        if (run.spec.model, run.spec.head) == ("resnet1d18", "linear")
        and run.spec.arm in (_REFERENCE, "finetune")
    ]
    runs = runs_table(study, done, metric=None)
    real = [bool(name) and not card(name).simulated for name in runs["source"]]
    cells = runs[real].drop_duplicates(_CELL).reset_index(drop=True)
    distance = np.abs(np.log(cells["records"] / records))
    near = cells.iloc[np.argsort(distance, kind="stable")[:_NEAREST]]
    used = runs.merge(near[["target", "size"]].drop_duplicates())
    scored = runs_table(study, used["run"])
    plain = scored[scored["arm"] == _REFERENCE]
    found = summarise(pair(scored.merge(near[_CELL]), plain), _CELL)
    for row in near[_CELL].merge(found).itertuples():
        names = " to ".join(card(str(one)).short_title for one in (row.source, row.target))
        yield (
            f"  {names}, {row.records} records: {row.mean:+.3f} ({row.low:+.3f} to "
            f"{row.high:+.3f}) {row.verdict}"
        )
