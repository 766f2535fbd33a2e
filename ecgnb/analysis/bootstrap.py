"""The test score of a run, and the same on test sets that are drawn again from its patients."""

import warnings
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgnb.study.data import read_labels, read_table
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.metrics import auroc, calibration_error, eligible, f1, surplus

REPLICATES = 1000

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]  # whole numbers, and exact


def draw_again(patients: npt.NDArray[np.int64]) -> Weights:
    """Draw test sets again from their patients: say how often each record stands in each of them.

    `patients` says whom each record belongs to; patients are drawn, not records, and always the
    same ones. The shape is (records, `REPLICATES`).
    """
    _, member = np.unique(patients, return_inverse=True)
    return _draw(member.astype(np.int64).tobytes())


@lru_cache(maxsize=16)  # the runs of a fifth share their patients
def _draw(members: bytes) -> Weights:
    member = np.frombuffer(members, dtype=np.int64)
    count = member.max() + 1
    rng = np.random.default_rng(0)
    times = rng.multinomial(count, np.full(count, 1 / count), size=REPLICATES)
    # A row a record: the positives of a class are then whole rows, and quick to take out.
    drawn = np.ascontiguousarray(times.T[member], dtype=np.float32)
    drawn.flags.writeable = False  # all callers get the same one
    return drawn


def bootstrap_auroc(
    truth: npt.NDArray[np.bool_], scores: Floats, patients: npt.NDArray[np.int64]
) -> Floats:
    """Return the macro AUROC on test sets drawn again from their patients, shape (`REPLICATES`,).

    Truth and scores have the shape (records, classes). A class of which no positive was drawn does
    not count in that replicate, which is NaN if none counts.
    """
    weights = draw_again(patients)
    classes = [
        weighted_auroc(one, score, weights) for one, score in zip(truth.T, scores.T, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.nanmean(classes, axis=0)  # type: ignore[no-any-return]


def bootstrap_f1(
    truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_], patients: npt.NDArray[np.int64]
) -> Floats:
    """Return the macro F1 on test sets drawn again from their patients, shape (`REPLICATES`,).

    A class that is neither there nor predicted counts 0, as in `ecgnb.training.metrics.f1`.
    """
    weights = draw_again(patients)
    hits, there, said = (
        (weights.T @ one).astype(np.float64) for one in (truth & predicted, truth, predicted)
    )
    return np.mean(2 * hits / np.maximum(there + said, 1), axis=1)  # type: ignore[no-any-return]


def bootstrap_calibration_error(
    truth: npt.NDArray[np.bool_], scores: Floats, patients: npt.NDArray[np.int64]
) -> Floats:
    """Return the expected calibration error on test sets drawn again from their patients.

    It has the shape (`REPLICATES`,); see `ecgnb.training.metrics.calibration_error`.
    """
    weights = draw_again(patients)
    gaps = (weights.T @ surplus(truth, scores)) / truth.shape[1]
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=0, dtype=np.float64)  # type: ignore[no-any-return]


def weighted_auroc(truth: npt.NDArray[np.bool_], scores: Floats, weights: Weights) -> Floats:
    """AUROC of one class under many weightings of the records at once; ties count half.

    The weights, shape (records, replicates), are whole numbers: below some thousand records, all
    sums are then exact. NaN in replicates where all weight is on one side.
    """
    positives, negatives = weights[truth], weights[~truth]
    # One product of matrices is faster than ranking: there are few hundred records.
    above = np.sign(scores[truth] - scores[~truth][:, None]) / 2 + 0.5
    wins = above.astype(np.float32) @ positives
    wins *= negatives
    won, first, second = (
        one.sum(axis=0).astype(np.float64) for one in (wins, positives, negatives)
    )
    pairs = first * second
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


_CACHE: dict[tuple[object, ...], tuple[float, Floats] | None] = {}


def score_run(
    study: Study, run: Result, metric: str, only: tuple[str, ...]
) -> tuple[float, Floats] | None:
    """Return the test score of a run, and the same on `REPLICATES` bootstrap test sets.

    The drawn patients are the same for all runs that were tested on the same records. None if no
    class can be scored. It is kept in memory.
    """
    name = (study.digest, run.key, metric, only)
    if name in _CACHE:
        return _CACHE[name]
    found = None
    truth, scores, whom, use = scorable(study, run, only)
    if use.any() and metric == "f1":
        named = scores >= np.array(run.facts["thresholds"])[use]
        found = float(f1(truth, named).mean()), bootstrap_f1(truth, named, whom)
    elif use.any() and metric == "ece":
        again = bootstrap_calibration_error(truth, scores, whom)
        found = calibration_error(truth, scores), again
    elif use.any():
        found = float(auroc(truth, scores).mean()), bootstrap_auroc(truth, scores, whom)
    _CACHE[name] = found
    return found


def scorable(
    study: Study, run: Result, only: tuple[str, ...]
) -> tuple[npt.NDArray[np.bool_], Floats, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return what the test records of a run have, what it says, whom they belong to, and of what.

    Of its classes only those that can be scored, and of them, those of `only`, if it is not empty.
    """
    truth, whom = _tested(study, run.spec.dataset, run.spec.label_set, run.records, run.classes)
    use = eligible(truth, run.spec.min_test_positives)
    if only:
        use &= np.isin(run.classes, only)
    return truth[:, use], run.predictions[:, use].astype(np.float64), whom, use


@lru_cache(maxsize=256)  # the runs of a fifth share their records, and get the same arrays
def _tested(
    study: Study, dataset: str, label_set: str, records: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    labels, patients = labels_and_patients(study, dataset, label_set)
    rows = list(records)
    return labels.loc[rows, list(classes)].to_numpy(), patients.loc[rows].to_numpy()


@lru_cache(maxsize=32)  # asked for again with every run
def labels_and_patients(
    study: Study, dataset: str, label_set: str
) -> tuple[pd.DataFrame, pd.Series]:
    """Return the labels of a dataset, and numbers of its patients, by record."""
    table = read_table(study, dataset).set_index("record", drop=False)
    codes, _ = pd.factorize(table["patient"])
    return read_labels(table, dataset, label_set, 0), pd.Series(codes, index=table.index)


def found_of_100(study: Study, run: Result) -> pd.Series:
    """Count, of 100 test ECGs with a diagnosis, those over the threshold that validation ECGs set.

    5 of 100 validation ECGs without it are over that threshold. By class; missing where too few
    test ECGs have it.
    """
    truth, scores, _, use = scorable(study, run, ())
    over = scores > np.array(run.facts["alarm_thresholds"])[use]
    found = 100 * (over & truth).sum(axis=0) / truth.sum(axis=0)
    return pd.Series(found, np.array(run.classes)[use]).reindex(run.classes)
