"""The training loop: a fixed number of updates, by a recipe."""

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ecgnb.errors import UserError
from ecgnb.training.arms import check_protocol, recipe_of
from ecgnb.training.checkpoint import Checkpoint, State
from ecgnb.training.device import autocast
from ecgnb.training.inputs import CLASSIFY, Data, Task, augment, predict, wanted_of
from ecgnb.training.metrics import weighted_f1

_WARM_UP = 0.1  # share of the updates during which the learning rate rises
_MOMENTUM = 0.9
_AVERAGED = 0.99  # how much of a running average of weights an update leaves


@dataclass(frozen=True)
class Schedule:
    """How a model is trained.

    `learning_rate` is the highest that the recipe's schedule reaches. There are `updates` gradient
    steps with `batch_size` records in each (at most as many as there are), evenly over which
    validation is looked at `evaluations` times; or, if not 0, `epochs` passes over the records,
    each looked at, of which the last batch is what is left. The `seed` orders the records. `recipe`
    is a name of `ecgnb.training.arms.RECIPES`; "" for that of the protocol.
    """

    learning_rate: float
    updates: int
    batch_size: int
    evaluations: int
    seed: int
    protocol: str = "clean"
    epochs: int = 0
    recipe: str = ""


@dataclass(frozen=True)
class Fitted:
    """What training gave.

    `best_update` is the update whose weights the model holds now; `validation` what it says of
    validation, float32 of shape (records, outputs), probabilities if the task is to name classes;
    and `score` how good that is: macro AUROC, unless the task has another score. The `history` has
    one value an evaluation of ``update``, ``train_loss``, ``validation_loss``, ``validation_auroc``
    (or how the task calls its score) and ``seconds``; and of ``validation_f1`` and ``test_f1``,
    weighted by prevalence, where the protocol looks at the test set.

    Of the seconds, `evaluation_seconds` went into looking at validation; `earlier_seconds` are what
    a training that was stopped had taken, where this one went on from its checkpoint.
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
    """Train a model, and leave it with the weights that its recipe keeps.

    It maps a batch of `train.records` to logits; parameters with ``requires_grad=False`` stay. Only
    `train` and `validation` are seen, but for a protocol that chooses the checkpoint on `test`, as
    published. A training that is stopped goes on from its `checkpoint`. On `precision` see
    `ecgnb.training.device.choose_precision`.
    """
    protocol = check_protocol(schedule.protocol)
    if protocol.chosen_on_test != (test is not None):
        raise ValueError("test records are for a protocol that chooses on them, and for no other")
    recipe = recipe_of(schedule.recipe, schedule.protocol)
    rate, decay = schedule.learning_rate, recipe.weight_decay
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    # The order of all updates goes to the device at once, so that no update waits for it.
    order, stops = _order(train, schedule)
    names = ["update", "train_loss", "validation_loss", task.name, "seconds"]
    names += ["validation_f1", "test_f1"] if test is not None else []
    state = State({name: [] for name in names}, copy.deepcopy(model.state_dict()))
    if checkpoint:
        checkpoint.load(state, model, optimiser)
    shadow = copy.deepcopy(model) if recipe.keeps == "average" else model
    earlier = state.seconds
    begun = time.perf_counter() - earlier
    model.train()

    def look() -> None:
        """Look at validation; of a recipe that chooses, keep the weights if they did best."""
        history, wanted = state.history, wanted_of(task, validation)
        chooses = recipe.keeps == "best"
        history["train_loss"].append(float(torch.stack(state.losses).mean()))
        state.losses.clear()
        output = predict(shadow, validation.records, precision, task.probabilities)
        value = reached = task.score(output, wanted)
        history["update"].append(state.update)
        history["validation_loss"].append(task.cost(output, wanted))
        history[task.name].append(reached)
        if test is not None:
            seen = predict(shadow, test.records, precision)
            value = weighted_f1(wanted_of(task, test).astype(bool), seen)
            history["validation_f1"].append(weighted_f1(wanted.astype(bool), output))
            history["test_f1"].append(value)
        if value > state.best_value or not chooses:
            state.best_value, state.best_update, state.best_score = value, state.update, reached
            state.best_scores = torch.from_numpy(output)
            if chooses:
                state.best_weights = copy.deepcopy(shadow.state_dict())

    for which in order[state.update :]:
        factor, momentum = _factors(state.update, len(order), recipe.schedule)
        for group in optimiser.param_groups:
            group["lr"], group["betas"] = rate * factor, (momentum, 0.999)
        batch = train.records[which]
        if recipe.augmented and batch.dim() == 3:  # records, not features of a frozen encoder
            batch = augment(batch, schedule.seed, state.update)
        with autocast(train.labels.device, precision):
            output = model(batch)
        loss = task.loss(output.float(), task.wanted(batch, train.labels[which]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clipping:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clipping)
        optimiser.step()
        if recipe.keeps == "average":
            _average(state.best_weights, model)
        state.losses.append(loss.detach())
        state.update += 1
        if state.update in stops:
            looked = time.perf_counter()
            if recipe.keeps == "average":
                shadow.load_state_dict(state.best_weights)
            look()
            model.train()
            state.evaluation_seconds += time.perf_counter() - looked
            state.history["seconds"].append(time.perf_counter() - begun)
        if checkpoint and checkpoint.due():
            state.seconds = time.perf_counter() - begun
            checkpoint.save(state, model, optimiser)
    if recipe.keeps != "last":
        model.load_state_dict(state.best_weights)
    # Where a training has diverged, the score says so.
    if state.best_update == 0 and math.isfinite(state.history["train_loss"][-1]):
        raise UserError(
            "no class has enough positives in the validation set to choose a checkpoint; use more "
            "records or a label set with more common classes"
        )
    found = state.best_update, state.best_score, state.best_scores.numpy()
    return Fitted(state.history, *found, state.evaluation_seconds, earlier)


def _average(weights: dict[str, torch.Tensor], model: nn.Module) -> None:
    """Move a running average of weights towards those that a model has now."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            weights[name].lerp_(value, 1 - _AVERAGED)
        else:
            weights[name].copy_(value)


def _factors(update: int, updates: int, schedule: str) -> tuple[float, float]:
    """Return the factor of the learning rate and the momentum of an update, counted from 0."""
    if schedule == "constant":
        return 1.0, _MOMENTUM
    if schedule == "one-cycle":  # the numbers of PyTorch's OneCycleLR
        top = 0.3 * updates - 1
        rising = update <= top
        along = update / top if rising else (update - top) / (updates - 1 - top)
        start, end = (1 / 25, 1.0) if rising else (1.0, 1 / 25e4)
        low, high = (0.95, 0.85) if rising else (0.85, 0.95)
        fall = 0.5 * (1 + math.cos(math.pi * along))
        return end + (start - end) * fall, high + (low - high) * fall
    warm_up = max(1, round(_WARM_UP * updates))
    if update < warm_up:
        return (update + 1) / warm_up, _MOMENTUM
    along = (update - warm_up) / max(1, updates - warm_up)
    return 0.5 * (1 + math.cos(math.pi * along)), _MOMENTUM


def _order(train: Data, schedule: Schedule) -> tuple[list[torch.Tensor], set[int]]:
    """Draw the records of all updates, and say after which of them validation is looked at."""
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
