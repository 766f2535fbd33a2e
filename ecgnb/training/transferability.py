"""Scores of how well an encoder or a source may transfer, taken before the target is trained on.

Each is asked of the features, or of the source's own predictions, on the training records of a
target. With several labels a record, each class is a task of two classes, and scores are averaged.
"""

import numpy as np
import numpy.typing as npt

from ecgnb.training.metrics import Truth, auroc

Floats = npt.NDArray[np.floating]

_ROUNDS, _CLOSE = 100, 1e-4  # of LogME's fixed point
_PARTS = 5  # of the cross-validation
_PENALTIES = np.logspace(0, 5, 6)


def scores(
    features: Floats, labels: Truth, source: Floats, patients: npt.NDArray
) -> dict[str, float]:
    """Return all scores; the higher, the better the transfer should be, but for ``melep``.

    `source` are the probabilities that the source's own head gives the records, (records, source
    classes). NaN where no class has a positive and a negative.
    """
    use = labels.any(axis=0) & ~labels.all(axis=0)
    if not use.any():
        return dict.fromkeys(("logme", "h_score", "leep", "melep", "probe"), float("nan"))
    features, labels = features.astype(np.float64), labels[:, use]
    return {
        "logme": logme(features, labels),
        "h_score": h_score(features, labels),
        "leep": leep(source, labels),
        "melep": melep(source, labels),
        "probe": probe(features, labels, patients),
    }


def logme(features: Floats, labels: Truth) -> float:
    """Log maximum evidence of a linear model, per record (You et al. 2021)."""
    count, width = features.shape
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    sigma = singular**2
    found = []
    for label in labels.T.astype(np.float64):
        along = (left.T @ label) ** 2
        outside = label @ label - along.sum()
        alpha = beta = 1.0
        for _ in range(_ROUNDS):
            ratio = alpha / beta
            gamma = (sigma / (sigma + ratio)).sum()
            weights = (sigma * along / (sigma + ratio) ** 2).sum()
            error = (along / (1 + sigma / ratio) ** 2).sum() + outside
            alpha, beta = gamma / (weights + 1e-12), (count - gamma) / (error + 1e-12)
            if abs(alpha / beta - ratio) <= _CLOSE * ratio:
                break
        ratio = alpha / beta
        weights = (sigma * along / (sigma + ratio) ** 2).sum()
        error = (along / (1 + sigma / ratio) ** 2).sum() + outside
        determinant = np.log(alpha + beta * sigma).sum() + (width - len(sigma)) * np.log(alpha)
        evidence = (
            width * np.log(alpha) + count * np.log(beta) - determinant - count * np.log(2 * np.pi)
        )
        found.append((evidence - beta * error - alpha * weights) / (2 * count))
    return float(np.mean(found))


def h_score(features: Floats, labels: Truth) -> float:
    """Share of the features' variance that lies between classes (Bao et al. 2019).

    The covariance is shrunk as by Ledoit & Wolf, as Ibrahim et al. (2021) advise where there are
    fewer records than features.
    """
    from sklearn.covariance import ledoit_wolf  # slow to import

    centred = features - features.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    found = []
    for label in labels.T:
        means = np.where(label[:, None], centred[label].mean(axis=0), centred[~label].mean(axis=0))
        between = (1 - shrinkage) * means.T @ means / len(means)
        found.append(np.trace(np.linalg.solve(covariance, between)))
    return float(np.mean(found))


def _expected(source: Floats, label: npt.NDArray[np.bool_]) -> float:
    """Return LEEP of one task of two classes, from the distribution over the source's classes."""
    joint = np.stack([source[~label].sum(axis=0), source[label].sum(axis=0)]) / len(source)
    given = joint / np.maximum(joint.sum(axis=0), 1e-12)
    return float(np.log(np.maximum((source * given[label.astype(int)]).sum(axis=1), 1e-12)).mean())


def leep(source: Floats, labels: Truth) -> float:
    """Log expected empirical prediction (Nguyen et al. 2020).

    With several labels a record, the source's probabilities are divided by their sum.
    """
    shares = source / np.maximum(source.sum(axis=1, keepdims=True), 1e-12)
    return float(np.mean([_expected(shares, label) for label in labels.T]))


def melep(source: Floats, labels: Truth) -> float:
    """Multi-label expected log of empirical predictions (Nguyen et al. 2023); lower is better.

    Each class weighs as much as it is common.
    """
    pairs = [np.stack([1 - one, one], axis=1) for one in source.T.astype(np.float64)]
    each = [-np.mean([_expected(pair, label) for pair in pairs]) for label in labels.T]
    return float(np.average(each, weights=labels.mean(axis=0)))


def probe(features: Floats, labels: Truth, patients: npt.NDArray) -> float:
    """Macro AUROC of a ridge regression on the features, cross-validated over patients.

    Of each class, the share of pairs within a part that are in the right order; NaN without any.
    """
    from sklearn.linear_model import RidgeCV  # slow to import
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(patients)) < _PARTS:
        return float("nan")
    won, pairs = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for train, test in GroupKFold(_PARTS).split(features, groups=patients):
        model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
        said = model.fit(features[train], labels[train].astype(float)).predict(features[test])
        positives = labels[test].sum(axis=0)
        asked = positives * (len(test) - positives)
        won += asked * np.nan_to_num(auroc(labels[test], said.reshape(len(test), -1)))
        pairs += asked
    return float((won[pairs > 0] / pairs[pairs > 0]).mean()) if pairs.any() else float("nan")


def energy_distance(first: Floats, second: Floats) -> float:
    """Return how far two samples of features lie apart (Székely & Rizzo 2013); 0: they are alike.

    Features, (records, features), are scaled by the second sample. Distances within a sample are
    those between different records, so that the number of records does not matter.
    """
    from scipy.spatial.distance import cdist, pdist

    mean, deviation = second.mean(axis=0), second.std(axis=0)
    use = deviation > 1e-6
    here, there = ((one[:, use] - mean[use]) / deviation[use] for one in (first, second))
    return float(2 * cdist(here, there).mean() - pdist(here).mean() - pdist(there).mean())
