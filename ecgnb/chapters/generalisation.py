"""Sentences and tables of the chapter on other hospitals.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.hospitals import TAUGHT, singles
from ecgnb.analysis.statistics import LEVEL, MARGIN
from ecgnb.chapters import common
from ecgnb.chapters.own_records import levels, records_answer, way
from ecgnb.chapters.sources import (
    SAID,
    against_scratch,
    against_single,
    main_source,
    short,
    single_summary,
    tuned_targets,
)
from ecgnb.data.catalog import JOINT, card
from ecgnb.report.charts import draw_matrix
from ecgnb.report.tables import show
from ecgnb.report.wording import (
    interval_texts,
    joined,
    p_texts,
    signed,
    standing,
)
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

FALLS = {
    "harms": "falls",
    "helps": "rises",
    "equivalent": "stays",
    "undecided": "is undecided",
}


def fall_answer(found: pd.DataFrame) -> str:
    """State how far networks fall when they change hospital: at real targets, if there are any."""
    if not len(singles(found)):
        return "No network of this study is asked at another hospital as it came."
    rows = _asked(found)
    lines = []
    for kind, some in rows.groupby("kind", sort=False):
        counts = [
            f"**{FALLS[name]}** in {int((some['verdict'] == name).sum())}"
            for name in ("harms", "helps", "equivalent", "undecided")
            if (some["verdict"] == name).any()
        ]
        ordered = some.sort_values("difference").to_dict("records")
        ends = [ordered[0], ordered[-1]][: len(ordered)]
        span = [f"{signed(row['difference'])} ({way(row)})" for row in ends]
        lines.append(
            f"- {kind}: of {len(some)}, it {joined(counts)}; the mean difference is "
            f"{signed(some['difference'].mean())}, from {' to '.join(span)}."
        )
    return (
        "**How far does it fall?** Macro AUROC of the network as it came, against a network of "
        "that hospital's own, on the same patients and the diagnoses of which the source has "
        f"{TAUGHT} records or more:\n\n" + "\n".join(lines)
    )


def _asked(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a matrix that an answer tells of, with their ``kind``."""
    rows = singles(found)
    real = [not card(target).simulated for target in rows["target"]]
    chosen = rows[real] if any(real) else rows
    return chosen.assign(kind=[_kind(row) for row in chosen.to_dict("records")])


def _kind(row: Mapping[Any, Any]) -> str:
    """Say of what kind a source and a target are: what differs between them besides the place."""
    source, target = card(row["source"]), card(row["target"])
    if source.simulated or target.simulated:
        names = ["simulated" if one.simulated else "real" for one in (source, target)]
        return f"from {names[0]} to {names[1]} ECGs"
    for one in (source, target):
        if one.amplitude == "z-score":
            origin = f"records of {short(one.patients_of)}" if one.patients_of else "records"
            return (
                f"between real hospitals, one of them {short(one.name)}, {origin} republished "
                "without amplitudes"
            )
    return "between real hospitals"


def less_answer(came: pd.DataFrame, tuned: pd.DataFrame, means: Mapping[str, pd.DataFrame]) -> str:
    """State whether networks of many hospitals fall less than those of the best single one.

    Parameters
    ----------
    came, tuned : DataFrame
        From `ecgnb.chapters.sources.against_single`: as they came, and fine-tuned.
    means : mapping of str to DataFrame
        From `ecgnb.chapters.own_records.levels`, by target.
    """
    if not len(tuned):
        return ""
    lines = []
    for row, interval in zip(came.to_dict("records"), interval_texts(came), strict=True):
        table = means[row["target"]]
        own = table.loc[table["whole"] & (table["arm"] == "scratch"), "mean"].iloc[0]
        word = f"that of all others {SAID[row['verdict']]}"
        if row["verdict"] == "undecided":
            word = "which is better is **undecided**"
        falls = table[table["arm"] == "as-is"].set_index("source")["mean"] - own
        lines.append(
            f"At {short(row['target'])}, as they came, the network of all others together stands "
            f"at {signed(falls[row['many']])} against the hospital's own, that of the best single "
            f"one, {short(row['single'])}, at {signed(falls[row['single']])}: {word} "
            f"({signed(row['difference'])}, {interval})."
        )
    text = " ".join([*lines, single_summary(tuned)])
    return f"**Does it fall less if it learnt from many hospitals?** {text}"


def advice(
    study: Study, results: Sequence[Result], found: pd.DataFrame, table: pd.DataFrame
) -> str:
    """Say in a sentence or two what a hospital may do."""
    parts = []
    for target in tuned_targets(study, results):
        rows = table[(table["target"] == target) & (table["arm"] == "finetune")]
        rows = rows[rows["source"] == main_source(results, target)].sort_values("records")
        helps = [f"{records:,}" for records in rows.loc[rows["verdict"] == "helps", "records"]]
        sizes = f"with {joined(helps)} records" if helps else "with no number of records tried"
        parts.append(f"{sizes} at {short(target)}")
    lines = [
        "Fine-tuning a network from elsewhere was better than training one from scratch "
        f"{joined(parts)}."
    ]
    if len(singles(found)):
        rows = _asked(found)
        rows = rows[rows["kind"] == rows["kind"].iloc[0]]
        falls = rows.loc[rows["verdict"] == "harms", "difference"]
        text = f"it fell in {len(falls)} of {len(rows)} cases"
        if len(falls):
            text += f", by up to {-falls.min():.3f}: test it on records of one's own before use"
        lines.append(f"Used as it came, {rows['kind'].iloc[0]}, {text}.")
    return f"**In short.** {' '.join(lines)}"


