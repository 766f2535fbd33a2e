"""Scores of transferability, each beside its paper's formula written out plainly."""

import numpy as np
import pytest

from ecgnb.training import transferability


@pytest.fixture(scope="module", params=[(60, 20), (30, 50)], ids=["tall", "wide"])
def made(request):
    rng = np.random.default_rng(1)
    count, width = request.param
    labels = rng.random((count, 3)) < [0.5, 0.3, 0.2]
    features = rng.normal(size=(count, width)) + labels @ rng.normal(size=(3, width))
    source = 1 / (1 + np.exp(-features[:, :4]))
    return features, labels, source


def _log_evidence(features, label, alpha, beta):
    """Bishop (2006), equation 3.86, with the matrices as they stand there."""
    count, width = features.shape
    precision = alpha * np.eye(width) + beta * features.T @ features
    mean = beta * np.linalg.solve(precision, features.T @ label)
    error = beta / 2 * np.sum((label - features @ mean) ** 2) + alpha / 2 * mean @ mean
    _, determinant = np.linalg.slogdet(precision)
    return (
        width / 2 * np.log(alpha)
        + count / 2 * np.log(beta)
        - error
        - determinant / 2
        - count / 2 * np.log(2 * np.pi)
    )


def test_logme_is_the_largest_evidence(made):
    features, labels, _ = made
    grid = np.logspace(-3, 5, 65)
    best = [
        max(_log_evidence(features, label, a, b) for a in grid for b in grid) / len(label)
        for label in labels.T.astype(float)
    ]
    assert transferability.logme(features, labels) == pytest.approx(np.mean(best), abs=5e-3)


def test_h_score_is_a_trace(made):
    from sklearn.covariance import LedoitWolf

    features, labels, _ = made
    fitted = LedoitWolf().fit(features)
    found = []
    for label in labels.T:
        means = np.stack([features[label == side].mean(axis=0) for side in label.astype(int)])
        between = np.cov(means, rowvar=False, bias=True) * (1 - fitted.shrinkage_)
        found.append(np.trace(np.linalg.pinv(fitted.covariance_) @ between))
    assert transferability.h_score(features, labels) == pytest.approx(np.mean(found))


def _plain_leep(theta, label):
    """Nguyen et al. (2020), equations 1 and 2, sample by sample."""
    count, classes = theta.shape
    joint = np.zeros((2, classes))
    for one, y in zip(theta, label, strict=True):
        joint[int(y)] += one / count
    total = 0.0
    for one, y in zip(theta, label, strict=True):
        total += np.log(sum(joint[int(y), z] / joint[:, z].sum() * one[z] for z in range(classes)))
    return total / count


def test_leep_and_melep_are_their_formulas(made):
    _, labels, source = made
    shares = source / source.sum(axis=1, keepdims=True)
    each = [_plain_leep(shares, label) for label in labels.T]
    assert transferability.leep(source, labels) == pytest.approx(np.mean(each))
    melep = [
        -np.mean([_plain_leep(np.stack([1 - z, z], axis=1), label) for z in source.T])
        for label in labels.T
    ]
    weighted = np.average(melep, weights=labels.mean(axis=0))
    assert transferability.melep(source, labels) == pytest.approx(weighted)


def test_features_that_know_the_labels_score_higher():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 2)) < 0.4
    patients = np.arange(200) // 2
    noise = rng.normal(size=(200, 10))
    known = np.column_stack([noise, labels])
    worse, better = (
        transferability.scores(one, labels, labels * 0.8 + 0.1, patients) for one in (noise, known)
    )
    assert worse["probe"] == pytest.approx(0.5, abs=0.1)
    assert better["probe"] > 0.99
    assert better["logme"] > worse["logme"]
    assert better["h_score"] > worse["h_score"]
    nothing = transferability.scores(noise, np.zeros((200, 2), bool), labels * 0.5, patients)
    assert all(np.isnan(value) for value in nothing.values())
