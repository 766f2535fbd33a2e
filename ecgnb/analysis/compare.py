"""Comparing the arms of a study: from the predictions of its runs to differences and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ecgnb.analysis.bootstrap import REPLICATES, Floats
from ecgnb.analysis.scores import score_run as _scored
from ecgnb.analysis.statistics import (
    LEVEL,
    MARGIN,
    Difference,
    Fold,
    holm,
    paired_difference,
    power,
    seeds_needed,
)
from ecgnb.errors import UserError
from ecgnb.models import HEADS, MODELS
from ecgnb.study.spec import ALL, RunSpec, Study
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS

_FIFTHS = 5  # the seeds s and s + 5 test on the same patients


@dataclass(frozen=True)
class Cell:
    """What the runs of one row of a comparison have in common."""

    source: str
    target: str
    label_set: str
    min_positives: int
    model: str
    head: str
    size: int
    budget: int  # updates on the target
    taught: str  # the label set of the source


def cell_of(spec: RunSpec) -> Cell:
    """Return the cell of a run."""
    return Cell(
        source=spec.source,
        target=spec.dataset,
        label_set=spec.label_set,
        min_positives=spec.min_positives,
        model=spec.model,
        head=spec.head,
        size=spec.size,
        budget=spec.updates,
        taught=spec.source_label_set,
    )


def _size_of(cell: Cell) -> tuple[object, ...]:
    return cell.target, cell.label_set, cell.min_positives, cell.size


def _in_order(cells: Collection[Cell]) -> list[Cell]:
    """Order cells as a reader meets them: pairs as they come, then by head, network and size."""
    pairs = list(dict.fromkeys((cell.target, cell.source) for cell in cells))
    return sorted(
        cells,
        key=lambda cell: (
            pairs.index((cell.target, cell.source)),
            HEADS.index(cell.head),
            list(MODELS).index(cell.model),
            cell.size == ALL,
            cell.size,
        ),
    )


class Scores:
    """The test scores of the runs of a study: by cell, arm and seed; see `runs_table`."""

    def __init__(
        self,
        study: Study,
        results: Sequence[Result],
        metric: str = "auroc",
        only: tuple[str, ...] = (),
    ) -> None:
        self.study = study
        self.metric = metric
        self.only = only
        self.runs = {
            (cell_of(result.spec), result.spec.arm, result.spec.seed): result for result in results
        }
        self.cells = _in_order(dict.fromkeys(cell_of(result.spec) for result in results))
        self._records: dict[tuple[object, ...], dict[int, int]] = {}
        for result in results:
            fifths = self._records.setdefault(_size_of(cell_of(result.spec)), {})
            fifths[result.spec.seed % _FIFTHS] = result.facts["train_records"]

    def of(self, cell: Cell, arm: str) -> dict[int, Result]:
        """Return the runs of an arm by seed; one that starts at random stands at any source."""
        side = cell if ARMS[arm].pretrained else replace(cell, source="", taught="")
        seeds = sorted({seed for _, _, seed in self.runs})
        return {
            seed: self.runs[side, arm, seed] for seed in seeds if (side, arm, seed) in self.runs
        }

    def records(self, cell: Cell) -> int:
        """Return how many training records the size of a cell stands for, the mean over fifths.

        Fifths are not quite equally large; so that a size has one number, it is that of all runs,
        also where a network was not tested on all fifths.
        """
        return round(np.mean(list(self._records[_size_of(cell)].values())))

    def shared(self, *arms: Mapping[int, Result]) -> list[list[int]]:
        """Return the seeds that all of some arms have, in a list for each fifth of the target.

        Only full rounds count, as many seeds in each fifth: of a round that has begun, nothing is
        taken until it is finished, or the fifths would weigh unequally.
        """
        seeds = sorted(set.intersection(*(set(runs) for runs in arms)))
        fifths = [[seed for seed in seeds if seed % _FIFTHS == fifth] for fifth in range(_FIFTHS)]
        rounds = max(min(map(len, fifths)), 1)
        return [fifth[:rounds] for fifth in fifths if fifth]

    def contrast(self, terms: Sequence[tuple[float, Mapping[int, Result]]]) -> Difference | None:
        """Average a weighted sum of test scores over the seeds that all its terms share.

        Parameters
        ----------
        terms : sequence of (float, mapping)
            Weight, and a run for each seed. Runs of one seed were tested on the same records.

        Returns
        -------
        Difference or None
            None if no seed is in all terms, or nothing can be scored in one of the fifths.
        """
        fifths = self.shared(*(runs for _, runs in terms))
        folds = [
            self._fold([[(weight, runs[seed]) for weight, runs in terms] for seed in fifth])
            for fifth in fifths
        ]
        found = [fold for fold in folds if fold]
        return paired_difference(found) if found and len(found) == len(folds) else None

    def score(self, run: Result) -> tuple[float, Floats] | None:
        """Return the test score of a run, and the same on test sets drawn again.

        Returns
        -------
        (float, ndarray of float, shape (replicates,)) or None
            The drawn patients are the same for all runs that were tested on the same records. None
            if no class can be scored.
        """
        return _scored(self.study, run, self.metric, self.only)

    def _fold(self, rows: Sequence[Sequence[tuple[float, Result]]]) -> Fold | None:
        first = rows[0][0][1]
        differences, replicates = np.zeros(len(rows)), np.zeros((len(rows), REPLICATES))
        for place, row in enumerate(rows):
            for weight, run in row:
                if run.records != first.records or run.classes != first.classes:
                    raise ValueError(f"runs {first.key} and {run.key} were not tested alike")
                score = self.score(run)
                if score is None:
                    return None
                differences[place] += weight * score[0]
                replicates[place] += weight * score[1]
        return Fold(differences, replicates)


TASK = ["target", "label_set", "min_positives", "size", "updates"]
"""Columns that say what is learnt, and from how much."""

NET = ["model", "head"]
FROM = ["source", "source_label_set"]
"""Columns that say where the weights come from; empty where they are random."""

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
    sides = [
        one.loc[:, ~one.columns.str.endswith("_other")].drop(
            columns=["first", "second"], errors="ignore"
        )
        for one in (first, second)
    ]
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
    """Return as many seeds of each fold, in their order.

    Of a round that has begun, nothing is taken until it is finished, or the folds would weigh
    unequally.
    """
    rows = rows.sort_values("seed")
    rounds = rows["fold"].value_counts().reindex(range(FOLDS), fill_value=0).min()
    return rows[rows.groupby("fold").cumcount() < max(rounds, 1)]


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

    Raises
    ------
    UserError
        If a group has a seed twice.
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
        found.append(paired_difference(values, margin))
    table = pd.DataFrame(told, columns=[*by, *means, "tested"])
    if "records" in means:
        table["records"] = table["records"].round().astype(int)
    return table.assign(**_tests(found))


def _tests(found: Sequence[Difference]) -> dict[str, Any]:
    """Return the columns that a family of comparisons adds."""
    plain = ("mean", "low", "high", "verdict", "seeds", "seed_deviation", "patient_deviation", "p")
    told: dict[str, Any] = {name: [getattr(one, name) for one in found] for name in plain}
    told["p"] = np.array(told["p"], dtype=float)
    told |= {"p_holm": holm(told["p"]), "p_bh": holm(told["p"], "fdr_bh")}
    told["equivalence_p"] = np.array([one.equivalence_p for one in found], dtype=float)
    told["equivalence_p_holm"] = holm(told["equivalence_p"])
    corrected = zip(told["verdict"], told["p_holm"], told["equivalence_p_holm"], strict=True)
    told["holds"] = np.array([_holds(*one) for one in corrected], dtype=bool)
    told["power"] = np.array([power(one, one.seeds) for one in found], dtype=float)
    told["seeds_needed"] = np.array([seeds_needed(one) for one in found], dtype=float)
    return told


def _holds(verdict: str, p: float, equivalence_p: float) -> bool:
    alpha = 1 - LEVEL
    if verdict == "equivalent":
        return equivalence_p < alpha / 2
    return verdict == "undecided" or p < alpha


# What follows has the columns that the chapters know, until they make their tables themselves.


def _known(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    names = {"source_label_set": "taught", "updates": "budget", "mean": "difference"}
    columns = (*Cell.__dataclass_fields__, *columns, *_TESTED)
    return table.rename(columns=names)[list(columns)]


_TESTED = ["difference", "low", "high", "verdict", "seeds", "seed_deviation", "patient_deviation"]
_TESTED += ["p", "p_holm", "equivalence_p", "equivalence_p_holm", "holds", "power", "seeds_needed"]


def arm_means(
    study: Study, results: Sequence[Result], metric: str = "auroc", only: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Average a test score of every arm in every cell, with its interval."""
    names = {"source_label_set": "taught", "updates": "budget"}
    columns = [*Cell.__dataclass_fields__, "arm", "records", "mean", "low", "high", "seeds"]
    means = summarise(runs_table(study, results, metric, only), [*CELL, "arm"])
    return means.rename(columns=names)[columns]


