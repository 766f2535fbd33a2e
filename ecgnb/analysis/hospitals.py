"""How hospitals differ: whether features or labels tell them apart, what their classes mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import numpy as np
import pandas as pd

from ecgnb.analysis.compare import CELL, Cell, Scores, pair, runs_table, summarise
from ecgnb.analysis.statistics import Difference
from ecgnb.data.catalog import JOINT, card
from ecgnb.data.labels import label_set as label_set_of
from ecgnb.data.labels import meanings
from ecgnb.data.splits import source_split
from ecgnb.study.data import missing_datasets, read_labels, read_table
from ecgnb.study.spec import ALL, RunSpec, Study
from ecgnb.study.store import Result
from ecgnb.training.metrics import CALIBRATION_BINS, eligible, tell_apart

TAUGHT = 20
"""A source has taught a diagnosis if it has so many records of it."""

BEGINNINGS = ("scratch", "as-is", "finetune", "finetune-whole")
"""The arms that a hospital has to choose from."""


def taught(study: Study, source: str, label_set: str) -> tuple[str, ...]:
    """Name the diagnoses that a source has taught."""
    counts = labels_of(study, source, label_set).sum()
    return tuple(counts.index[counts >= TAUGHT])


def taught_by_all(study: Study, came: Iterable[RunSpec]) -> tuple[str, ...]:
    """Name the diagnoses that all sources of networks which are used as they came have taught."""
    sources = sorted({(spec.source, spec.source_label_set) for spec in came})
    sets = [set(taught(study, *source)) for source in sources]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


@lru_cache(maxsize=32)  # asked for again with every run
def labels_of(study: Study, dataset: str, label_set: str) -> pd.DataFrame:
    """Return the labels of a dataset, a row a record; all callers get the same table."""
    table = read_table(study, dataset).set_index("record", drop=False)
    return read_labels(table, dataset, label_set, 0)


def matrix(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare networks at another hospital, as they came, with that hospital's own.

    Only diagnoses that the source has taught are scored, for both alike.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.summarise`; ``first`` is the network as it came; with ``names``
        (of the classes) and ``validation`` (its macro AUROC on the target's validation records).
    """
    whole = [run for run in results if run.spec.size == ALL]
    own = [run for run in whole if run.spec.arm == "scratch"]
    came: dict[tuple[str, str], list[Result]] = {}
    for run in whole:
        if run.spec.arm == "as-is":
            came.setdefault((run.spec.source, run.spec.source_label_set), []).append(run)
    known = {source: taught(study, *source) for source in came}
    paired = [
        pair(
            runs_table(study, asked, only=known[source]), runs_table(study, own, only=known[source])
        )
        for source, asked in came.items()
        if known[source]
    ]
    if not paired:
        return summarise(pair(runs_table(study, []), runs_table(study, [])))
    rows = pd.concat(paired, ignore_index=True)
    rows["validation"] = [run.facts["validation_auroc"] for run in rows["run"]]
    cells = rows.groupby(CELL)
    table = summarise(rows).merge(cells["validation"].mean().reset_index(), on=CELL)
    firsts = {name: one["run"].iloc[0] for name, one in cells}
    keys = table[CELL].itertuples(index=False, name=None)
    names = pd.Series([_scored(study, firsts[one], known[one[:2]]) for one in keys], dtype=object)
    table = table.assign(as_is=table["first"], own=table["second"], difference=table["mean"])
    return table.assign(names=names)


def _scored(study: Study, run: Result, known: tuple[str, ...]) -> tuple[str, ...]:
    """Name the classes of a run that are scored."""
    truth = _truth(study, run)
    use = eligible(truth.to_numpy(), run.spec.min_test_positives) & np.isin(run.classes, known)
    return tuple(np.array(run.classes)[use])


def _truth(study: Study, run: Result) -> pd.DataFrame:
    labels = labels_of(study, run.spec.dataset, run.spec.label_set)
    return labels.loc[list(run.records), list(run.classes)]


