"""One table of runs; pairs of its rows, seed by seed; and their summary, with a verdict.

Arms, sources, networks, hospitals and diagnoses are compared by other rows and other groups.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecgnb.analysis import statistics
from ecgnb.analysis.bootstrap import REPLICATES
from ecgnb.analysis.bootstrap import score_run as _scored
from ecgnb.analysis.statistics import LEVEL, MARGIN, Difference, Fold, holm
from ecgnb.errors import UserError
from ecgnb.models import HEADS, MODELS
from ecgnb.study.spec import ALL, RunSpec, Study
from ecgnb.study.store import Result

# Columns that say what is learnt, and from how much; and where the weights come from, empty where
# they are random.
TASK = ["target", "label_set", "min_positives", "size", "updates"]
NET = ["model", "head"]
FROM = ["source", "source_label_set"]
CELL = [*FROM, *TASK, *NET]


def runs_table(
    study: Study,
    results: Iterable[Result],
    metric: str | None = "auroc",
    only: Collection[str] = (),
) -> pd.DataFrame:
    """Return one row a run, in a reader's order: pairs as they come, head, network, size, seed.

    Parameters
    ----------
    study : Study
    results : iterable of Result
        Final runs.
    metric : str
        ``auroc`` or ``f1``, macro averages over the classes that can be scored, F1 at the
        thresholds that were chosen on validation; ``ece``, the expected calibration error; or
        None, which scores nothing and is quick.
    only : collection of str
        Score no other classes than these; empty for all.

    Returns
    -------
    DataFrame
        The fields of `RunSpec`; ``target``, its dataset; ``fold``, the fifth that it tests on;
        ``records``, the training records that its size stands for, the mean over all fifths;
        ``score``, and ``boot``, the same on 1,000 bootstrap test sets, both NaN if no class can be
        scored; ``run``, the `Result`.
    """
    rows = []
    for run in results:
        scored = _scored(study, run, metric, tuple(only)) if metric else None
        score, boot = scored or (np.nan, _UNSCORED)
        facts = {"target": run.spec.dataset, "fold": run.spec.seed % FOLDS}
        facts["records"] = run.facts["train_records"]
        rows.append({**vars(run.spec), **facts, "score": score, "boot": boot, "run": run})
    columns = [*RunSpec.__dataclass_fields__, "target", "fold", "records", "score", "boot", "run"]
    table = pd.DataFrame(rows, columns=columns)
    if not rows:
        return table.astype({"score": float, "records": int, "fold": int, "seed": int})
    sizes = table.drop_duplicates([*_SIZE, "fold"], keep="last").groupby(_SIZE)["records"].mean()
    table["records"] = (
        sizes.loc[list(table[_SIZE].itertuples(index=False))].round().astype(int).array
    )
    pairs = table.groupby(["target", "source"], sort=False).ngroup()
    order = table["head"].map(HEADS.index), table["model"].map(list(MODELS).index)
    keys = [pairs, *order, table["size"].replace(ALL, np.iinfo(int).max), table["seed"]]
    return table.iloc[np.lexsort(keys[::-1])].reset_index(drop=True)


FOLDS = 5  # the seeds s and s + 5 test on the same patients
_SIZE = ["target", "label_set", "min_positives", "size"]
_UNSCORED = np.full(REPLICATES, np.nan)


def log_error(runs: pd.DataFrame) -> pd.DataFrame:
    """Put scores on the scale of -log(1 - score), where a gain is the log ratio of two errors.

    A poor network has more room: of two equal gains in AUROC, that of the better network halves
    more of its error. Give `summarise` a margin for this scale, such as 0.1. Errors under 0.0001
    count as that.
    """
    return runs.assign(
        **{name: [-np.log(np.maximum(1 - one, 1e-4)) for one in runs[name]] for name in _VALUES}
    )


_VALUES = ["score", "boot"]


def pair(
    first: pd.DataFrame, second: pd.DataFrame, on: Collection[str] = (*TASK, *NET)
) -> pd.DataFrame:
    """Take the differences of scores, seed by seed, of rows that agree in some columns.

    Parameters
    ----------
    first, second : DataFrame
        Rows of `runs_table`, or of this function: a difference of differences.
    on : collection of str
        With several rows of `second` to one of `first`, each makes a row.

    Returns
    -------
    DataFrame
        The columns of `first`, with the differences as ``score`` and ``boot``; ``first`` and
        ``second``, the two scores; and the columns of `second` that are not in `on`, as
        ``..._other``.
    """
    keys = [*on, "seed"]
    told = "first|second|.*_other"
    sides = [one.loc[:, ~one.columns.str.fullmatch(told)] for one in (first, second)]
    both = sides[0].merge(sides[1], on=keys, suffixes=("", "_other"))
    for one, other in zip(both["run"], both["run_other"], strict=True):
        if one.records != other.records or one.classes != other.classes:
            raise ValueError(f"runs {one.key} and {other.key} were not tested alike")
    return both.assign(
        first=both["score"],
        second=both["score_other"],
        score=both["score"] - both["score_other"],
        boot=both["boot"] - both["boot_other"],
    )


def average(rows: pd.DataFrame, over: Collection[str], by: Collection[str]) -> pd.DataFrame:
    """Average scores, seed by seed, over what differs in some columns, such as ``model``.

    Only seeds count that everything has over which a group is averaged; the other columns are
    those of its first row.
    """
    kept = []
    for _, group in rows.groupby(list(by), sort=False):
        wanted = len(group[list(over)].drop_duplicates())
        for _, seed in group.groupby("seed", sort=False):
            if len(seed) == wanted:
                means = {name: [seed[name].sum() / wanted] for name in _VALUES}
                kept.append(seed.head(1).assign(**means))
    return pd.concat(kept, ignore_index=True) if kept else rows.head(0)


def full_rounds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return as many seeds of each fold that there is, in their order.

    Of a round that has begun, nothing is taken until it is finished, or the folds would weigh
    unequally.
    """
    rows = rows.sort_values("seed")
    return rows[rows.groupby("fold").cumcount() < rows["fold"].value_counts().min()]


