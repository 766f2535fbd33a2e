"""Sentences and tables of the chapter on other hospitals.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters import common
from ecgnb.chapters.sources import (
    against_scratch,
    against_single,
    main_source,
    short,
    single_summary,
)
from ecgnb.data.catalog import JOINT, card
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
    lines = []
    for kind, some in rows.groupby([_kind(r) for r in rows.to_dict("records")], sort=False):
        counts = [
            f"**{_FALLS[name]}** in {int((some['verdict'] == name).sum())}"
            for name in ("harms", "helps", "equivalent", "undecided")
            if (some["verdict"] == name).any()
        ]
        ordered = some.sort_values("difference").to_dict("records")
        ends = [ordered[0], ordered[-1]][: len(ordered)]
        span = [
            f"{row['difference']:+.3f} ({short(row['source'])} to {short(row['target'])})"
            for row in ends
        ]
        lines.append(
            f"- {kind}: of {len(some)}, it {joined(counts)}; the mean difference is "
            f"{some['difference'].mean():+.3f}, from {' to '.join(span)}."
        )
    return (
        "**At another hospital**, as the network came, macro AUROC against a network of that "
        "hospital's own:\n\n" + "\n".join(lines)
    )


def _by_target(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for target in dict.fromkeys(table["target"]) if len(table) else ():
        yield str(target), table[table["target"] == target].sort_values("records")


def _kind(row: Mapping[Any, Any]) -> str:
    """Say of what kind a source and a target are: what differs between them besides the place."""
    source, target = card(row["source"]), card(row["target"])
    if source.simulated or target.simulated:
        names = ["simulated" if one.simulated else "real" for one in (source, target)]
        return f"from {names[0]} to {names[1]} ECGs"
    if "z-score" in (source.amplitude, target.amplitude):
        return "between real hospitals, one of them with standardised leads, amplitude lost"
    return "between real hospitals"


def many_answer(study: Study, results: Sequence[Result], found: pd.DataFrame) -> list[str]:
    """State what the network of all other hospitals is worth, as it came and fine-tuned."""
    lines = []
    table = against_scratch(study, results)
    for target, rows in _by_target(table):
        source = main_source(results, target)
        text = f"**{short(target)}**, after {short(source)}"
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
    many = single_summary(against_single(study, results))
    lines = [fall_answer(found), *many_answer(study, results, found), *([many] if many else [])]
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
    many = main_source(results, target)
    tuned = set(means[means["arm"] == "finetune"]["source"])

    def name(source: str, arm: str) -> str:
        if not source:
            return "from scratch"
        begun = "all others" if source == many and JOINT in many else short(source)
        return begun + arms[arm]

    shown = means[means["source"].isin(["", *tuned])]
    names = [name(s, a) for s, a in zip(shown["source"], shown["arm"], strict=True)]
    return shown.assign(beginning=names)


def levels_text(target: str, table: pd.DataFrame) -> tuple[str, str]:
    """Compute the caption and the alternative text of learning curves."""
    caption = (
        f"Macro AUROC on {short(target)} by number of its training records, with {LEVEL:.0%} "
        f"intervals ({seeds_of(table)} seeds), over all diagnoses that can be scored. Level lines: "
        "networks used as they came, which have seen none of its records."
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
        "Networks differ from hospital to hospital in patients, devices and habits of naming, all "
        "at once; the matrix cannot part them.",
    ]
    return common.as_list(lines)
