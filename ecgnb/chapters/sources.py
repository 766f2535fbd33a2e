"""What records of one's own, and what many hospitals give: sentences and tables.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import Cell, Scores, compare_arms, with_tests
from ecgnb.analysis.hospitals import contrast, singles, taught_by_all
from ecgnb.analysis.statistics import LEVEL, VERDICTS
from ecgnb.chapters import common
from ecgnb.data.catalog import JOINT, card
from ecgnb.report.wording import interval_texts, joined, p_texts, signed
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

SAID = {
    "helps": "is **better**",
    "harms": "is **worse**",
    "equivalent": "is **equivalent**",
    "undecided": "is **undecided**",
}


def short(name: str) -> str:
    """Name a dataset for an axis, or several that are joined."""
    title = card(name).short_title.replace("Simulated hospital", "Simulated")
    return title.replace(", filtered and standardised", " filtered")


def main_cells(study: Study, results: Sequence[Result]) -> tuple[Cell, Cell]:
    """Return the cells of the study's main source and target: all records, and the fewest."""
    target = tuned_targets(study, results)[0]
    source = main_source(results, target)
    cells = [
        cell
        for cell in Scores(study, results).cells
        if (cell.source, cell.target) == (source, target)
    ]
    return max(cells, key=_asked), min(cells, key=_asked)


def _asked(cell: Cell) -> float:
    return cell.size or np.inf  # 0 is all


def tuned_targets(study: Study, results: Sequence[Result]) -> list[str]:
    """Name the targets on which networks were fine-tuned, in the order of the study."""
    tuned = {run.spec.dataset for run in results if run.spec.arm == "finetune"}
    names = dict.fromkeys(pair.target.dataset for pair in study.pairs if "finetune" in pair.arms)
    return [name for name in names if name in tuned]


def main_source(results: Sequence[Result], target: str) -> str:
    """Return the source whose fine-tuning on a target is told of: the one of most datasets."""
    names = [
        run.spec.source
        for run in results
        if run.spec.dataset == target and run.spec.arm == "finetune"
    ]
    return max(dict.fromkeys(names), key=lambda name: name.count(JOINT))


def against_scratch(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare every fine-tuning with training from scratch.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.compare_arms`; with ``arm``, and a family for each.
    """
    tables = [
        compare_arms(study, results, arm).assign(arm=arm) for arm in ("finetune", "finetune-whole")
    ]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def against_single(study: Study, results: Sequence[Result], arm: str = "finetune") -> pd.DataFrame:
    """Compare networks of many datasets with those of a single one, at each target.

    As they came (``as-is``), only on diagnoses that both have taught.

    Returns
    -------
    DataFrame
        One row a target and size: ``target``, ``many``, ``single``, ``size``, ``records``, and the
        columns of `ecgnb.analysis.compare.with_tests` for the many less the single.
    """
    scores = Scores(study, results)
    tuned = [cell for cell in scores.cells if cell.source and scores.of(cell, "finetune")]
    rows, found = [], []
    for many in tuned:
        for single in tuned:
            alike = (many.target, many.size) == (single.target, single.size)
            if not alike or JOINT not in many.source or JOINT in single.source:
                continue
            sides = [list(scores.of(cell, arm).values()) for cell in (many, single)]
            if not all(sides):
                continue
            came = [run.spec for side in sides for run in side if arm == "as-is"]
            only = taught_by_all(study, came)
            difference = contrast(study, results, (many, arm), (single, arm), only=only)
            if difference and (only or not came):
                records = scores.records(many)
                rows.append((many.target, many.source, single.source, many.size, records))
                found.append(difference)
    columns = ["target", "many", "single", "size", "records"]
    return with_tests(pd.DataFrame(rows, columns=columns), found)


def single_summary(table: pd.DataFrame) -> str:
    """Say in one sentence whether many hospitals are a better source than the best of them."""
    if not len(table):
        return ""
    counts = [
        f"{SAID[name]} in {int((table['verdict'] == name).sum())}"
        for name in VERDICTS
        if (table["verdict"] == name).any()
    ]
    return (
        "Fine-tuned, the network of all others rather than that of the best single one "
        f"{joined(counts)} of {len(table)} comparisons ({signed(table['difference'].min())} to "
        f"{signed(table['difference'].max())})."
    )


def single_answer(study: Study, table: pd.DataFrame, found: pd.DataFrame) -> Markdown:
    """State whether many hospitals are a better source than the best of them alone."""
    if not len(table):
        return Markdown("This study has one source only.")
    lines = []
    for target, rows in table.groupby("target", sort=False):
        single = rows["single"].iloc[0]
        asked = [row for row in singles(found).to_dict("records") if row["target"] == target]
        asked.sort(key=lambda row: -row["validation"])
        ranks = [f"{short(row['source'])} {row['validation']:.3f}" for row in asked]
        rows = rows.sort_values("records")
        parts = [
            f"{signed(row['difference'])} at {row['records']:,} ({interval}, *{row['verdict']}*)"
            for row, interval in zip(rows.to_dict("records"), interval_texts(rows), strict=True)
        ]
        text = (
            f"**{short(str(target))}**: {short(rows['many'].iloc[0])} less {short(str(single))} "
            f"alone, both fine-tuned: {joined(parts)}."
        )
        if ranks:
            text += f" On its validation records, the single sources came as {joined(ranks)}."
        lines.append(text)
    return common.as_list(lines)


def scratch_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the comparisons of fine-tuning with training from scratch."""
    if not len(found):
        return found
    rows = found.sort_values(["target", "source", "arm", "records"], kind="stable")
    heads = {"finetune": "new", "finetune-whole": "kept"}
    return pd.DataFrame(
        {
            "from": rows["source"].map(short),
            "to": rows["target"].map(short),
            "head": rows["arm"].map(heads),
            "records": rows["records"].map("{:,}".format),
            "difference": rows["difference"].map(signed),
            f"{LEVEL:.0%} interval": interval_texts(rows),
            "verdict": rows["verdict"],
            "p (Holm)": p_texts(rows),
            "fine-tuned": rows["first"].map("{:.3f}".format),
            "from scratch": rows["second"].map("{:.3f}".format),
            "classes": rows["classes"],
            "seeds": rows["seeds"],
        }
    )
