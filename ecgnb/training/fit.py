"""The training loop: a fixed number of updates, the best checkpoint chosen on validation."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn
from tqdm import tqdm

from ecgnb.errors import UserError
from ecgnb.training.metrics import macro_auroc

PRECISIONS = ("auto", "float32", "bf16")

_UNIT = 250.0  # microvolts: about the standard deviation of an ECG, so that inputs are near 1
_WEIGHT_DECAY = 0.01
_WARM_UP = 0.1  # share of the updates during which the learning rate rises
_GRADIENT_NORM = 1.0
_EVALUATION_BATCH = 128
_MIN_VALIDATION_POSITIVES = 3


@dataclass(frozen=True)
class Data:
    """Inputs and labels of one part of a dataset, on the device where they are used.

    Attributes
    ----------
    inputs : Tensor
        int16 microvolts (records, 12, samples), or float features (records, features).
    labels : Tensor of float32, shape (records, classes)
    """

    inputs: torch.Tensor
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
    """

    history: dict[str, list[float]]
    best_update: int
    validation_auroc: float


def choose_device() -> torch.device:
    """Choose a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_precision(wanted: str) -> None:
    """Raise a UserError if there is no such precision."""
    if wanted not in PRECISIONS:
        raise UserError(f"unknown precision {wanted!r}; choose one of {', '.join(PRECISIONS)}")


def choose_precision(wanted: str, device: torch.device, half_precision_on_cpu: bool) -> str:
    """Choose ``bf16`` where it is faster, else ``float32``, unless one is asked for.

    Raises
    ------
    UserError
        If the precision is unknown.
    """
    check_precision(wanted)
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    # Without such instructions bfloat16 is emulated, and slower than float32.
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if half_precision_on_cpu and has_bf16() else "float32"


def normalise(signals: torch.Tensor) -> torch.Tensor:
    """Turn int16 microvolts into floats near 1, each lead without its mean.

    Amplitudes between leads and records are kept, since hypertrophy and axis are read from them.
    """
    values = signals.float() / _UNIT
    return values - values.mean(dim=2, keepdim=True)


def predict(
    model: nn.Module, inputs: torch.Tensor, precision: str, sigmoid: bool = True
) -> npt.NDArray[np.float32]:
    """Return a model's output in evaluation mode, shape (records, outputs)."""
    model.eval()
    parts = []
    with torch.inference_mode(), _autocast(inputs.device, precision):
        for batch in inputs.split(_EVALUATION_BATCH):
            output = model(_ready(batch)).float()
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
        ``float32`` or ``bf16`` (autocast; weights and optimiser stay float32).
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
    order = _batches(len(train), schedule)
    truth = validation.labels.cpu().numpy().astype(bool)
    history: dict[str, list[float]] = {
        name: []
        for name in ("update", "train_loss", "validation_loss", "validation_auroc", "seconds")
    }
    best, best_state, best_update = -math.inf, copy.deepcopy(model.state_dict()), 0
    losses: list[torch.Tensor] = []
    started = time.perf_counter()
    bar = tqdm(total=schedule.updates, desc=progress, disable=not progress, leave=False)
    for update, rows in enumerate(order, start=1):
        model.train()
        with _autocast(train.inputs.device, precision):
            logits = model(_ready(train.inputs[rows]))
        loss = F.binary_cross_entropy_with_logits(logits.float(), train.labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, _GRADIENT_NORM)
        optimiser.step()
        rate.step()
        losses.append(loss.detach())
        bar.update()
        if update not in stops:
            continue
        scores = predict(model, validation.inputs, precision)
        reached = macro_auroc(truth, scores, _MIN_VALIDATION_POSITIVES)
        history["update"].append(update)
        history["train_loss"].append(float(torch.stack(losses).mean()))
        history["validation_loss"].append(_cross_entropy(truth, scores))
        history["validation_auroc"].append(reached)
        history["seconds"].append(time.perf_counter() - started)
        losses.clear()
        if reached > best:
            best, best_update = reached, update
            best_state = copy.deepcopy(model.state_dict())
    bar.close()
    model.load_state_dict(best_state)
    if best_update == 0:
        raise UserError(
            "no class has enough positives in the validation set to choose a checkpoint; use more "
            "records or a label set with more common classes"
        )
    return Fitted(history, best_update, best)


def _rate_factor(update: int, warm_up: int, updates: int) -> float:
    if update < warm_up:
        return (update + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (update - warm_up) / max(1, updates - warm_up)))


def _evaluation_updates(schedule: Schedule) -> set[int]:
    count = min(schedule.evaluations, schedule.updates)
    return {round(schedule.updates * (index + 1) / count) for index in range(count)}


def _batches(count: int, schedule: Schedule) -> list[torch.Tensor]:
    """Draw the batches of all updates: one permutation of the records after another."""
    generator = np.random.default_rng(schedule.seed)
    size = min(schedule.batch_size, count)
    wanted = schedule.updates * size
    stream = np.concatenate([generator.permutation(count) for _ in range(-(-wanted // count))])
    return list(torch.from_numpy(stream[:wanted]).split(size))


def _ready(inputs: torch.Tensor) -> torch.Tensor:
    return normalise(inputs) if inputs.dtype == torch.int16 else inputs


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _cross_entropy(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> float:
    likely = np.where(truth, scores, 1 - scores).clip(1e-7, 1)
    return float(-np.log(likely).mean())
