"""How well features tell one hospital's records from another's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

_FOLDS = 5


def tell_apart(
    source: Features,
    target: Features,
    source_patients: npt.ArrayLike,
    target_patients: npt.ArrayLike,
) -> float:
    """Return the AUROC of a linear probe that tells which hospital a record comes from.

    A logistic regression on standardised features, tested by cross-validation over patients. 0.5
    says that the features hold nothing of the hospital, 1 that one look at them gives it away: by
    the device, by the filters, or by the patients and what they suffer from. Diagnoses are not
    equally common everywhere, so features of nothing but diagnoses tell hospitals apart as well:
    how well, the same probe on labels shows.

    Parameters
    ----------
    source, target : ndarray of float32, shape (records, features)
        What one encoder says of records of each; or their labels, as numbers.
    source_patients, target_patients : array, shape (records,)
        Whom each record belongs to.
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
