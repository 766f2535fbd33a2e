"""The test score of one run, and the same on bootstrap test sets; what it finds at five alarms."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.analysis.bootstrap import (
    Floats,
    bootstrap_auroc,
    bootstrap_calibration_error,
    bootstrap_f1,
)
from ecgnb.study.data import read_labels, read_table
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.metrics import auroc, calibration_error, eligible, f1

_CACHE: dict[tuple[object, ...], tuple[float, Floats] | None] = {}


def score_run(
    study: Study, run: Result, metric: str, only: tuple[str, ...]
) -> tuple[float, Floats] | None:
    """Return the test score of a run, and the same on bootstrap test sets; kept in memory.

    Returns
    -------
    (float, ndarray of float, shape (`REPLICATES`,)) or None
        The drawn patients are the same for all runs that were tested on the same records. None if
        no class can be scored.
    """
    name = (study.digest, run.key, metric, only)
    if name not in _CACHE:
        _CACHE[name] = _score(study, run, metric, only)
    return _CACHE[name]


def _score(
    study: Study, run: Result, metric: str, only: tuple[str, ...]
) -> tuple[float, Floats] | None:
    spec = run.spec
    sought = study, spec.dataset, spec.label_set, spec.min_positives
    truth, whom = _tested(*sought, run.records, run.classes)
    use = eligible(truth, spec.min_test_positives)
    if only:
        use &= np.isin(run.classes, only)
    if not use.any():
        return None
    truth, scores = truth[:, use], run.predictions[:, use].astype(np.float64)
    if metric == "f1":
        named = scores >= np.array(run.facts["thresholds"])[use]
        return float(f1(truth, named).mean()), bootstrap_f1(truth, named, whom)
    if metric == "ece":
        return calibration_error(truth, scores), bootstrap_calibration_error(truth, scores, whom)
    return float(auroc(truth, scores).mean()), bootstrap_auroc(truth, scores, whom)


@lru_cache(maxsize=256)  # the runs of a fifth share their records
def _tested(
    study: Study,
    dataset: str,
    label_set: str,
    min_positives: int,
    records: tuple[str, ...],
    classes: tuple[str, ...],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return what some records have, and whom they belong to; arrays that all callers share."""
    labels, patients = _truth(study, dataset, label_set, min_positives)
    rows = list(records)
    return labels.loc[rows, list(classes)].to_numpy(), patients.loc[rows].to_numpy()


@lru_cache(maxsize=32)
def _truth(
    study: Study, dataset: str, label_set: str, min_positives: int
) -> tuple[pd.DataFrame, pd.Series]:
    table = read_table(study, dataset).set_index("record", drop=False)
    codes, _ = pd.factorize(table["patient"])
    labels = read_labels(table, dataset, label_set, min_positives)
    return labels, pd.Series(codes, index=table.index)


def found_of_100(study: Study, run: Result) -> pd.Series:
    """Count, of 100 test ECGs with a diagnosis, those over the threshold that validation ECGs set.

    5 of 100 validation ECGs without it are over that threshold.

    Returns
    -------
    Series of float
        By class; missing where too few test ECGs have it.
    """
    spec = run.spec
    sought = study, spec.dataset, spec.label_set, spec.min_positives
    shown, _ = _tested(*sought, run.records, run.classes)
    over = run.predictions > run.facts["alarm_thresholds"]
    counts = (over & shown).sum(axis=0) / shown.sum(axis=0).clip(1)
    return pd.Series(100 * counts, run.classes).where(eligible(shown, spec.min_test_positives))
