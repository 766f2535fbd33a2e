"""Sentences and tables on single diagnoses, on features and on labels of hospitals.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from IPython.display import Markdown
from scipy import stats

from ecgnb.analysis.compare import Cell
from ecgnb.analysis.statistics import LEVEL, MARGIN, VERDICTS
from ecgnb.chapters import common
from ecgnb.chapters.sources import short
from ecgnb.data.labels import full_name
from ecgnb.report.charts import draw_diagnoses
from ecgnb.report.tables import show
from ecgnb.report.wording import interval_texts, joined, p_texts, seeds_of, signed
from ecgnb.study.plan import size_label


def diagnoses_text(found: pd.DataFrame, cell: Cell) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of diagnoses."""
    caption = (
        f"{short(cell.target)} with {size_label(cell.size)} training records: AUROC of the network "
        f"fine-tuned after {short(cell.source)} less that of the network trained from scratch, "
        f"with {LEVEL:.0%} intervals ({seeds_of(found)}), for each diagnosis that can be scored in "
        f"every fifth. The band is the margin of ±{MARGIN:g}, inside which a difference does not "
        "matter."
    )
    parts = [f"{full_name(r['label'])} {signed(r['difference'])}" for r in found.to_dict("records")]
    return caption, f"Differences by diagnosis. {'; '.join(parts)}."


