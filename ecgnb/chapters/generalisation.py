"""Sentences and tables of the chapter on other hospitals.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy import stats

from ecgnb.chapters import common
from ecgnb.data.catalog import card
from ecgnb.data.labels import full_name
from ecgnb.prose import joined, seeds_of
from ecgnb.study.compare import Cell, Scores, arm_means, with_tests
from ecgnb.study.generalise import TAUGHT, contrast, is_joined, reliability
from ecgnb.study.grid import Study
from ecgnb.study.plan import size_label
from ecgnb.study.result import Result
from ecgnb.study.spec import ALL
from ecgnb.study.statistics import LEVEL, MARGIN

_VERDICTS = ("helps", "harms", "equivalent", "undecided")
_FALLS = {
    "harms": "falls",
    "helps": "rises",
    "equivalent": "stays",
    "undecided": "is undecided",
}


def short(name: str) -> str:
    """Name a dataset for an axis, or several as ``all others``."""
    return card(name).short_title.replace("Simulated hospital", "Simulated")


def main_cells(study: Study, results: Sequence[Result]) -> tuple[Cell, Cell]:
    """Return the cells of the study's main source and target: all records, and the fewest."""
    target = tuned_targets(study, results)[0]
    source = _main_source(study, target)
    cells = [
        cell
        for cell in Scores(study, results).cells
        if (cell.source, cell.target) == (source, target)
    ]
    whole = next(cell for cell in cells if cell.size == ALL)
    return whole, min(cells, key=lambda cell: cell.size or np.inf)


def tuned_targets(study: Study, results: Sequence[Result]) -> list[str]:
    """Name the targets on which networks were fine-tuned, in the order of the study."""
    tuned = {run.spec.dataset for run in results if run.spec.arm == "finetune"}
    names = dict.fromkeys(pair.target.dataset for pair in study.pairs if "finetune" in pair.arms)
    return [name for name in names if name in tuned]


def named(found: pd.DataFrame) -> pd.DataFrame:
    """Write sources and targets of a matrix as they shall be read."""
    return found.assign(source=found["source"].map(short), target=found["target"].map(short))


def named_labels(found: pd.DataFrame) -> pd.DataFrame:
    """Write diagnoses as they shall be read, in the column ``name``."""
    return found.assign(name=found["label"].map(full_name))


