"""What the notebooks share: opening a study, its runs, tables of them, the provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters.common import by_target, network
from ecgnb.data.catalog import card
from ecgnb.errors import UserError
from ecgnb.models import MODELS
from ecgnb.study.data import fingerprints, recorded_runs, with_what_is_here
from ecgnb.study.declare import chapter_study, load_study
from ecgnb.study.grid import Study
from ecgnb.study.plan import size_label
from ecgnb.study.progress import open_progress
from ecgnb.study.result import Result, provenance
from ecgnb.study.run import run_study
from ecgnb.study.statistics import DETECTABLE, LEVEL, POWER
from ecgnb.training.arms import ARMS


def open_study(
    namespace: Mapping[str, Any],
    chapter: str = "",
    parameters: Sequence[str] = ("study", "drive"),
) -> Study:
    """Check a notebook's parameters and load its study.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``, right after its parameters. Papermill only warns of a
        parameter that a notebook does not know; here it is an error.
    chapter : str
        Where the chapter may have a study of its own, its name; see
        `ecgnb.study.declare.chapter_study`.
    parameters : sequence of str
        The parameters that the notebook has.

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
    unknown = [name for name in given if name not in parameters]
    if unknown:
        raise UserError(
            f"unknown parameter {', '.join(map(repr, unknown))}; this notebook takes "
            f"{', '.join(parameters)}"
        )
    return chapter_study(load_study(namespace["study"]), chapter)


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


def settings(study: Study) -> pd.DataFrame:
    """Tabulate what a study trains on what."""
    rows = []
    for sources, pair in by_target(with_what_is_here(study).pairs):
        names = dict.fromkeys(card(source.dataset).short_title for source in sources)
        for model in pair.models:
            rows.append(
                {
                    "source": "; ".join(names),
                    "target": card(pair.target.dataset).short_title,
                    "model": MODELS[model].title,
                    "head": ", ".join(pair.heads),
                    "training records": ", ".join(size_label(size) for size in pair.sizes),
                    "seeds": len(pair.seeds),
                }
            )
    return pd.DataFrame(rows)


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Write a comparison for reading: one row a network and size.

    The power is that of finding a difference of `DETECTABLE`; the seeds for it are those at which
    it would be `POWER`, if the variances are as they were found.
    """
    rows = comparison.sort_values(["target", "source", "model", "head", "records"])
    pairs = {
        "from": rows["source"].map(lambda name: card(name).short_title),
        "to": rows["target"].map(lambda name: card(name).short_title),
    }
    several = len(rows[["source", "target"]].drop_duplicates()) > 1
    return pd.DataFrame(
        {
            **(pairs if several else {}),
            "network": [network(m, h) for m, h in zip(rows["model"], rows["head"], strict=True)],
            "records": rows["records"].map("{:,}".format),
            "difference": rows["difference"].map("{:+.3f}".format),
            f"{LEVEL:.0%} interval": [
                f"{row.low:+.3f} to {row.high:+.3f}" for row in rows.itertuples()
            ],
            "verdict": rows["verdict"],
            "p (Holm)": rows["p_holm"].map("{:.3f}".format),
            f"power at {DETECTABLE:g}": rows["power"].map("{:.0%}".format),
            f"seeds for {POWER:.0%}": rows["seeds_needed"]
            .map("{:.0f}".format, na_action="ignore")
            .astype(object)
            .fillna("more patients"),
            "fine-tuned": rows["first"].map("{:.3f}".format),
            "from scratch": rows["second"].map("{:.3f}".format),
            "seeds": rows["seeds"],
            "tested": rows["tested"].map("{:,}".format),
            "classes": rows["classes"],
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
    """Average one test metric over seeds, for reading: a row a model and size, a column an arm."""
    frame = metrics_frame(results)
    table = frame.pivot_table(index=["model", "records"], columns="arm", values=metric)
    table = table[[arm for arm in ARMS if arm in table]].map("{:.3f}".format)
    table = table.rename(columns={arm: ARMS[arm].title for arm in ARMS}).reset_index()
    table = table.sort_values(["model", "records"], ascending=[False, True])
    table["model"] = table["model"].map(lambda name: MODELS[name].title)
    return table.rename_axis(columns=None)


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
