"""The training loop: a fixed number of updates, the best checkpoint chosen on validation."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ecgnb.errors import UserError
from ecgnb.training.arms import Protocol, check_protocol
from ecgnb.training.checkpoint import Checkpoint, State
from ecgnb.training.device import autocast
from ecgnb.training.inputs import CLASSIFY, Data, Task, predict
from ecgnb.training.metrics import weighted_f1

_AT_ONCE = 128  # records
_WARM_UP = 0.1  # share of the updates during which the learning rate rises

_HISTORY = ("update", "train_loss", "validation_loss")
_SEEN_ON_TEST = ("validation_f1", "test_f1")


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
    protocol : str
        A name of `PROTOCOLS`.
    epochs : int
        If not 0, so many passes over the records, each looked at, stand for `updates` and
        `evaluations`; the last batch of a pass is what is left.
    """

    learning_rate: float
    updates: int
    batch_size: int
    evaluations: int
    seed: int
    protocol: str = "clean"
    epochs: int = 0


@dataclass(frozen=True)
class Fitted:
    """What training gave.

    Attributes
    ----------
    history : dict of list
        ``update``, ``train_loss``, ``validation_loss``, ``validation_auroc`` (or how the task calls
        its score) and ``seconds``, one value an evaluation; ``validation_f1`` and ``test_f1``,
        weighted by prevalence, where the protocol looks at the test set.
    best_update : int
        The update whose weights the model holds now.
    score : float
        How good it is on validation: macro AUROC, unless the task has another score.
    validation : ndarray of float32, shape (records, outputs)
        What it says of validation: probabilities, if the task is to name classes.
    evaluation_seconds : float
        What looking at validation took; the rest of the time went into updates.
    earlier_seconds : float
        What a training that was stopped had taken, where this one went on from its checkpoint.
    """

    history: dict[str, list[float]]
    best_update: int
    score: float
    validation: npt.NDArray[np.float32]
    evaluation_seconds: float
    earlier_seconds: float = 0.0


def fit(
    model: nn.Module,
    train: Data,
    validation: Data,
    schedule: Schedule,
    *,
    precision: str = "float32",
    test: Data | None = None,
    checkpoint: Checkpoint | None = None,
    task: Task = CLASSIFY,
) -> Fitted:
    """Train a model, and leave it with the weights that did best.

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
    test : Data, optional
        Only for a protocol that chooses the checkpoint on it, as published.
    checkpoint : Checkpoint, optional
        Where a training that is stopped goes on.
    task : Task
        What the network is trained for.

    Returns
    -------
    Fitted
    """
    protocol = check_protocol(schedule.protocol)
    if protocol.chosen_on_test != (test is not None):
        raise ValueError("test records are for a protocol that chooses on them, and for no other")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, lr=schedule.learning_rate, weight_decay=protocol.weight_decay, fused=True
    )
    # The order of all updates goes to the device at once, so that no update waits for it.
    order, stops = _order(train, schedule)
    names = (*_HISTORY, task.name, "seconds", *(_SEEN_ON_TEST if test is not None else ()))
    state = State({name: [] for name in names}, copy.deepcopy(model.state_dict()))
    if checkpoint:
        checkpoint.load(state, model, optimiser)
    earlier = state.seconds
    begun = time.perf_counter() - earlier
    model.train()
    for which in order[state.update :]:
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * _rate_factor(state.update, len(order), protocol)
        batch = train.records[which]
        with autocast(train.labels.device, precision):
            output = model(batch)
        loss = task.loss(output.float(), task.wanted(batch, train.labels[which]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if protocol.clipping:
            nn.utils.clip_grad_norm_(trained, protocol.clipping)
        optimiser.step()
        state.losses.append(loss.detach())
        state.update += 1
        if state.update in stops:
            looked = time.perf_counter()
            _look(state, model, validation, test, precision, task)
            state.evaluation_seconds += time.perf_counter() - looked
            state.history["seconds"].append(time.perf_counter() - begun)
        if checkpoint and checkpoint.due():
            state.seconds = time.perf_counter() - begun
            checkpoint.save(state, model, optimiser)
    model.load_state_dict(state.best_weights)
    if state.best_update == 0:
        raise UserError(
            "no class has enough positives in the validation set to choose a checkpoint; use more "
            "records or a label set with more common classes"
        )
    return Fitted(
        state.history,
        state.best_update,
        state.best_score,
        state.best_scores.numpy(),
        state.evaluation_seconds,
        earlier,
    )


def _look(
    state: State,
    model: nn.Module,
    validation: Data,
    test: Data | None,
    precision: str,
    task: Task,
) -> None:
    """Look at validation, and keep the weights if they are the best so far."""
    history, wanted = state.history, wanted_of(task, validation)
    history["train_loss"].append(float(torch.stack(state.losses).mean()))
    state.losses.clear()
    output = predict(model, validation.records, precision, task.probabilities)
    reached = task.score(output, wanted)
    history["update"].append(state.update)
    history["validation_loss"].append(task.cost(output, wanted))
    history[task.name].append(reached)
    if test is not None:
        seen = predict(model, test.records, precision)
        history["validation_f1"].append(weighted_f1(wanted.astype(bool), output))
        history["test_f1"].append(weighted_f1(wanted_of(task, test).astype(bool), seen))
    model.train()
    value = reached if test is None else history["test_f1"][-1]
    if value > state.best_value:
        state.best_value, state.best_update, state.best_score = value, state.update, reached
        state.best_weights = copy.deepcopy(model.state_dict())
        state.best_scores = torch.from_numpy(output)


def wanted_of(task: Task, data: Data) -> npt.NDArray[np.float32]:
    """Return what a network should say of some records, shape (records, outputs)."""
    parts = [
        task.wanted(data.records[which], data.labels[which])
        for which in torch.arange(len(data), device=data.labels.device).split(_AT_ONCE)
    ]
    return torch.cat(parts).float().cpu().numpy()


def _rate_factor(update: int, updates: int, protocol: Protocol) -> float:
    """Say by what the learning rate is multiplied in an update, counted from 0."""
    if not protocol.scheduled:
        return 1.0
    warm_up = max(1, round(_WARM_UP * updates))
    if update < warm_up:
        return (update + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (update - warm_up) / max(1, updates - warm_up)))


def _order(train: Data, schedule: Schedule) -> tuple[list[torch.Tensor], set[int]]:
    """Draw the records of all updates, and say after which of them validation is looked at.

    One permutation of the records after another.
    """
    generator, count, device = np.random.default_rng(schedule.seed), len(train), train.labels.device
    size = min(schedule.batch_size, count)
    if schedule.epochs:
        drawn = np.stack([generator.permutation(count) for _ in range(schedule.epochs)])
        passes = torch.from_numpy(drawn).to(device)
        batches = [batch for each in passes for batch in each.split(size)]
        looks = schedule.epochs
    else:
        wanted = schedule.updates * size
        stream = np.concatenate([generator.permutation(count) for _ in range(-(-wanted // count))])
        batches = list(torch.from_numpy(stream[:wanted]).to(device).split(size))
        looks = min(schedule.evaluations, schedule.updates)
    return batches, {round(len(batches) * (index + 1) / looks) for index in range(looks)}