def answer(study: Study, results: Sequence[Result], found: pd.DataFrame) -> Markdown:
    """State how far networks fall, what many hospitals give, and what records of one's own do."""
    table = against_scratch(study, results)
    came, tuned = against_single(study, results, "as-is"), against_single(study, results)
    means = {target: levels(study, results, target) for target in tuned_targets(study, results)}
    seeds = len({run.spec.seed for run in results})
    lines = [
        advice(study, results, found, table),
        fall_answer(found),
        less_answer(came, tuned, means),
        records_answer(results, table, means),
        f"Differences are of macro AUROC ({seeds} seeds). Verdicts rest on {LEVEL:.0%} intervals, "
        f"and inside ±{MARGIN:g} a difference does not matter.",
    ]
    also = ", simulated ones too" if len(found) and len(_asked(found)) < len(singles(found)) else ""
    families = {
        f"All sources and targets{also}, as they came": found,
        "Fine-tuning with a new head": table[table["arm"] == "finetune"],
        "Fine-tuning with the head kept": table[table["arm"] == "finetune-whole"],
        "All others or the best single one, as they came": came.assign(source=came["many"]),
        "All others or the best single one, fine-tuned": tuned.assign(source=tuned["many"]),
    }
    stands = [f"- {name}: {text}" for name, rows in families.items() if (text := _stands(rows))]
    return Markdown("\n\n".join(line for line in [*lines, "\n".join(stands)] if line))


def _stands(rows: pd.DataFrame) -> str:
    """Say which verdicts of a family would not stand after Holm's correction."""
    if not len(rows):
        return ""
    sizes = rows["records"] if "records" in rows else [0] * len(rows)
    names = [
        way(row) + (f" with {size:,} records" if size else "")
        for row, size in zip(rows.to_dict("records"), sizes, strict=True)
    ]
    text = standing(rows, names)
    return f"{text[0].lower()}{text[1:]}" if text else ""


def matrix_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the matrix, a row a source and a target."""
    if not len(found):
        return found
    rows = found.sort_values(["target", "source"], kind="stable")
    return pd.DataFrame(
        {
            "from": rows["source"].map(short),
            "to": rows["target"].map(short),
            "as it came": rows["as_is"].map("{:.3f}".format),
            "its own": rows["own"].map("{:.3f}".format),
            "difference": rows["difference"].map(signed),
            f"{LEVEL:.0%} interval": interval_texts(rows),
            "verdict": rows["verdict"].map(FALLS),
            "p (Holm)": p_texts(rows),
            "diagnoses": rows["names"].map(", ".join),
            "seeds": rows["seeds"],
        }
    )


def show_matrix(found: pd.DataFrame) -> None:
    """Show the matrix, if there is one."""
    rows = singles(found)
    if len(rows):
        written = {side: rows[side].map(short) for side in ("source", "target")}
        show(draw_matrix(rows.assign(**written)), *matrix_text(found))


def matrix_text(found: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of the matrix."""
    rows = singles(found)
    caption = (
        "Macro AUROC at the hospital of the column, of networks trained at the hospital of the row "
        "and used as they came, less that of a network of the column's own. Only diagnoses are "
        f"scored of which the row has {TAUGHT} records or more. A star: the {LEVEL:.0%} interval "
        "excludes zero. Empty: the two have patients in common, or no such diagnosis."
    )
    parts = [
        f"{short(r['source'])} to {short(r['target'])}: {signed(r['difference'])}"
        for r in rows.to_dict("records")
    ]
    return caption, f"Matrix. {'; '.join(parts)}."


def limits(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the chapter cannot tell."""
    first = study.pairs[0]
    made = [card(run.spec.source).simulated for run in results if run.spec.source]
    lines = [
        *common.limits(study, results)[1:],
        "The sources are small: the largest has some thousands of records, where Avetisyan et al. "
        "had over 500,000.",
        "A network of the target's own is trained on the three fifths that neither validate nor "
        f"test, for {first.target.updates} updates; a source's on eight tenths of the source, for "
        f"{first.source.updates}.",
        "Simulated labels have no mistakes, and the simulator's typical amplitudes and rates were "
        "set by looking at PTB-XL: a simulated source that does well on rhythms has been taught "
        "them without noise, on more records."
        if any(made) and not all(made)
        else "",
        "The best single source is the one whose network, as it came, was best on the target's "
        "validation records, which over all seeds are the whole target: that favours the single "
        "source."
        if any(JOINT in run.spec.source for run in results)
        else "",
        "Networks differ from hospital to hospital in patients, devices and habits of naming, all "
        "at once; the matrix cannot part them.",
    ]
    return common.as_list(lines)
