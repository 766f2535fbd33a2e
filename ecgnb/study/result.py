"""What a finished run leaves, and what made it."""

from __future__ import annotations

import functools
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ecgnb
from ecgnb.study.spec import RunSpec
from ecgnb.training.metrics import SCORES


@dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Attributes
    ----------
    key : str
    spec : RunSpec
    classes : tuple of str
        Columns of `predictions`.
    records : tuple of str
        Test records, the rows of `predictions`; empty for runs that saw no test set.
    predictions : ndarray of float16, shape (records, classes)
        Test probabilities.
    history : dict of list
        See `ecgnb.training.fit.Fitted`.
    facts : dict
        ``train_records``, ``validation_records``, ``validation_auroc``, ``best_update``, the test
        metrics (``auroc``, ``auprc``, ``f1``, ``weighted_f1``, ``classes``), and where it was made
        (``seconds``, of which ``training_seconds`` in training itself, ``device``, ``precision``,
        ``torch``, ``package``, ``code``). Where records were reconstructed, it is
        ``validation_explained``, and the test metrics are ``explained_variance`` and ``mse``.
    """

    key: str
    spec: RunSpec
    classes: tuple[str, ...]
    records: tuple[str, ...]
    predictions: npt.NDArray[np.float16]
    history: dict[str, list[float]]
    facts: dict[str, Any]

    @property
    def score(self) -> float:
        """How good the chosen checkpoint is on validation."""
        found = (self.facts.get(name) for name in SCORES)
        return float(next(score for score in found if score is not None))


@functools.cache
def provenance() -> dict[str, str]:
    """Return the versions and the machine that make a result."""
    import torch  # takes most of a second, which who only reads results need not wait for

    return {
        "package": ecgnb.__version__,
        "code": code_digest(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def code_digest() -> str:
    """Hash of the package's source, to tell which code made a result."""
    digest = hashlib.sha256()
    root = Path(ecgnb.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
