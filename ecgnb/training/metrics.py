"""How good predictions are, over several labels at once."""

from typing import Any

import numpy as np
import numpy.typing as npt

MIN_TEST_POSITIVES = 10  # a class with fewer in a test set takes no part in its macro averages
CALIBRATION_BINS = 10
# What the score on validation is called, by which a checkpoint is chosen: where findings are named,
# and where records are reconstructed.
SCORES = AUROC, EXPLAINED = "validation_auroc", "validation_explained"
# Stands for a label set where a network reconstructs its records and no label is read.
UNLABELLED = "unlabelled"

Truth = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating]


def eligible(truth: Truth, min_positives: int = MIN_TEST_POSITIVES) -> npt.NDArray[np.bool_]:
    """Tell which classes have enough positives and as many negatives, shape (classes,)."""
    positives = truth.sum(axis=0)
    return (positives >= min_positives) & (len(truth) - positives >= min_positives)


def auroc(truth: Truth, scores: Scores) -> npt.NDArray[np.float64]:
    """Area under the ROC curve of each class; ties count half, NaN without positive or negative."""
    from scipy import stats  # takes half a second, which `ecgnb status` need not wait for

    positives = truth.sum(axis=0).astype(np.float64)
    pairs = positives * (len(truth) - positives)
    ranks = stats.rankdata(scores, axis=0)
    wins = (ranks * truth).sum(axis=0) - positives * (positives + 1) / 2
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def macro_auroc(truth: Truth, scores: Scores, min_positives: int = MIN_TEST_POSITIVES) -> float:
    """Mean AUROC over the classes with enough positives; NaN if there is none."""
    use = eligible(truth, min_positives)
    return float(auroc(truth[:, use], scores[:, use]).mean()) if use.any() else float("nan")


def best_thresholds(truth: Truth, scores: Scores) -> npt.NDArray[np.float64]:
    """Choose for each class the threshold with the highest F1; to be given validation data.

    A score at or over the threshold is a positive. 0.5 where a class has no positive.
    """
    thresholds = np.full(truth.shape[1], 0.5)
    for index in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-scores[:, index], kind="stable")
        ranked = scores[order, index].astype(np.float64)
        hits = np.cumsum(truth[order, index])
        f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
        # Records with equal scores stand on the same side of any threshold.
        f1[:-1][ranked[:-1] == ranked[1:]] = 0
        best = int(np.argmax(f1))
        below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best]
        thresholds[index] = (ranked[best] + below) / 2
    return thresholds


def alarm_thresholds(
    truth: Truth, scores: Scores, false_alarms: float = 0.05
) -> npt.NDArray[np.float64]:
    """Choose for each class the threshold that so many validation records without it exceed.

    A score over the threshold is an alarm. Infinity where every record has the class.
    """
    without = np.where(truth, np.nan, scores.astype(np.float64))
    found = np.full(truth.shape[1], np.inf)
    use = ~truth.all(axis=0)
    found[use] = np.nanquantile(without[:, use], 1 - false_alarms, axis=0, method="higher")
    return found


def f1(truth: Truth, predicted: Truth) -> npt.NDArray[np.float64]:
    """F1 of each class; 0 where it has neither positives nor predictions."""
    hits = (truth & predicted).sum(axis=0)
    return 2 * hits / np.maximum(truth.sum(axis=0) + predicted.sum(axis=0), 1)


def surplus(truth: Truth, scores: Scores) -> npt.NDArray[np.float64]:
    """Add up, over classes, probabilities less outcomes by bins: (records, `CALIBRATION_BINS`)."""
    place = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    found = np.zeros((len(truth), CALIBRATION_BINS))
    rows = np.broadcast_to(np.arange(len(truth))[:, None], truth.shape)
    np.add.at(found, (rows, place), scores - truth)
    return found


def calibration_error(truth: Truth, scores: Scores) -> float:
    """Return the expected calibration error over all records and classes (Guo et al. 2017).

    Of `CALIBRATION_BINS` bins of equal width, each counts by the number of probabilities in it.
    """
    return float(np.abs(surplus(truth, scores).sum(axis=0)).sum() / truth.size)


def weighted_f1(truth: Truth, scores: Scores) -> float:
    """F1 at one half over all classes, weighted by prevalence, as Nguyen & Do reported it."""
    positives = truth.sum(axis=0)
    return float((f1(truth, scores >= 0.5) * positives).sum() / max(positives.sum(), 1))


def evaluate(
    truth: Truth,
    scores: Scores,
    thresholds: npt.NDArray[np.float64],
    min_positives: int = MIN_TEST_POSITIVES,
) -> dict[str, Any]:
    """Compute all test metrics from labels and probabilities, both of shape (records, classes).

    ``auroc``, ``auprc`` and ``f1``, at `thresholds` from `best_thresholds` on validation, are macro
    averages over the ``classes``, so many, that have `min_positives`; ``weighted_f1``, at one half,
    is one over all classes by prevalence.
    """
    from sklearn.metrics import average_precision_score  # slow to import, as above

    use = eligible(truth, min_positives)
    auprc = macro_f1 = float("nan")
    if use.any():
        auprc = float(average_precision_score(truth[:, use], scores[:, use]))
        macro_f1 = float(f1(truth[:, use], (scores >= thresholds)[:, use]).mean())
    found = {"auroc": macro_auroc(truth, scores, min_positives), "auprc": auprc, "f1": macro_f1}
    return {**found, "weighted_f1": weighted_f1(truth, scores), "classes": int(use.sum())}


def report(
    validation: tuple[Truth, Scores], test: tuple[Truth, Scores], least: int, shown: Truth
) -> dict[str, Any]:
    """Score a run as all are: see `evaluate`, and the thresholds of the classes that are `shown`.

    Each side is labels and probabilities; `least` positives are needed of a class.
    """
    thresholds = best_thresholds(*validation)
    return {
        **evaluate(*test, thresholds, least),
        "thresholds": thresholds[shown].tolist(),
        "alarm_thresholds": alarm_thresholds(*validation)[shown].tolist(),
    }


Features = npt.NDArray[np.float32]

_FOLDS = 5


def tell_apart(
    source: Features,
    target: Features,
    source_patients: npt.ArrayLike,
    target_patients: npt.ArrayLike,
) -> float:
    """Return the AUROC of a linear probe that tells which hospital a record comes from.

    A logistic regression on standardised features of shape (records, features), or on labels as
    numbers, tested by cross-validation over patients. 0.5 says that they hold nothing of the
    hospital, 1 that one look gives it away: by the device, by the filters, or by the patients and
    what they suffer from. Diagnoses are not equally common everywhere, so that features of nothing
    but diagnoses tell hospitals apart as well: how well, the same probe on labels shows.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([source, target]).astype(np.float64)
    hospital = np.repeat([0, 1], [len(source), len(target)])
    names = [f"0/{one}" for one in np.asarray(source_patients)]
    names += [f"1/{one}" for one in np.asarray(target_patients)]
    # With hundreds of features and few hundred records, any noise separates, if not penalised.
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    folds = StratifiedGroupKFold(_FOLDS)
    said = cross_val_predict(
        probe, features, hospital, groups=names, cv=folds, method="predict_proba"
    )
    return float(roc_auc_score(hospital, said[:, 1]))
