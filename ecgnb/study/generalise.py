"""How networks do at other hospitals: as they came, fine-tuned, diagnosis by diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from ecgnb.data.catalog import JOINT, card
from ecgnb.data.labels import label_set as label_set_of
from ecgnb.data.labels import meanings
from ecgnb.study.compare import with_tests
from ecgnb.study.data import missing_datasets, read_labels, read_table
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Cell, Scores
from ecgnb.study.spec import ALL
from ecgnb.study.statistics import Difference
from ecgnb.training.metrics import CALIBRATION_BINS, eligible

TAUGHT = 20
"""A source has taught a diagnosis if it has so many records of it."""


def taught(study: Study, source: str, label_set: str) -> tuple[str, ...]:
    """Name the diagnoses that a source has taught."""
    counts = read_labels(read_table(study, source), source, label_set, 0).sum()
    return tuple(counts.index[counts >= TAUGHT])


def matrix(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare networks at another hospital, as they came, with that hospital's own.

    Only diagnoses that the source has taught are scored, for both alike.

    Returns
    -------
    DataFrame
        One row a source and target: the fields of `Cell`, ``as_is`` and ``own`` (mean macro AUROC),
        ``classes`` (names), ``validation`` (macro AUROC of the network as it came on the target's
        validation records), and the columns of `ecgnb.study.compare.with_tests` for the first less
        the second.
    """
    rows: list[dict[str, object]] = []
    found: list[Difference] = []
    every = Scores(study, results)
    for cell in every.cells:
        if not cell.source or cell.size != ALL or not every.of(cell, "as-is"):
            continue
        known = taught(study, cell.source, cell.taught)
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
    spec = run.spec
    table = read_table(study, spec.dataset).set_index("record", drop=False)
    labels = read_labels(table, spec.dataset, spec.label_set, spec.min_positives)
    return labels.loc[list(run.records), list(run.classes)]


def singles(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a matrix whose source is one dataset."""
    return found[~found["source"].str.contains(JOINT, regex=False)] if len(found) else found


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
        See `ecgnb.study.scores.Scores`.
    """
    scores = Scores(study, results, metric, only)
    return scores.contrast([(1.0, scores.of(*first)), (-1.0, scores.of(*second))])


def diagnoses(
    study: Study, results: Sequence[Result], cell: Cell, first: str, second: str
) -> pd.DataFrame:
    """Compare two arms of a cell, one diagnosis at a time.

    Returns
    -------
    DataFrame
        One row a diagnosis that can be scored in every fifth: ``label``, ``first`` and ``second``
        (mean AUROC), ``in_source`` and ``in_target`` (records), and the columns of
        `ecgnb.study.compare.with_tests`.
    """
    counts = {
        side: read_labels(read_table(study, name), name, label_set, 0).sum()
        for side, name, label_set in (
            ("in_source", cell.source, cell.taught),
            ("in_target", cell.target, cell.label_set),
        )
    }
    rows, found = [], []
    for label in counts["in_target"].index[counts["in_target"] > 0]:
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


def told_apart(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Average how well features tell the source from the target, before and after fine-tuning.

    Returns
    -------
    DataFrame
        One row a source, target, arm and size: ``source``, ``target``, ``arm``, ``size``,
        ``records``, ``mean`` (AUROC of the probe, over seeds), ``seeds``.
    """
    rows = []
    groups: dict[tuple[str, str, str, int], list[Result]] = {}
    for run in results:
        if "hospital_auroc" in run.facts and not pd.isna(run.facts["hospital_auroc"]):
            spec = run.spec
            groups.setdefault((spec.source, spec.dataset, spec.arm, spec.size), []).append(run)
    for (source, target, arm, size), runs in groups.items():
        rows.append(
            {
                "source": source,
                "target": target,
                "arm": arm,
                "size": size,
                "records": round(np.mean([run.facts["train_records"] for run in runs])),
                "mean": np.mean([run.facts["hospital_auroc"] for run in runs]),
                "seeds": len(runs),
            }
        )
    return pd.DataFrame(rows)


def reliability(study: Study, runs: Sequence[Result]) -> pd.DataFrame:
    """Compare what networks say with how often it is true, over all records and classes.

    Only classes that can be scored take part, as in the calibration error.

    Returns
    -------
    DataFrame
        One row a bin of probability that is not empty: ``said`` and ``true`` (means), ``count``.
    """
    said, true = [], []
    for run in runs:
        truth = _truth(study, run).to_numpy()
        use = eligible(truth, run.spec.min_test_positives)
        said.append(run.predictions[:, use].astype(np.float64).ravel())
        true.append(truth[:, use].ravel())
    frame = pd.DataFrame({"said": np.concatenate(said), "true": np.concatenate(true)})
    place = np.minimum((frame["said"] * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    groups = frame.groupby(place)
    return groups.mean().assign(count=groups.size()).reset_index(drop=True)


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