def compare_arms(
    study: Study,
    results: Sequence[Result],
    first: str = "finetune",
    second: str = "scratch",
    metric: str = "auroc",
) -> pd.DataFrame:
    """Compare two arms in every cell of a study that has both."""
    runs = runs_table(study, [run for run in results if run.spec.arm in (first, second)], metric)
    one, other = runs[runs["arm"] == first], runs[runs["arm"] == second]
    pretrained = [ARMS[arm].pretrained for arm in (first, second)]
    paired = pair(one, other, [*TASK, *NET, *(FROM if all(pretrained) else [])])
    if pretrained == [False, True]:
        paired = paired.assign(**{name: paired[f"{name}_other"] for name in FROM})
    paired["classes"] = [run.facts["classes"] for run in paired["run"]]
    table = summarise(paired)
    fewest = paired.groupby(CELL)["classes"].min().rename("classes").reset_index()
    table = table.merge(fewest, on=CELL)
    return _known(table, "records", "first", "second", "tested", "classes")


def with_tests(rows: pd.DataFrame, found: Sequence[Difference]) -> pd.DataFrame:
    """Add to each row its difference, and what a family of so many comparisons leaves of it."""
    told = _tests(found)
    return rows.assign(difference=told.pop("mean"), **told)


def compare_sources(
    study: Study, results: Sequence[Result], beside: Callable[[str, str], bool]
) -> pd.DataFrame:
    """Compare networks fine-tuned from one source with those from another, on the same target."""
    runs = runs_table(study, [run for run in results if run.spec.arm == "finetune"])
    paired = pair(runs, runs)
    wanted = [
        beside(*names) for names in zip(paired["source"], paired["source_other"], strict=True)
    ]
    table = summarise(paired[np.array(wanted, bool)], [*CELL, "source_other"])
    return _known(table.rename(columns={"source_other": "other"}), "other", "records")


