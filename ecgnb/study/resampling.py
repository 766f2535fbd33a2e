"""Test scores on test sets that are drawn again from their patients: the bootstrap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ecgnb.training.metrics import surplus

REPLICATES = 1000

Floats = npt.NDArray[np.float64]


def draw_again(patients: npt.NDArray[np.int64]) -> Floats:
    """Draw test sets again from their patients.

    Parameters
    ----------
    patients : ndarray, shape (records,)
        Whom each record belongs to; patients are drawn, not records, and always the same ones.

    Returns
    -------
    ndarray of float, shape (`REPLICATES`, records)
        How often each record stands in each replicate.
    """
    unique, member = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(0)
    share = np.full(len(unique), 1 / len(unique))
    return rng.multinomial(len(unique), share, size=REPLICATES)[:, member].astype(np.float64)


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
        A class of which no positive was drawn does not count in that replicate.
    """
    weights = draw_again(patients)
    classes = [
        weighted_auroc(one, score, weights) for one, score in zip(truth.T, scores.T, strict=True)
    ]
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
    hits = weights @ (truth & predicted)
    both = weights @ truth + weights @ predicted
    return np.mean(2 * hits / np.maximum(both, 1), axis=1)  # type: ignore[no-any-return]


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
    gaps = (weights @ surplus(truth, scores)) / truth.shape[1]
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=1)  # type: ignore[no-any-return]


def weighted_auroc(truth: npt.NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """AUROC of one class under many weightings of the records at once; ties count half.

    Parameters
    ----------
    truth : ndarray of bool, shape (records,)
    scores : ndarray of float, shape (records,)
    weights : ndarray of float, shape (replicates, records)

    Returns
    -------
    ndarray of float, shape (replicates,)
        NaN where all weight is on one side.
    """
    order = np.argsort(scores, kind="stable")
    ranked, positive = scores[order], truth[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * positive, starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    wins = (positives * below).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