def singles(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a matrix whose source is one dataset."""
    return found[~is_joined(found["source"])]


def fall_answer(found: pd.DataFrame) -> str:
    """State how far networks fall when they change hospital."""
    rows = singles(found)
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
    for target in dict.fromkeys(table["target"]):
        rows = table[(table["target"] == target) & (table["arm"] != "as-is")]
        source = _main_source(study, str(target))
        text = f"**{short(str(target))}**, after {short(source)}"
        came = found[(found["target"] == target) & (found["source"] == source)]
        if len(came):
            row = came.iloc[0]
            text += (
                f": as it came {row['as_is']:.3f}, against {row['own']:.3f} of a network of its "
                f"own records"
            )
        for arm, name in (("finetune", "fine-tuned"), ("finetune-whole", "with its head kept")):
            mine = rows[(rows["source"] == source) & (rows["arm"] == arm)]
            parts = []
            for verdict in _VERDICTS:
                some = mine[mine["verdict"] == verdict]
                if len(some):
                    sizes = [f"{r.records:,} ({r.difference:+.3f})" for r in some.itertuples()]
                    word = "is undecided" if verdict == "undecided" else verdict
                    parts.append(f"**{word}** with {joined(sizes)}")
            if parts:
                text += f"; {name}, it {joined(parts)}"
        lines.append(text + " records.")
    return lines


def _main_source(study: Study, target: str) -> str:
    """Return the source whose fine-tuning a target's paragraph is about: the one of most parts."""
    names = [
        pair.source.dataset
        for pair in study.pairs
        if pair.target.dataset == target and "finetune" in pair.arms
    ]
    return max(dict.fromkeys(names), key=lambda name: name.count("+"))


def against_scratch(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare every fine-tuning with training from scratch.

    Returns
    -------
    DataFrame
        One row a cell and arm: the fields of `Cell`, ``arm``, ``records``, ``first`` and ``second``
        (mean macro AUROC), and the columns of `ecgnb.study.compare.with_tests`.
    """
    scores = Scores(study, results)
    rows, found = [], []
    for cell in scores.cells:
        for arm in ("finetune", "finetune-whole"):
            runs, plain = scores.of(cell, arm), scores.of(cell, "scratch")
            difference = scores.contrast([(1.0, runs), (-1.0, plain)]) if cell.source else None
            if difference is None:
                continue
            seeds = runs.keys() & plain.keys()
            rows.append(
                {
                    **asdict(cell),
                    "arm": arm,
                    "records": round(np.mean([runs[s].facts["train_records"] for s in seeds])),
                    "first": np.mean([runs[seed].facts["auroc"] for seed in seeds]),
                    "second": np.mean([plain[seed].facts["auroc"] for seed in seeds]),
                }
            )
            found.append(difference)
    return with_tests(pd.DataFrame(rows), found)


def against_single(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare fine-tuning from many hospitals with fine-tuning from a single one.

    Returns
    -------
    DataFrame
        One row a target and size: ``target``, ``many`` and ``single`` (sources), ``size``,
        ``records``, and the columns of `ecgnb.study.compare.with_tests`.
    """
    scores = Scores(study, results)
    tuned = [cell for cell in scores.cells if cell.source and scores.of(cell, "finetune")]
    rows, found = [], []
    for many in tuned:
        for single in tuned:
            alike = (many.target, many.size) == (single.target, single.size)
            if not alike or "+" not in many.source or "+" in single.source:
                continue
            difference = contrast(study, results, (many, "finetune"), (single, "finetune"))
            if difference:
                runs = scores.of(many, "finetune").values()
                records = round(np.mean([run.facts["train_records"] for run in runs]))
                names = {"target": many.target, "many": many.source, "single": single.source}
                rows.append({**names, "size": many.size, "records": records})
                found.append(difference)
    return with_tests(pd.DataFrame(rows), found)


def single_answer(study: Study, table: pd.DataFrame, found: pd.DataFrame) -> Markdown:
    """State whether many hospitals are a better source than the best of them alone."""
    if not len(table):
        return Markdown("This study has one source only.")
    lines = []
    for target, rows in table.groupby("target", sort=False):
        single = rows["single"].iloc[0]
        asked = singles(found)
        asked = asked[asked["target"] == target].sort_values("validation", ascending=False)
        ranks = [
            f"{short(row['source'])} {row['validation']:.3f}" for row in asked.to_dict("records")
        ]
        parts = [
            f"{row['difference']:+.3f} at {row['records']:,} (*{row['verdict']}*)"
            for row in rows.to_dict("records")
        ]
        text = (
            f"**{short(str(target))}**: {short(rows['many'].iloc[0])} less {short(str(single))} "
            f"alone, both fine-tuned: {joined(parts)}."
        )
        if ranks:
            text += f" On its validation records, the single sources came as {joined(ranks)}."
        lines.append(text)
    return common.as_list(lines)


def answer(study: Study, results: Sequence[Result], found: pd.DataFrame) -> Markdown:
    """State how far networks fall, and what those of many hospitals are worth."""
    lines = [fall_answer(found), *many_answer(study, results, found)]
    lines.append(
        f"Differences are of macro AUROC against a network from scratch ({seeds_of(found)} seeds). "
        f"Verdicts rest on {LEVEL:.0%} intervals, and inside ±{MARGIN:g} a difference does not "
        f"matter. At another hospital, only diagnoses are scored of which the source has {TAUGHT} "
        "records or more."
    )
    return Markdown("\n\n".join(lines))


def matrix_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the matrix, a row a source and a target."""
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
    means = arm_means(study, [run for run in results if run.spec.dataset == target])
    many = _main_source(study, target)
    tuned = set(means[means["arm"] == "finetune"]["source"])

    def name(source: str, arm: str) -> str:
        if not source:
            return "from scratch"
        begun = "all others" if source == many and "+" in many else short(source)
        kind = {"finetune": "", "finetune-whole": ", head kept", "as-is": ", as it came"}[arm]
        return begun + kind

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


def scratch_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the comparisons of fine-tuning with training from scratch."""
    rows = found.sort_values(["target", "source", "arm", "records"], kind="stable")
    heads = {"finetune": "new", "finetune-whole": "kept"}
    return pd.DataFrame(
        {
            "from": rows["source"].map(short),
            "to": rows["target"].map(short),
            "head": rows["arm"].map(heads),
            "records": rows["records"].map("{:,}".format),
            "difference": rows["difference"].map("{:+.3f}".format),
            f"{LEVEL:.0%} interval": [f"{r.low:+.3f} to {r.high:+.3f}" for r in rows.itertuples()],
            "verdict": rows["verdict"],
            "p (Holm)": rows["p_holm"].map("{:.3f}".format),
            "fine-tuned": rows["first"].map("{:.3f}".format),
            "from scratch": rows["second"].map("{:.3f}".format),
            "seeds": rows["seeds"],
        }
    )


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
    counts = {
        name: tuned[tuned["verdict"] == name]["label"].map(full_name).tolist() for name in _VERDICTS
    }
    texts = [
        f"{name} {joined(labels)}" if name != "undecided" else f"is undecided for {joined(labels)}"
        for name, labels in counts.items()
        if labels
    ]
    lines = [f"With {size_label(size)} training records, fine-tuning {'; it '.join(texts)}."]
    both = tuned.merge(came[["label", "difference"]], on="label", suffixes=("", "_came"))
    if len(both) > 3:
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
    means = arm_means(study, [r for r in results if r.spec.dataset == cell.target], "ece")
    means = means[means["source"].isin(["", cell.source])]
    names = {
        "scratch": "from scratch",
        "as-is": "as it came",
        "finetune": "fine-tuned",
        "finetune-whole": "fine-tuned, head kept",
    }
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