def diagnoses_table(
    found: pd.DataFrame, first: str, second: str, words: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Tabulate comparisons one diagnosis at a time.

    Parameters
    ----------
    found : DataFrame
        From `ecgnb.analysis.hospitals.diagnoses`.
    first, second : str
        What is compared, for the heads of columns.
    words : mapping of str to str, optional
        How verdicts are called, where nothing was fine-tuned that could help.
    """
    if not len(found):
        return found
    rows = found.sort_values("difference", ascending=False)
    return pd.DataFrame(
        {
            "diagnosis": rows["label"].map(full_name),
            "records in the source": rows["in_source"].map("{:,}".format),
            "in the target": rows["in_target"].map("{:,}".format),
            first: rows["first"].map("{:.3f}".format),
            second: rows["second"].map("{:.3f}".format),
            "difference": rows["difference"].map(signed),
            f"{LEVEL:.0%} interval": interval_texts(rows),
            "verdict": rows["verdict"].replace(dict(words or {})),
            "p (Holm)": p_texts(rows),
        }
    )


def gains_answer(tuned: pd.DataFrame, came: pd.DataFrame, size: int) -> Markdown:
    """State which diagnoses gain from fine-tuning, and what goes with the gain.

    Parameters
    ----------
    tuned : DataFrame
        From `ecgnb.analysis.hospitals.diagnoses`: fine-tuned against scratch.
    came : DataFrame
        The same: as it came against a network of the target's own.
    size : int
        Training records of `tuned`.
    """
    if not len(tuned):
        return Markdown("No diagnosis can be scored by itself in every fifth of the target.")
    counts = {
        name: tuned[tuned["verdict"] == name]["label"].map(full_name).tolist() for name in VERDICTS
    }
    texts = [
        f"{name} {joined(labels)}" if name != "undecided" else f"is undecided for {joined(labels)}"
        for name, labels in counts.items()
        if labels
    ]
    lines = [f"With {size_label(size)} training records, fine-tuning {'; it '.join(texts)}."]
    for column, what in (
        ("in_source", "how many records of it the source has"),
        ("in_target", "how common it is at the target"),
        ("difference_came", "how well the source's own name for it fits the target's records"),
    ):
        both = tuned
        if column not in tuned and len(came):
            both = tuned.merge(came[["label", "difference"]], on="label", suffixes=("", "_came"))
        if column not in both or len(both) < _FEWEST:
            continue
        if min(both[column].nunique(), both["difference"].nunique()) < 2:  # nothing to rank
            continue
        rank, p = stats.spearmanr(both[column], both["difference"])
        seen = "The gain goes with" if p < 1 - LEVEL else "No relation is seen with"
        lines.append(
            f"{seen} {what}: rank correlation {rank:+.2f} over {len(both)} diagnoses (p = {p:.2f})."
        )
    if len(lines) > 1:
        lines.append(
            "So few diagnoses show strong relations only: one that is not seen may still be there."
        )
    return common.as_list(lines)


_FEWEST = 4  # diagnoses, from which on a rank correlation is told


def apart_answer(apart: pd.DataFrame) -> Markdown:
    """State how well features tell hospitals apart, before and after fine-tuning."""
    if not len(apart):
        return Markdown("No run of this study was asked.")
    lines = []
    for (source, target), rows in apart.groupby(["source", "target"], sort=False):
        before = rows[rows["arm"] == "as-is"]
        after = rows[rows["arm"] == "finetune"].sort_values("records")
        if not len(after):
            continue
        parts = [f"{r.mean:.2f} after {r.records:,}" for r in after.itertuples()]
        start = f"{before['mean'].iloc[0]:.2f} before fine-tuning, " if len(before) else ""
        labels = after["labels"].iloc[0]
        beside = "; they share no label" if pd.isna(labels) else f"; labels alone {labels:.2f}"
        lines.append(
            f"**{short(str(source))} and {short(str(target))}**: features {start}{joined(parts)} "
            f"records{beside}."
        )
    came = apart[apart["arm"] == "as-is"]
    both = came.dropna(subset="labels")
    lines.append(
        f"Over all {len(came)} sources and targets, the features of networks as they came tell "
        f"them apart with a mean AUROC of {came['mean'].mean():.2f} ({came['mean'].min():.2f} to "
        f"{came['mean'].max():.2f}); 0.5 would be blind."
    )
    if len(both):
        less = both["labels"] >= both["mean"]
        lines.append(
            f"Labels alone do so with {both['labels'].mean():.2f} ({both['labels'].min():.2f} to "
            f"{both['labels'].max():.2f}): in {less.sum()} of {len(both)} cases at least as well "
            "as the features, which then need to hold nothing but diagnoses. Where features do "
            "better, they may hold what these labels do not: device, filters, patients, or "
            "findings without a label. The probe cannot say which."
            + (" Below 0.5 is chance: few records are asked." if both["labels"].min() < 0.5 else "")
        )
    return common.as_list(lines)


def apart_table(apart: pd.DataFrame) -> pd.DataFrame:
    """Tabulate how well features and labels tell a source from a target."""
    if not len(apart):
        return apart
    rows = apart.sort_values(["target", "source", "arm", "records"], kind="stable")
    arms = {"as-is": "as it came", "finetune": "fine-tuned", "finetune-whole": "head kept"}
    return pd.DataFrame(
        {
            "from": rows["source"].map(short),
            "to": rows["target"].map(short),
            "network": rows["arm"].map(arms),
            "records": rows["records"].map("{:,}".format).where(rows["arm"] != "as-is", "none"),
            "features": rows["mean"].map("{:.2f}".format),
            "labels alone": rows["labels"].map("{:.2f}".format).where(rows["labels"].notna(), "–"),
            "seeds": rows["seeds"],
        }
    )


def show_diagnoses(tuned: pd.DataFrame, cell: Cell) -> None:
    """Show the differences by diagnosis, if there are any."""
    if len(tuned):
        names = tuned.assign(name=tuned["label"].map(full_name))
        figure = draw_diagnoses(names, "fine-tuned", "from scratch")
        show(figure, *diagnoses_text(tuned, cell))


def definitions_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what each class consists in, a row a class, a column a dataset."""
    if not len(found):
        return found
    cells = found.assign(
        text=[
            f"{full_name(code)} {count:,}"
            for code, count in zip(found["code"], found["records"], strict=True)
        ]
    )
    wide = cells.pivot_table(
        index="label", columns="dataset", values="text", aggfunc=", ".join, fill_value="–"
    )
    order = found.groupby("label")["records"].sum().sort_values(ascending=False).index
    wide = wide.loc[order].rename(columns=short).rename_axis(columns=None)
    return wide.assign(diagnosis=wide.index.map(full_name)).set_index("diagnosis").reset_index()


def definitions_answer(found: pd.DataFrame) -> Markdown:
    """State which classes are made of several codes, and which are missing somewhere."""
    if not len(found):
        return Markdown("The study's labels are found in the data, each dataset's its own.")
    datasets = sorted(set(found["dataset"]))
    counts = found.groupby("label")["dataset"].nunique()
    everywhere = counts.index[counts == len(datasets)]
    several = found.groupby(["dataset", "label"])["code"].nunique()
    merged = sorted({full_name(str(label)) for _, label in several.index[several > 1]})
    named = f": {joined([full_name(label) for label in everywhere])}" if len(everywhere) else ""
    return common.as_list(
        [
            f"{len(everywhere)} of {len(counts)} classes that occur were found in every dataset "
            f"here{named}. A class that a dataset does not name is counted as absent from all its "
            "records, whatever the records show.",
            f"Made of several native codes in one dataset: {joined(merged)}." if merged else "",
        ]
    )
