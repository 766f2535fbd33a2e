"""What a network is trained for: to name findings, or to draw a record again.

The loop of `ecgnb.training.fit` is the same for both; here is what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)

from ecgnb.data.records import LEADS
from ecgnb.training.inputs import UNIT
from ecgnb.training.metrics import AUROC, EXPLAINED, UNLABELLED, macro_auroc

MIN_VALIDATION_POSITIVES = 3

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes
    ----------
    wanted : callable
        ``wanted(records, labels)``: what the output should be, from a batch as it enters the
        network and the labels of its records.
    loss : callable
        ``loss(output, wanted)``: what is made small.
    score : callable
        ``score(output, wanted)``: how good it is on validation, the higher the better; by it the
        checkpoint is chosen.
    cost : callable
        ``cost(output, wanted)``: the loss as a number, on validation.
    name : str
        Of the score, in a history.
    probabilities : bool
        Whether the output is turned into probabilities before it is scored.
    """

    wanted: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    score: Callable[[Values, Values], float]
    cost: Callable[[Values, Values], float]
    name: str
    probabilities: bool


def _cross_entropy(output: Values, wanted: Values) -> float:
    likely = np.where(wanted, output, 1 - output).clip(1e-7, 1)
    return float(-np.log(likely).mean())


def _auroc(output: Values, wanted: Values) -> float:
    return macro_auroc(wanted.astype(bool), output, MIN_VALIDATION_POSITIVES)


def _squared(output: Values, wanted: Values) -> float:
    return float(np.square(output - wanted).mean())


def explained_variance(output: Values, wanted: Values) -> float:
    """Share of the variance that a reconstruction explains, over all windows and samples.

    Parameters
    ----------
    output, wanted : ndarray, shape (windows, samples)
        Each window of `wanted` has a mean of 0.
    """
    return 1.0 - float(np.square(output - wanted).sum() / np.square(wanted).sum())


def reconstruction(output: Values, wanted: Values) -> dict[str, float]:
    """Say how good reconstructions are: ``explained_variance``, and ``mse`` in microvolts squared.

    Parameters
    ----------
    output, wanted : ndarray, shape (windows, samples)
        In the unit of `ecgnb.training.inputs.normalise`.
    """
    mse = _squared(output, wanted) * UNIT**2
    return {"explained_variance": explained_variance(output, wanted), "mse": mse}


def _labels(records: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return labels


def _lead_ii(records: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return records[:, LEADS.index("II")]


CLASSIFY = Task(_labels, F.binary_cross_entropy_with_logits, _auroc, _cross_entropy, AUROC, True)
RECONSTRUCT = Task(_lead_ii, F.mse_loss, explained_variance, _squared, EXPLAINED, False)


def task_of(label_set: str) -> Task:
    """Return the task that a label set stands for."""
    return RECONSTRUCT if label_set == UNLABELLED else CLASSIFY
