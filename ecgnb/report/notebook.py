"""What the notebooks share: opening a study, its runs, tables of them, the provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from ecgnb.analysis.statistics import DETECTABLE, LEVEL, POWER
from ecgnb.chapters.common import by_target, in_order
from ecgnb.data.catalog import card
from ecgnb.errors import UserError
from ecgnb.models import MODELS
from ecgnb.report.wording import (
    interval_texts,
    joined,
    named,
    needed_text,
    network,
    p_texts,
    signed,
)
from ecgnb.study.data import fingerprints, recorded_runs, with_what_is_here
from ecgnb.study.declare import chapter_study, load_study
from ecgnb.study.plan import open_progress, size_label
from ecgnb.study.run import run_study
from ecgnb.study.spec import Study
from ecgnb.study.store import Result, provenance
from ecgnb.training.arms import ARMS


def open_study(namespace: Mapping[str, Any], chapter: str = "") -> Study:
    """Check a notebook's parameters, load its study, and say so if its ECGs are simulated.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``, right after its parameters. Papermill only warns of a
        parameter that a notebook does not know; here it is an error.
    chapter : str
        Where the chapter may have a study of its own, its name; see
        `ecgnb.study.declare.chapter_study`.

    Raises
    ------
    UserError
        If a parameter is unknown, or the study is.
    """
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    given = [
        name
        for name, value in namespace.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in _IPYTHON
    ]
    unknown = [name for name in given if name not in _PARAMETERS]
    if unknown:
        raise UserError(
            f"unknown parameter {', '.join(map(repr, unknown))}; a notebook takes "
            f"{' and '.join(_PARAMETERS)}"
        )
    study = chapter_study(load_study(namespace["study"]), chapter)
    if card(study.pairs[0].target.dataset).simulated:
        display(Markdown("*The ECGs of this page are simulated: it says nothing about patients.*"))
    return study


_PARAMETERS = ("study", "drive")
_IPYTHON = ("In", "Out")


def runs(study: Study) -> list[Result]:
    """Return the final runs of a study.

    Those of a recorded study are read, as far as they have been recorded (`ecgnb run` does the
    others); those of any other study are trained where they are missing.
    """
    if study.recorded and recorded_runs(study).exists():
        return open_progress(study).finished()
    # Where output is kept, as in the book, the environment switches progress bars off.
    return run_study(study, progress="TQDM_DISABLE" not in os.environ)


def settings(study: Study, results: Sequence[Result] = ()) -> pd.DataFrame:
    """Tabulate what a study trains on what; with its runs, how many of each row have been made."""
    made = {replace(run.spec, learning_rate=0.0, source_learning_rate=0.0) for run in results}
    rows = []
    for sources, pair in by_target(with_what_is_here(study).pairs):
        for model in pair.models:
            row = {
                "source": "; ".join(dict.fromkeys(card(one.dataset).short_title for one in sources))
                if any(ARMS[arm].pretrained for arm in pair.arms)
                else "none",
                "target": card(pair.target.dataset).short_title,
                "network": joined([network(model, head) for head in pair.heads]),
                "arms": ", ".join(ARMS[arm].title for arm in pair.arms),
                "training records": ", ".join(size_label(size) for size in pair.sizes),
                "seeds": len(pair.seeds),
            }
            pairs = tuple(replace(pair, models=(model,), source=one) for one in sources)
            cells = set(replace(study, pairs=pairs).cells())
            rows.append({**row, "runs made": f"{len(cells & made):,} of {len(cells):,}"})
    return pd.DataFrame(rows)


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Write a comparison for reading: one row a network and size.

    The power is that of finding a difference of `DETECTABLE`; the seeds for it are those at which
    it would be `POWER`, if the variances are as they were found.
    """
    pairs = {
        "from": comparison["source"].map(lambda name: card(name).short_title),
        "to": comparison["target"].map(lambda name: card(name).short_title),
    }
    several = len(comparison[["source", "target"]].drop_duplicates()) > 1
    return pd.DataFrame(
        {
            **(pairs if several else {}),
            "network": named(comparison["model"], comparison["head"]),
            "records": comparison["records"].map("{:,}".format),
            "difference": comparison["difference"].map(signed),
            f"{LEVEL:.0%} interval": interval_texts(comparison),
            "verdict": comparison["verdict"],
            "p (Holm)": p_texts(comparison),
            f"power at {DETECTABLE:g}": [
                "not known" if np.isnan(power) else f"{power:.0%}" for power in comparison["power"]
            ],
            f"seeds for {POWER:.0%}": comparison["seeds_needed"].map(needed_text),
            "fine-tuned": comparison["first"].map("{:.3f}".format),
            "from scratch": comparison["second"].map("{:.3f}".format),
            "seeds": comparison["seeds"],
            "tested": comparison["tested"].map("{:,}".format),
            "classes": comparison["classes"],
        }
    )


