"""How hospitals differ: whether features or labels tell them apart, what their classes mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache, lru_cache

import numpy as np
import pandas as pd

from ecgnb.analysis.compare import Cell, Scores, arm_means, with_tests
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
        One row a source and target: the fields of `Cell`, ``as_is`` and ``own`` (mean macro AUROC),
        ``names`` (of the classes), ``validation`` (macro AUROC of the network as it came on the
        target's validation records), and the columns of `ecgnb.analysis.compare.with_tests` for the
        first less the second.
    """
    rows: list[dict[str, object]] = []
    found: list[Difference] = []
    every = Scores(study, results)
    for cell in every.cells:
        if not cell.source or cell.size != ALL or not every.of(cell, "as-is"):
            continue
        known = taught(study, cell.source, cell.taught)
        if not known:
            continue
        scores = Scores(study, results, only=known)
        asked, own = scores.of(cell, "as-is"), scores.of(cell, "scratch")
        sides = [scores.contrast([(1.0, runs)]) for runs in (asked, own) if runs]
        difference = scores.contrast([(1.0, asked), (-1.0, own)]) if own else None
        if difference is None or sides[0] is None or sides[1] is None:
            continue
        rows.append(
            {
                **asdict(cell),
                "as_is": sides[0].mean,
                "own": sides[1].mean,
                "names": _scored(study, next(iter(asked.values())), known),
                "validation": np.mean([run.facts["validation_auroc"] for run in asked.values()]),
            }
        )
        found.append(difference)
    return with_tests(pd.DataFrame(rows), found)


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
    study : Study
    results : sequence of Result
        Final runs.
    target : str
    sources : iterable of str
        Those of which networks are taken.
    metric : str
        See `ecgnb.analysis.compare.Scores`.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.arm_means`, with ``whole``, whether all records are trained on.
    """
    begun = {"", *sources}
    chosen = [
        run
        for run in results
        if run.spec.dataset == target and run.spec.source in begun and run.spec.arm in BEGINNINGS
    ]
    came = [run.spec for run in chosen if run.spec.arm == "as-is"]
    known = taught_by_all(study, came)
    if not known:
        chosen = [run for run in chosen if run.spec.arm != "as-is"]
    means = arm_means(study, chosen, metric, known)
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
    """Compare two arms of a cell, one diagnosis at a time.

    If one of them is used as it came, only diagnoses that the source has taught are compared.

    Returns
    -------
    DataFrame
        One row a diagnosis that can be scored in every fifth: ``label``, ``first`` and ``second``
        (mean AUROC), ``in_source`` and ``in_target`` (records), and the columns of
        `ecgnb.analysis.compare.with_tests`.
    """
    counts = {
        side: labels_of(study, name, label_set).sum()
        for side, name, label_set in (
            ("in_source", cell.source, cell.taught),
            ("in_target", cell.target, cell.label_set),
        )
    }
    least = TAUGHT if "as-is" in (first, second) else 0
    rows, found = [], []
    for label in counts["in_target"].index[counts["in_target"] > 0]:
        if counts["in_source"].get(label, 0) < least:
            continue
        scores = Scores(study, results, only=(label,))
        one, other = scores.of(cell, first), scores.of(cell, second)
        if not one or not other:
            continue
        sides = [scores.contrast([(1.0, runs)]) for runs in (one, other)]
        difference = scores.contrast([(1.0, one), (-1.0, other)])
        if difference is None or sides[0] is None or sides[1] is None:
            continue
        rows.append(
            {
                "label": label,
                "first": sides[0].mean,
                "second": sides[1].mean,
                **{side: int(count.get(label, 0)) for side, count in counts.items()},
            }
        )
        found.append(difference)
    return with_tests(pd.DataFrame(rows), found)


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
    rows = []
    groups: dict[tuple[str, str, str, int], list[Result]] = {}
    for run in results:
        if "hospital_auroc" in run.facts and not pd.isna(run.facts["hospital_auroc"]):
            spec = run.spec
            groups.setdefault((spec.source, spec.dataset, spec.arm, spec.size), []).append(run)
    for (source, target, arm, size), runs in groups.items():
        sides = [(source, run.spec.source_label_set, target, run.spec.label_set) for run in runs]
        rows.append(
            {
                "source": source,
                "target": target,
                "arm": arm,
                "size": size,
                "records": round(np.mean([run.facts["train_records"] for run in runs])),
                "mean": np.mean([run.facts["hospital_auroc"] for run in runs]),
                "labels": np.mean(
                    [
                        _by_labels(study, *names, run.records)
                        for names, run in zip(sides, runs, strict=True)
                    ]
                ),
                "seeds": len(runs),
            }
        )
    return pd.DataFrame(rows)


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
