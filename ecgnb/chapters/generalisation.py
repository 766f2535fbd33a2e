"""Sentences and tables of the chapter on other hospitals.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters import common
from ecgnb.chapters.sources import against_scratch, main_source, short
from ecgnb.display import show
from ecgnb.hospital_charts import draw_matrix
from ecgnb.prose import joined, seeds_of
from ecgnb.study.compare import arm_means
from ecgnb.study.generalise import TAUGHT, singles
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.statistics import LEVEL, MARGIN, VERDICTS

_FALLS = {
    "harms": "falls",
    "helps": "rises",
    "equivalent": "stays",
    "undecided": "is undecided",
}


def fall_answer(found: pd.DataFrame) -> str:
    """State how far networks fall when they change hospital."""
    rows = singles(found)
    if not len(rows):
        return "No network of this study is asked at another hospital as it came."
    counts = [
        f"**{_FALLS[name]}** in {int((rows['verdict'] == name).sum())}"
        for name in ("harms", "helps", "equivalent", "undecided")
        if (rows["verdict"] == name).any()
    ]
    ordered = rows.sort_values("difference").to_dict("records")
    worst, best = ordered[0], ordered[-1]
    return (
        f"**At another hospital.** Of {len(rows)} networks that were taken to another hospital as "
        f"they came, macro AUROC against that hospital's own network {joined(counts)}; the mean "
        f"difference is {rows['difference'].mean():+.3f}, from {worst['difference']:+.3f} "
        f"({short(worst['source'])} to {short(worst['target'])}) to {best['difference']:+.3f} "
        f"({short(best['source'])} to {short(best['target'])})."
    )


def many_answer(study: Study, results: Sequence[Result], found: pd.DataFrame) -> list[str]:
    """State what the network of all other hospitals is worth, as it came and fine-tuned."""
    lines = []
    table = against_scratch(study, results)
    for target, rows in table.groupby("target", sort=False) if len(table) else []:
        source = main_source(study, str(target))
        text = f"**{short(str(target))}**, after {short(source)}"
        for row in found.to_dict("records"):
            if (row["target"], row["source"]) != (target, source):
                continue
            text += (
                f": as it came {row['as_is']:.3f}, against {row['own']:.3f} of a network of its "
                f"own records"
            )
        for arm, name in (("finetune", "fine-tuned"), ("finetune-whole", "with its head kept")):
            mine = rows[(rows["source"] == source) & (rows["arm"] == arm)]
            parts = []
            for verdict in VERDICTS:
                some = mine[mine["verdict"] == verdict]
                if len(some):
                    sizes = [f"{r.records:,} ({r.difference:+.3f})" for r in some.itertuples()]
                    word = "is undecided" if verdict == "undecided" else verdict
                    parts.append(f"**{word}** with {joined(sizes)}")
            if parts:
                text += f"; {name}, it {joined(parts)}"
        lines.append(text + " records.")
    return lines


def answer(study: Study, results: Sequence[Result], found: pd.DataFrame) -> Markdown:
    """State how far networks fall, and what those of many hospitals are worth."""
    lines = [fall_answer(found), *many_answer(study, results, found)]
    seeds = len({run.spec.seed for run in results})
    lines.append(
        f"Differences are of macro AUROC against a network from scratch ({seeds} seeds). "
        f"Verdicts rest on {LEVEL:.0%} intervals, and inside ±{MARGIN:g} a difference does not "
        f"matter. At another hospital, only diagnoses are scored of which the source has {TAUGHT} "
        "records or more."
    )
    return Markdown("\n\n".join(lines))


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
            "difference": rows["difference"].map("{:+.3f}".format),
            f"{LEVEL:.0%} interval": [f"{r.low:+.3f} to {r.high:+.3f}" for r in rows.itertuples()],
            "AUROC": rows["verdict"].map(_FALLS),
            "p (Holm)": rows["p_holm"].map("{:.3f}".format),
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
        f"{short(r['source'])} to {short(r['target'])}: {r['difference']:+.3f}"
        for r in rows.to_dict("records")
    ]
    return caption, f"Matrix. {'; '.join(parts)}."


def levels(study: Study, results: Sequence[Result], target: str) -> pd.DataFrame:
    """Average macro AUROC on one target for every way to begin, for learning curves."""
    arms = {"scratch": "", "finetune": "", "finetune-whole": ", head kept", "as-is": ", as it came"}
    known = [run for run in results if run.spec.dataset == target and run.spec.arm in arms]
    means = arm_means(study, known)
    many = main_source(study, target)
    tuned = set(means[means["arm"] == "finetune"]["source"])

    def name(source: str, arm: str) -> str:
        if not source:
            return "from scratch"
        begun = "all others" if source == many and "+" in many else short(source)
        return begun + arms[arm]

    shown = means[means["source"].isin(["", *tuned])]
    names = [name(s, a) for s, a in zip(shown["source"], shown["arm"], strict=True)]
    return shown.assign(beginning=names)


def levels_text(target: str, table: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of learning curves."""
    caption = (
        f"Macro AUROC on {short(target)} by number of its training records, with {LEVEL:.0%} "
        f"intervals ({seeds_of(table)} seeds). Level lines: networks used as they came, which have "
        "seen none of its records."
    )
    parts = [
        f"{r['beginning']} at {r['records']}: {r['mean']:.3f}"
        for r in table.to_dict("records")
        if r["arm"] != "as-is"
    ]
    came = [
        f"{r['beginning']}: {r['mean']:.3f}"
        for r in table.to_dict("records")
        if r["arm"] == "as-is"
    ]
    return caption, f"Learning curves. {'; '.join([*parts, *came])}."


def limits(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what the chapter cannot tell."""
    lines = [
        *common.limits(study, results)[1:],
        "The sources are small: the largest has some thousands of records, where Avetisyan et al. "
        "had over 500,000.",
        "A network from scratch is trained on the three fifths of the target that neither validate "
        "nor test, a source's on eight tenths of the source.",
        "Networks differ from hospital to hospital in patients, devices and habits of naming, all "
        "at once; the matrix cannot part them.",
    ]
    return common.as_list(lines)