def metrics_frame(results: Sequence[Result]) -> pd.DataFrame:
    """Put runs into one table: a row a run, the fields of its spec and its facts as columns.

    ``records`` is the number of training records of its size, the mean over seeds: the folds, and
    with them all records but two fifths, are not quite equally large.
    """
    frame = pd.DataFrame([{**asdict(result.spec), **result.facts} for result in results])
    sizes = frame.groupby(["dataset", "size"])["train_records"]
    return frame.assign(records=sizes.transform("mean").round().astype(int))


def metrics_table(results: Sequence[Result], metric: str = "auroc") -> pd.DataFrame:
    """Average one test metric over seeds, for reading: a row a model and size, a column an arm.

    Only the seeds that all arms of a row have count, so that its columns can be compared.
    """
    frame = metrics_frame(results)
    index = ["model", "records"]
    arms = frame.groupby(index)["arm"].transform("nunique")
    frame = frame[frame.groupby([*index, "seed"])["arm"].transform("nunique") == arms]
    table = frame.pivot_table(index=index, columns="arm", values=metric)
    table = table[[arm for arm in ARMS if arm in table]].map(_score_text)
    table = table.assign(seeds=frame.groupby(index)["seed"].nunique())
    table = table.rename(columns={arm: ARMS[arm].title for arm in ARMS}).reset_index()
    table = in_order(table)
    table["model"] = table["model"].map(lambda name: MODELS[name].title)
    return table.rename_axis(columns=None)


def _score_text(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def rates_table(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Tabulate the learning rates chosen on validation, one column a training size."""
    frame = metrics_frame(results)
    frame = frame[frame["seed"] == study.seeds[0]]
    table = frame.pivot_table(
        index=["model", "arm"], columns="records", values="learning_rate", sort=False
    )
    table.columns = [f"{size:,}" for size in table.columns]
    table = table.map("{:g}".format).reset_index()
    table["model"] = table["model"].map(lambda name: MODELS[name].title)
    table["arm"] = table["arm"].map(lambda name: ARMS[name].title)
    return table


def footer(study: Study, results: Sequence[Result] = ()) -> Markdown:
    """Say which study, data, seeds and versions made a page."""
    prints = fingerprints(study)
    data = ", ".join(f"{card(name).short_title} `{value[:12]}`" for name, value in prints.items())
    seeds = sorted({result.spec.seed for result in results} or study.seeds)
    here = provenance()
    lines = [
        f"- study `{study.name}`, version `{study.digest}`, protocol `{study.protocol}`",
        f"- data (fingerprint of the prepared arrays): {data}",
        f"- seeds {seeds[0]} to {seeds[-1]}, as far as they have been run",
        f"- page made with ecgnb {here['package']}, Python {here['python']}, torch "
        f"{here['torch']}, numpy {here['numpy']}",
    ]
    if results:
        made = _makers(results)
        total = sum(result.facts["seconds"] for result in results)
        where = "trained here"
        if study.recorded and recorded_runs(study).exists():
            progress = open_progress(with_what_is_here(study))
            done, declared = len(progress.finished()), len(list(progress.study.cells()))
            where = f"recorded; of the whole study {done:,} of {declared:,}"
        lines.insert(
            3,
            f"- {len(results)} runs ({where}), {total / 3600:.1f} hours of one core in all, made "
            f"with {made}",
        )
    return Markdown("**What made this page**\n\n" + "\n".join(lines))


def _makers(results: Sequence[Result]) -> str:
    kinds = {
        f"ecgnb {facts['package']}, torch {facts['torch']}, {facts['device']} in "
        f"{facts['precision']}"
        for facts in (result.facts for result in results)
    }
    return "; ".join(sorted(kinds))