def summarise(
    rows: pd.DataFrame, by: Collection[str] = CELL, margin: float = MARGIN
) -> pd.DataFrame:
    """Average scores or differences of each group over full rounds of the folds.

    A group in which a run cannot be scored is left out; see `full_rounds`.

    Parameters
    ----------
    rows : DataFrame
        From `runs_table` or `pair`.
    by : collection of str
        Columns that tell the groups apart. All rows of the result are one family of comparisons.
    margin : float
        Differences smaller than this do not matter.

    Returns
    -------
    DataFrame
        One row a group, in the order of `rows`: `by`; the means of ``first``, ``second`` and
        ``records``; ``tested`` (different test records); ``mean``, ``low``, ``high``, ``verdict``,
        ``seeds``, ``seed_deviation``, ``patient_deviation``; ``p`` and ``equivalence_p``, and over
        the family, by Holm's method, ``p_holm`` and ``equivalence_p_holm``, and by that of
        Benjamini & Hochberg, ``p_bh``; ``holds``, whether the verdict stands after Holm's;
        ``power`` to find a difference of twice the margin, and ``seeds_needed`` for that.

    Raises UserError if a group has a seed twice.
    """
    by = list(by)
    means = [name for name in ("first", "second", "records") if name in rows and name not in by]
    told, found = [], []
    for name, group in rows.groupby(by, sort=False, dropna=False):
        if group["seed"].duplicated().any():
            names = group.columns[~group.columns.str.match("boot|run|score|first|second")]
            differ = [name for name in names.drop(by) if group[name].nunique() > 1]
            raise UserError(
                f"A group, {', '.join(map(str, name))}, has a seed twice; add to `by`, or select, "
                f"what differs: {', '.join(differ)}."
            )
        group = full_rounds(group)
        if group["score"].isna().any():
            continue
        folds = [one for _, one in group.groupby("fold")]
        tested = sum(len(one["run"].iloc[0].records) for one in folds)
        told.append([*name, *group[means].mean(), tested])
        values = [Fold(one["score"].to_numpy(), np.stack(list(one["boot"]))) for one in folds]
        found.append(statistics.paired_difference(values, margin))
    table = pd.DataFrame(told, columns=[*by, *means, "tested"])
    if "records" in means:
        table["records"] = table["records"].round().astype(int)
    return table.assign(**corrected(found))


def corrected(found: Sequence[Difference]) -> dict[str, Any]:
    """Return the columns of a family of comparisons, see `summarise`; corrected for each other."""
    plain = ("mean", "low", "high", "verdict", "seeds", "seed_deviation", "patient_deviation", "p")
    told: dict[str, Any] = {name: [getattr(one, name) for one in found] for name in plain}
    told["p"] = np.array(told["p"], dtype=float)
    told |= {"p_holm": holm(told["p"]), "p_bh": holm(told["p"], "fdr_bh")}
    told["equivalence_p"] = np.array([one.equivalence_p for one in found], dtype=float)
    told["equivalence_p_holm"] = holm(told["equivalence_p"])
    verdicts = np.array(told["verdict"], dtype=str)
    different = (verdicts == "undecided") | (told["p_holm"] < 1 - LEVEL)
    equivalent = told["equivalence_p_holm"] < (1 - LEVEL) / 2
    told["holds"] = np.where(verdicts == "equivalent", equivalent, different)
    told["power"] = np.array([statistics.power(one, one.seeds) for one in found], dtype=float)
    told["seeds_needed"] = np.array([statistics.seeds_needed(one) for one in found], dtype=float)
    return told
