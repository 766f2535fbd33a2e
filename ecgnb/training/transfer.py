"""Training a model in one arm: from scratch, or from what was learnt elsewhere."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from ecgnb.errors import UserError
from ecgnb.models.build import Model
from ecgnb.models.kernels import draw_kernels, ridge
from ecgnb.training.arms import check_arm
from ecgnb.training.checkpoint import Checkpoint
from ecgnb.training.device import autocast
from ecgnb.training.fit import Fitted, Schedule, fit
from ecgnb.training.inputs import CLASSIFY, Data, Records, Task, predict, wanted_of

_NOTHING = np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Trained:
    """A trained arm: what happened, and what it says of the test records.

    `test` is float32 of shape (records, outputs), probabilities if the task is to name classes;
    empty where no test records were given. `seconds` are what updates took, and features where the
    encoder is frozen; without looking at validation and test.
    """

    fitted: Fitted
    test: npt.NDArray[np.float32]
    seconds: float


def train_arm(
    model: Model,
    arm: str,
    train: Data,
    validation: Data,
    test: Records | None,
    schedule: Schedule,
    *,
    precision: str = "float32",
    features: torch.Tensor | None = None,
    chosen_on: Data | None = None,
    checkpoint: Checkpoint | None = None,
    task: Task = CLASSIFY,
) -> Trained:
    """Train a model in one arm, a name of `ARMS`, and predict the test records.

    The model has the encoder of the source where the arm is pre-trained (see `load_encoder`). The
    labels of `test` nobody here knows; it is read once, after everything is chosen. `schedule` is
    the same for every arm of a comparison. `precision` is ``float32``, ``tf32`` or ``bf16``; a head
    on features is always trained in float32. `features` are what a frozen pre-trained encoder says
    of every record of the dataset (see `encode`), where that is known already. `chosen_on` are the
    test records with their labels, for a protocol that chooses the checkpoint on them. A training
    that is stopped goes on from its `checkpoint`; what comes before its last part is done again.
    """
    kind = check_arm(arm)
    if not kind.trained:
        said = predict(model, validation.records, precision, task.probabilities)
        score = task.score(said, wanted_of(task, validation))
        tested = predict(model, test, precision, task.probabilities) if test else _NOTHING
        return Trained(Fitted({}, 0, score, said, 0.0), tested, 0.0)
    started = time.perf_counter()
    parts = [train.records, validation.records, *([] if test is None else [test])]
    net: nn.Module = model  # what is trained: the whole of it, or its head
    probed = None
    if kind.frozen or kind.probing:
        if not kind.pretrained:
            _calibrate(model.encoder, train.records, precision)
        # A frozen encoder says the same of a record in every epoch: ask it once.
        if features is None:
            found = [encode(model, part, precision) for part in parts]
        else:
            found = [features[part.rows.cpu()] for part in parts]
        scaled, mean, scale = _standardise(found)
        asked = [Records(part, torch.arange(len(part))) for part in scaled]
        asked = [part.to(train.labels.device) for part in asked]
        if kind.frozen:
            parts, net, precision = asked, model.head, "float32"
        else:
            first, schedule = _divide(schedule, kind.probing)
            known = Data(asked[0], train.labels)
            probed = fit(model.head, known, Data(asked[1], validation.labels), first)
            _unscale(model.head, mean, scale)
    sides = Data(parts[0], train.labels), Data(parts[1], validation.labels)
    fitted = fit(
        net, *sides, schedule, precision=precision, test=chosen_on, checkpoint=checkpoint, task=task
    )
    if probed:
        fitted = _joined(probed, fitted)
    seconds = time.perf_counter() - started + fitted.earlier_seconds - fitted.evaluation_seconds
    tested = predict(net, parts[2], precision, task.probabilities) if parts[2:] else _NOTHING
    if kind.frozen:
        _unscale(model.head, mean, scale)
    return Trained(fitted, tested, seconds)


def train_without_network(
    train: Data, validation: Data, test: Records | None, seed: int
) -> Trained:
    """Fit random convolution kernels, drawn by `seed`, and a ridge regression.

    Validation records are scored only: the penalty is chosen on training records.
    """
    started = time.perf_counter()
    kernels = draw_kernels(train.records[torch.arange(len(train))].cpu(), seed)
    parts = [
        np.concatenate([kernels.transform(batch.cpu()) for batch in records.batches()])
        for records in (train.records, validation.records, test)
        if records is not None
    ]
    said, *tested = ridge(parts[0], train.labels.cpu().numpy().astype(bool), *parts[1:])
    seconds = time.perf_counter() - started
    score = CLASSIFY.score(said, wanted_of(CLASSIFY, validation))
    return Trained(Fitted({}, 0, score, said, 0.0), tested[0] if tested else _NOTHING, seconds)


def encode(model: Model, records: Records, precision: str) -> torch.Tensor:
    """Return the features of records, float32 of shape (records, features), on the CPU."""
    return torch.from_numpy(predict(model.encoder, records, precision, sigmoid=False))


def _divide(schedule: Schedule, share: float) -> tuple[Schedule, Schedule]:
    """Divide the updates of a schedule, and its looks at validation, in two."""
    updates = max(1, round(share * schedule.updates))
    looks = max(1, round(share * schedule.evaluations))
    first = replace(schedule, updates=updates, evaluations=looks)
    rest = max(1, schedule.evaluations - looks)
    return first, replace(schedule, updates=schedule.updates - updates, evaluations=rest)


def _unscale(head: nn.Module, mean: torch.Tensor, scale: torch.Tensor) -> None:
    """Let a head that was trained on scaled features say the same of plain ones."""
    first = next(layer for layer in head.modules() if isinstance(layer, nn.Linear))
    device = first.weight.device
    with torch.no_grad():
        first.weight.mul_(scale.to(device))
        first.bias.sub_(first.weight @ mean.to(device))


def _joined(first: Fitted, second: Fitted) -> Fitted:
    """Put two trainings behind one another; the second chose the checkpoint."""
    history = {}
    for name, values in first.history.items():
        before = values[-1] if name in ("update", "seconds") else 0
        history[name] = [*values, *(before + later for later in second.history[name])]
    return replace(
        second,
        history=history,
        best_update=second.best_update + round(first.history["update"][-1]),
        evaluation_seconds=first.evaluation_seconds + second.evaluation_seconds,
    )


def _standardise(
    parts: list[torch.Tensor],
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Scale all parts by the mean and deviation of the first, the training records."""
    mean, deviation = parts[0].mean(dim=0), parts[0].std(dim=0)
    # A unit that is silent on all training records stays silent, rather than exploding.
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), torch.zeros(()).to(mean))
    return [(part - mean) * scale for part in parts], mean, scale


