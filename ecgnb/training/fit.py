"""The training loop: a fixed number of updates, the best checkpoint chosen on validation."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn
from tqdm import tqdm

from ecgnb.errors import UserError
from ecgnb.training.device import autocast
from ecgnb.training.metrics import macro_auroc

_UNIT = 250.0  # microvolts: about the standard deviation of an ECG, so that inputs are near 1
_WEIGHT_DECAY = 0.01
_WARM_UP = 0.1  # share of the updates during which the learning rate rises
_GRADIENT_NORM = 1.0
_EVALUATION_BATCH = 128
_MIN_VALIDATION_POSITIVES = 3


@dataclass(frozen=True)
class Records:
    """Some records of a dataset, none of them copied: all parts of all runs share one array.

    Attributes
    ----------
    values : Tensor
        The whole dataset: int16 microvolts (all, 12, samples), or float features (all, features).
        Memory-mapped on a CPU; on a GPU it lies there once.
    rows : Tensor of int64, shape (records,)
        Which of them, on the device of `values`.
    """

    values: torch.Tensor
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        """Return some of the records, ready to enter a model."""
        found = self.values[self.rows[which]]
        return normalise(found) if found.dtype == torch.int16 else found

    def to(self, device: torch.device) -> Records:
        """Move the array to a device."""
        return Records(self.values.to(device), self.rows.to(device))

    def batches(self) -> Iterator[torch.Tensor]:
        """Go through all records in order, in batches for evaluation."""
        for which in torch.arange(len(self), device=self.rows.device).split(_EVALUATION_BATCH):
            yield self[which]


@dataclass(frozen=True)
class Data:
    """Records and their labels.

    Attributes
    ----------
    records : Records
    labels : Tensor of float32, shape (records, classes)
    """

    records: Records
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Schedule:
    """How a model is trained.

    Attributes
    ----------
    learning_rate : float
        Highest learning rate: it rises linearly over the first tenth and falls along a cosine.
    updates, batch_size : int
        Gradient steps, and records in each (at most as many as there are).
    evaluations : int
        How often validation is looked at, evenly over the updates.
    seed : int
        Order of the records.
    """

    learning_rate: float
    updates: int
    batch_size: int
    evaluations: int
    seed: int


@dataclass(frozen=True)
class Fitted:
    """What training gave.

    Attributes
    ----------
    history : dict of list
        ``update``, ``train_loss``, ``validation_loss``, ``validation_auroc`` and ``seconds``, one
        value an evaluation.
    best_update : int
        The update whose weights the model holds now.
    validation_auroc : float
        Its macro AUROC on validation.
    validation : ndarray of float32, shape (records, classes)
        Its probabilities on validation.
    evaluation_seconds : float
        What looking at validation took; the rest of the time went into updates.
    """

    history: dict[str, list[float]]
    best_update: int
    validation_auroc: float
    validation: npt.NDArray[np.float32]
    evaluation_seconds: float


def normalise(signals: torch.Tensor) -> torch.Tensor:
    """Turn int16 microvolts into floats near 1, each lead without its mean.

    Amplitudes between leads and records are kept, since hypertrophy and axis are read from them.
    """
    values = signals.float() / _UNIT
    return values - values.mean(dim=2, keepdim=True)


def predict(
    model: nn.Module, records: Records, precision: str, sigmoid: bool = True
) -> npt.NDArray[np.float32]:
    """Return a model's output in evaluation mode, shape (records, outputs)."""
    model.eval()
    parts = []
    with torch.inference_mode(), autocast(records.values.device, precision):
        for batch in records.batches():
            output = model(batch).float()
            parts.append(torch.sigmoid(output) if sigmoid else output)
    return torch.cat(parts).cpu().numpy()


def fit(
    model: nn.Module,
    train: Data,
    validation: Data,
    schedule: Schedule,
    *,
    precision: str = "float32",
    progress: str = "",
) -> Fitted:
    """Train a model, and leave it with the weights that did best on validation.

    Parameters
    ----------
    model : nn.Module
        Maps a batch of `train.inputs` to logits. Parameters with ``requires_grad=False`` stay.
    train, validation : Data
        Only these are seen.
    schedule : Schedule
        Updates, batches and learning rate.
    precision : str
        See `ecgnb.training.device.Setting`.
    progress : str
        Text before a progress bar; without it no bar is drawn.

    Returns
    -------
    Fitted
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, lr=schedule.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
    )
    warm_up = max(1, round(_WARM_UP * schedule.updates))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda update: _rate_factor(update, warm_up, schedule.updates)
    )
    stops = _evaluation_updates(schedule)
    device = train.labels.device
    # The order of all updates goes to the device at once, so that no update waits for it.
    order = _order(len(train), schedule).to(device).split(min(schedule.batch_size, len(train)))
    truth = validation.labels.cpu().numpy().astype(bool)
    history: dict[str, list[float]] = {
        name: []
        for name in ("update", "train_loss", "validation_loss", "validation_auroc", "seconds")
    }
    best, best_state, best_update = -math.inf, copy.deepcopy(model.state_dict()), 0
    best_scores = np.empty((0, 0), dtype=np.float32)
    losses: list[torch.Tensor] = []
    evaluating = 0.0
    started = time.perf_counter()
    bar = tqdm(total=schedule.updates, desc=progress, disable=not progress, leave=False)
    model.train()
    for update, which in enumerate(order, start=1):
        with autocast(device, precision):
            logits = model(train.records[which])
        loss = F.binary_cross_entropy_with_logits(logits.float(), train.labels[which])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, _GRADIENT_NORM)
        optimiser.step()
        rate.step()
        losses.append(loss.detach())  # read at the next evaluation: a GPU is not waited for
        bar.update()
        if update not in stops:
            continue
        history["train_loss"].append(float(torch.stack(losses).mean()))
        losses.clear()
        begun = time.perf_counter()
        scores = predict(model, validation.records, precision)
        model.train()
        reached = macro_auroc(truth, scores, _MIN_VALIDATION_POSITIVES)
        history["update"].append(update)
        history["validation_loss"].append(_cross_entropy(truth, scores))
        history["validation_auroc"].append(reached)
        if reached > best:
            best, best_update = reached, update
            best_state, best_scores = copy.deepcopy(model.state_dict()), scores
        evaluating += time.perf_counter() - begun
        history["seconds"].append(time.perf_counter() - started)
    bar.close()
    model.load_state_dict(best_state)
    if best_update == 0:
        raise UserError(
            "no class has enough positives in the validation set to choose a checkpoint; use more "
            "records or a label set with more common classes"
        )
    return Fitted(history, best_update, best, best_scores, evaluating)


def _rate_factor(update: int, warm_up: int, updates: int) -> float:
    if update < warm_up:
        return (update + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (update - warm_up) / max(1, updates - warm_up)))


def _evaluation_updates(schedule: Schedule) -> set[int]:
    count = min(schedule.evaluations, schedule.updates)
    return {round(schedule.updates * (index + 1) / count) for index in range(count)}


def _order(count: int, schedule: Schedule) -> torch.Tensor:
    """Draw the records of all updates: one permutation of the records after another."""
    generator = np.random.default_rng(schedule.seed)
    wanted = schedule.updates * min(schedule.batch_size, count)
    stream = np.concatenate([generator.permutation(count) for _ in range(-(-wanted // count))])
    return torch.from_numpy(stream[:wanted])


def _cross_entropy(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> float:
    likely = np.where(truth, scores, 1 - scores).clip(1e-7, 1)
    return float(-np.log(likely).mean())