def singles(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a matrix whose source is one dataset."""
    return found[~found["source"].str.contains(JOINT, regex=False)] if len(found) else found


def beginnings(
    study: Study,
    results: Sequence[Result],
    target: str,
    sources: Iterable[str],
    metric: str = "auroc",
) -> pd.DataFrame:
    """Average a test score of every way to begin on one target, over the same diagnoses for all.

    Where networks are used as they came, these are the diagnoses that all their sources have
    taught; else, all that can be scored.

    Parameters
    ----------
    study, results, metric
        See `ecgnb.analysis.compare.runs_table`.
    target : str
    sources : iterable of str
        Those of which networks are taken.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.summarise`; with ``whole``, whether all records are trained on.
    """
    begun = {"", *sources}
    chosen = [
        run
        for run in results
        if run.spec.dataset == target and run.spec.source in begun and run.spec.arm in BEGINNINGS
    ]
    known = taught_by_all(study, [run.spec for run in chosen if run.spec.arm == "as-is"])
    if not known:
        chosen = [run for run in chosen if run.spec.arm != "as-is"]
    means = summarise(runs_table(study, chosen, metric, known), [*CELL, "arm"])
    return means.assign(whole=means["size"] == ALL)


def reached(rows: pd.DataFrame, level: float) -> tuple[int, int | None]:
    """Find between which numbers of records a mean reaches a level.

    Parameters
    ----------
    rows : DataFrame
        With ``records`` and ``mean``.
    level : float

    Returns
    -------
    (int, int or None)
        The last number below it, 0 if there is none, and the first at which it is reached.
    """
    below = 0
    for row in rows.sort_values("records").to_dict("records"):
        if row["mean"] >= level:
            return below, row["records"]
        below = row["records"]
    return below, None


def contrast(
    study: Study,
    results: Sequence[Result],
    first: tuple[Cell, str],
    second: tuple[Cell, str],
    metric: str = "auroc",
    only: tuple[str, ...] = (),
) -> Difference | None:
    """Compare two arms, each of a cell of its own, on the same target.

    Parameters
    ----------
    study : Study
    results : sequence of Result
    first, second : (Cell, str)
        A cell and an arm; the difference is the first less the second.
    metric, only
        See `ecgnb.analysis.compare.Scores`.
    """
    scores = Scores(study, results, metric, only)
    return scores.contrast([(1.0, scores.of(*first)), (-1.0, scores.of(*second))])


def diagnoses(
    study: Study, results: Sequence[Result], cell: Cell, first: str, second: str
) -> pd.DataFrame:
    """Compare two arms of a cell; see `by_diagnosis`."""
    scores = Scores(study, results)
    sides = (list(scores.of(cell, arm).values()) for arm in (first, second))
    return by_diagnosis(study, *sides).rename(columns={"mean": "difference"})


def by_diagnosis(study: Study, first: Sequence[Result], second: Sequence[Result]) -> pd.DataFrame:
    """Compare two arms at one size of one target, one diagnosis at a time.

    Parameters
    ----------
    study : Study
    first, second : sequence of Result
        The runs of each arm, the first from a source. If one of them is used as it came, only
        diagnoses that the source has taught are compared.

    Returns
    -------
    DataFrame
        One row a diagnosis that can be scored in every fifth: ``label``, ``in_source`` and
        ``in_target`` (records), and what `ecgnb.analysis.compare.summarise` gives.
    """
    if not first or not second:
        return pd.DataFrame()
    spec = first[0].spec
    counts = {
        "in_source": labels_of(study, spec.source, spec.source_label_set).sum(),
        "in_target": labels_of(study, spec.dataset, spec.label_set).sum(),
    }
    least = TAUGHT if "as-is" in {run.spec.arm for run in (*first, *second)} else 0
    paired = [
        pair(
            runs_table(study, first, only=(label,)), runs_table(study, second, only=(label,))
        ).assign(label=label, **{side: int(count.get(label, 0)) for side, count in counts.items()})
        for label in counts["in_target"].index[counts["in_target"] > 0]
        if counts["in_source"].get(label, 0) >= least
    ]
    by = ["label", *counts]
    return summarise(pd.concat(paired), by) if paired else pd.DataFrame()


def reliability(study: Study, runs: Sequence[Result], only: tuple[str, ...] = ()) -> pd.DataFrame:
    """Compare what networks say with how often it is true, over all records and classes.

    Only classes that can be scored take part, as in the calibration error; of them, those of
    `only`, if it is not empty.

    Returns
    -------
    DataFrame
        One row a bin of probability that is not empty: ``said`` and ``true`` (means), ``count``.
    """
    said, true = [], []
    for run in runs:
        truth = _truth(study, run).to_numpy()
        use = eligible(truth, run.spec.min_test_positives)
        if only:
            use &= np.isin(run.classes, only)
        said.append(run.predictions[:, use].astype(np.float64).ravel())
        true.append(truth[:, use].ravel())
    frame = pd.DataFrame({"said": np.concatenate(said), "true": np.concatenate(true)})
    place = np.minimum((frame["said"] * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    groups = frame.groupby(place)
    return groups.mean().assign(count=groups.size()).reset_index(drop=True)


def told_apart(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Average how well features tell the source from the target, and how well labels alone do.

    Returns
    -------
    DataFrame
        One row a source, target, arm and size: ``source``, ``target``, ``arm``, ``size``,
        ``records``, ``mean`` (AUROC of the probe on features, over seeds), ``labels`` (that of the
        same probe on the labels of the same records, missing where the two share no class) and
        ``seeds``.
    """
    rows = [
        {
            "source": run.spec.source,
            "target": run.spec.dataset,
            "arm": run.spec.arm,
            "size": run.spec.size,
            "records": run.facts["train_records"],
            "mean": run.facts["hospital_auroc"],
            "labels": _by_labels(
                study,
                *(run.spec.source, run.spec.source_label_set),
                *(run.spec.dataset, run.spec.label_set, run.records),
            ),
        }
        for run in results
        if not pd.isna(run.facts.get("hospital_auroc"))
    ]
    if not rows:
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby(["source", "target", "arm", "size"], sort=False)
    table = groups[["records", "mean", "labels"]].mean().assign(seeds=groups.size()).reset_index()
    return table.assign(records=table["records"].round().astype(int))


@cache
def _by_labels(
    study: Study, source: str, taught: str, target: str, label_set: str, tested: tuple[str, ...]
) -> float:
    """Tell two hospitals apart by the classes that both have, on what the features are asked on."""
    labels = [labels_of(study, source, taught), labels_of(study, target, label_set)]
    both = [name for name in labels[0] if all(name in one and one[name].any() for one in labels)]
    if not both:
        return float("nan")
    tables = [read_table(study, name).set_index("record", drop=False) for name in (source, target)]
    rows = [list(tables[0].index[source_split(tables[0]).test]), list(tested)]
    return tell_apart(
        *[one.loc[some][both].to_numpy(np.float32) for one, some in zip(labels, rows, strict=True)],
        *[one["patient"].loc[some] for one, some in zip(tables, rows, strict=True)],
    )


def definitions(study: Study) -> pd.DataFrame:
    """List of what each class consists in each dataset of a study that is here.

    Returns
    -------
    DataFrame
        One row a class, dataset and native code: ``label``, ``dataset``, ``code``, ``records``.
    """
    label_set = study.pairs[0].target.label_set
    absent = missing_datasets(study)
    names = {one for name in study.datasets if name not in absent for one in name.split(JOINT)}
    tables = []
    for name in sorted(names):
        facts = card(name)
        if facts.vocabulary not in label_set_of(label_set).vocabularies:
            continue
        found = meanings(read_table(study, name)["codes"], facts.vocabulary, label_set)
        tables.append(found.assign(dataset=name))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