def _calibrate(encoder: nn.Module, records: Records, precision: str) -> None:
    """Give a random encoder's normalisation layers the statistics of the training records."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches below
    encoder.train()
    with torch.no_grad(), autocast(records.values.device, precision):
        for batch in records.batches():
            encoder(batch)


def save_weights(model: Model, path: Path, facts: dict[str, object]) -> None:
    """Write a model's weights as safetensors, with facts about it as JSON inside."""
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    # Written by Python, whose error on a full disk is an OSError.
    path.write_bytes(save(tensors, metadata={"ecgnb": json.dumps(facts, sort_keys=True)}))


def load_encoder(model: Model, path: Path, *, head: bool = False) -> None:
    """Give a model the encoder of `path`; its head stays as it is, unless that is wanted too.

    Raises a UserError if the file is not such a file or holds another encoder.
    """
    prefix = "" if head else "encoder."
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            state = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        (model if head else model.encoder).load_state_dict(state)
    except Exception as error:  # safetensors raises its own type, PyTorch RuntimeError
        raise UserError(
            f"{path.name} does not hold the weights of this network; delete it, and the "
            "pre-training is done again"
        ) from error


def source_probabilities(path: Path, features: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return what the source's own linear head says of features, shape (records, its classes)."""
    with safe_open(path, framework="pt") as file:
        weight, bias = file.get_tensor("head.weight"), file.get_tensor("head.bias")
    return torch.sigmoid(features @ weight.T + bias).numpy()
