"""Sentences and tables on single diagnoses, on features, and on calibration at other hospitals.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown
from scipy import stats

from ecgnb.chapters import common
from ecgnb.chapters.sources import short
from ecgnb.data.labels import full_name
from ecgnb.display import show
from ecgnb.hospital_charts import draw_diagnoses, draw_reliability
from ecgnb.prose import joined, seeds_of
from ecgnb.study.compare import arm_means
from ecgnb.study.generalise import contrast, reliability
from ecgnb.study.grid import Study
from ecgnb.study.plan import size_label
from ecgnb.study.result import Result
from ecgnb.study.scores import Cell, Scores
from ecgnb.study.statistics import LEVEL, VERDICTS


def diagnoses_text(found: pd.DataFrame, cell: Cell) -> tuple[str, str]:
    """Compute the caption and the alternative text of the figure of diagnoses."""
    caption = (
        f"{short(cell.target)} with {size_label(cell.size)} training records, after "
        f"{short(cell.source)}: AUROC of each diagnosis that can be scored in every fifth, "
        f"with {LEVEL:.0%} intervals ({seeds_of(found)} seeds)."
    )
    parts = [f"{full_name(r['label'])} {r['difference']:+.3f}" for r in found.to_dict("records")]
    return caption, f"Differences by diagnosis. {'; '.join(parts)}."


def diagnoses_table(found: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Tabulate comparisons one diagnosis at a time."""
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
            "difference": rows["difference"].map("{:+.3f}".format),
            f"{LEVEL:.0%} interval": [f"{r.low:+.3f} to {r.high:+.3f}" for r in rows.itertuples()],
            "verdict": rows["verdict"],
            "p (Holm)": rows["p_holm"].map("{:.3f}".format),
        }
    )


def gains_answer(tuned: pd.DataFrame, came: pd.DataFrame, size: int) -> Markdown:
    """State which diagnoses gain from fine-tuning, and what goes with the gain.

    Parameters
    ----------
    tuned : DataFrame
        From `ecgnb.study.generalise.diagnoses`: fine-tuned against scratch.
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
    both = tuned
    if len(came):
        both = tuned.merge(came[["label", "difference"]], on="label", suffixes=("", "_came"))
    if len(both) > 3 and len(came):
        for column, what in (
            ("in_source", "how many records of it the source has"),
            ("in_target", "how common it is at the target"),
            ("difference_came", "how well the source's own name for it fits the target's records"),
        ):
            rank, p = stats.spearmanr(both[column], both["difference"])
            seen = "The gain goes with" if p < 1 - LEVEL else "No relation is seen with"
            lines.append(
                f"{seen} {what}: rank correlation {rank:+.2f} over {len(both)} diagnoses "
                f"(p = {p:.2f})."
            )
        lines.append(
            "So few diagnoses show strong relations only: one that is not seen may still be there."
        )
    return common.as_list(lines)


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
        lines.append(
            f"**{short(str(source))} and {short(str(target))}**: {start}{joined(parts)} records."
        )
    rest = apart[apart["arm"] == "as-is"]
    lines.append(
        f"Over all {len(rest)} sources and targets, networks as they came tell them apart with a "
        f"mean AUROC of {rest['mean'].mean():.2f} ({rest['mean'].min():.2f} to "
        f"{rest['mean'].max():.2f}); 0.5 would be blind."
    )
    return common.as_list(lines)


def calibration_table(study: Study, results: Sequence[Result], cell: Cell) -> pd.DataFrame:
    """Tabulate the expected calibration error of every way to begin, at all sizes of a target."""
    names = {
        "scratch": "from scratch",
        "as-is": "as it came",
        "finetune": "fine-tuned",
        "finetune-whole": "fine-tuned, head kept",
    }
    known = [run for run in results if run.spec.dataset == cell.target and run.spec.arm in names]
    means = arm_means(study, known, "ece")
    means = means[means["source"].isin(["", cell.source])]
    rows = means.sort_values(["arm", "records"], kind="stable")
    return pd.DataFrame(
        {
            "network": rows["arm"].map(names),
            "training records": [
                "none" if arm == "as-is" else f"{records:,}"
                for arm, records in zip(rows["arm"], rows["records"], strict=True)
            ],
            "calibration error": rows["mean"].map("{:.3f}".format),
            f"{LEVEL:.0%} interval": [
                f"{low:.3f} to {high:.3f}"
                for low, high in zip(rows["low"].clip(lower=0), rows["high"], strict=True)
            ],
            "seeds": rows["seeds"],
        }
    )


def calibration_answer(study: Study, results: Sequence[Result], cell: Cell) -> Markdown:
    """State whether fine-tuning mends the calibration of a network that came from elsewhere."""
    lines = []
    if not Scores(study, results).of(cell, "as-is"):
        return Markdown("No network of this study was used on the target as it came.")
    for arm, name in (("finetune", "a new head"), ("finetune-whole", "its head kept")):
        scores = Scores(study, results, "ece")
        if not scores.of(cell, arm):
            continue
        difference = contrast(study, results, (cell, arm), (cell, "as-is"), "ece")
        if difference is None:
            continue
        word = "undecided"
        if difference.high < 0:
            word = "mends"
        elif difference.low > 0:
            word = "spoils"
        lines.append(
            f"Fine-tuning on all records with {name}, against the network as it came: "
            f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f}): "
            f"{'**undecided**' if word == 'undecided' else f'it **{word}** the calibration'}."
        )
    return common.as_list(lines)


def show_diagnoses(tuned: pd.DataFrame, cell: Cell) -> None:
    """Show the differences by diagnosis, if there are any."""
    if len(tuned):
        names = tuned.assign(name=tuned["label"].map(full_name))
        figure = draw_diagnoses(names, "fine-tuned", "from scratch")
        show(figure, *diagnoses_text(tuned, cell))


def show_reliability(study: Study, results: Sequence[Result], cell: Cell) -> None:
    """Show the reliability curves of a cell."""
    found = curves(study, results, cell)
    show(draw_reliability(found), *reliability_text(found))


def curves(study: Study, results: Sequence[Result], cell: Cell) -> dict[str, pd.DataFrame]:
    """Return reliability curves of a cell, before and after fine-tuning, by name."""
    scores = Scores(study, results)
    names = {
        "as-is": "as it came",
        "finetune": "fine-tuned",
        "finetune-whole": "fine-tuned, head kept",
        "scratch": "from scratch",
    }
    runs = {name: list(scores.of(cell, arm).values()) for arm, name in names.items()}
    return {name: reliability(study, some) for name, some in runs.items() if some}


def reliability_text(curves: dict[str, pd.DataFrame]) -> tuple[str, str]:
    """Compute the caption and the alternative text of reliability curves."""
    caption = (
        "How often a finding is there, by the probability that a network gives it, over all "
        "records, seeds and diagnoses that can be scored. On the grey line, a network means what "
        "it says; the size of a mark grows with the number of probabilities."
    )
    parts = [
        f"{name}: "
        + ", ".join(f"{row.said:.2f} said, {row.true:.2f} true" for row in rows.itertuples())
        for name, rows in curves.items()
    ]
    return caption, f"Reliability. {'; '.join(parts)}."


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
    return common.as_list(
        [
            f"{len(everywhere)} of {len(counts)} classes that occur are in the vocabulary of every "
            f"dataset here: {joined([full_name(label) for label in everywhere])}. A class that "
            "a dataset does not name is counted as absent from all its records, whatever the "
            "records show.",
            f"Made of several native codes in one dataset: {joined(merged)}." if merged else "",
        ]
    )