_NETWORKS = ["model", "head", "size", "other_model", "other_head"]


def compare_gains(
    study: Study, results: Sequence[Result], pairs: Iterable[tuple[Cell, Cell]]
) -> pd.DataFrame:
    """Compare the gains from fine-tuning of two cells, to see whether one profits more."""
    scores = Scores(study, results)
    rows, found = [], []
    for cell, other in pairs:
        difference = scores.contrast([*_gains(scores, cell), *_gains(scores, other, -1.0)])
        if difference is not None:
            records = scores.records(cell)
            rows.append((cell.model, cell.head, cell.size, other.model, other.head, records))
            found.append(difference)
    return with_tests(pd.DataFrame(rows, columns=[*_NETWORKS, "records"]), found)


def compare_families(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare the mean gain of the convolutional networks with that of the recurrent ones.

    With the pooled head, so that both families throw away next to nothing at transfer. A network
    counts at a size where no other was tested on more fifths of the patients.
    """
    runs = runs_table(study, [run for run in results if run.spec.head == "pooled"])
    gains = pair(runs[runs["arm"] == "finetune"], runs[runs["arm"] == "scratch"])
    folds = gains.groupby(["size", "model"])["fold"].transform("nunique")
    gains = gains[folds == folds.groupby(gains["size"]).transform("max")]
    family = gains["model"].map(lambda name: MODELS[name].family)
    sides = [gains[family == name] for name in ("CNN", "RNN")]
    first, second = (average(one, ["model"], ["size"]) for one in sides)
    table = summarise(pair(first, second, ["size"]), ["size"])
    for name, side in zip(("networks", "others"), sides, strict=True):
        models = {size: tuple(one["model"].unique()) for size, one in side.groupby("size")}
        table[name] = table["size"].map(models)
    return table.rename(columns={"mean": "difference"})[
        ["size", "records", "networks", "others", *_TESTED]
    ]


def compare_across(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare every network from scratch with every other one fine-tuned, on the same records."""
    runs = runs_table(study, [run for run in results if run.spec.arm in ("finetune", "scratch")])
    paired = pair(runs[runs["arm"] == "scratch"], runs[runs["arm"] == "finetune"], TASK)
    others = [f"{name}_other" for name in FROM]
    table = summarise(
        paired[paired["model"] != paired["model_other"]],
        [*CELL, *others, "model_other", "head_other"],
    )
    names = {"model_other": "other_model", "head_other": "other_head"}
    return _known(table.rename(columns=names), "other_model", "other_head")[[*_NETWORKS, *_TESTED]]


def _gains(
    scores: Scores, cell: Cell, weight: float = 1.0
) -> list[tuple[float, dict[int, Result]]]:
    return [(weight, scores.of(cell, "finetune")), (-weight, scores.of(cell, "scratch"))]
