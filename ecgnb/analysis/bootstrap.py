"""Test scores on test sets that are drawn again from their patients: the bootstrap."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ecgnb.training.metrics import surplus

REPLICATES = 1000

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]  # whole numbers, and exact


def draw_again(patients: npt.NDArray[np.int64]) -> Weights:
    """Draw test sets again from their patients.

    Parameters
    ----------
    patients : ndarray, shape (records,)
        Whom each record belongs to; patients are drawn, not records, and always the same ones.

    Returns
    -------
    ndarray of float32, shape (records, `REPLICATES`)
        How often each record stands in each replicate.
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
    """Return the macro AUROC on test sets drawn again from their patients.

    Parameters
    ----------
    truth : ndarray of bool, shape (records, classes)
    scores : ndarray of float, shape (records, classes)
    patients : ndarray, shape (records,)
        See `draw_again`.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`,)
        A class of which no positive was drawn does not count in that replicate, which is NaN if
        none counts.
    """
    weights = draw_again(patients)
    classes = [
        weighted_auroc(one, score, weights) for one, score in zip(truth.T, scores.T, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.nanmean(classes, axis=0)  # type: ignore[no-any-return]


def bootstrap_f1(
    truth: npt.NDArray[np.bool_],
    predicted: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.int64],
) -> Floats:
    """Return the macro F1 on test sets drawn again from their patients.

    Parameters
    ----------
    truth, predicted : ndarray of bool, shape (records, classes)
    patients : ndarray, shape (records,)
        See `draw_again`.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`,)
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

    Parameters
    ----------
    truth : ndarray of bool, shape (records, classes)
    scores : ndarray of float, shape (records, classes)
        Probabilities.
    patients : ndarray, shape (records,)
        See `draw_again`.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`,)
        See `ecgnb.training.metrics.calibration_error`.
    """
    weights = draw_again(patients)
    gaps = (weights.T @ surplus(truth, scores)) / truth.shape[1]
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=0, dtype=np.float64)  # type: ignore[no-any-return]


def weighted_auroc(truth: npt.NDArray[np.bool_], scores: Floats, weights: Weights) -> Floats:
    """AUROC of one class under many weightings of the records at once; ties count half.

    Parameters
    ----------
    truth : ndarray of bool, shape (records,)
    scores : ndarray of float, shape (records,)
    weights : ndarray of float32, shape (records, replicates)
        Whole numbers: below some thousand records, all sums are then exact.

    Returns
    -------
    ndarray of float64, shape (replicates,)
        NaN where all weight is on one side.
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
