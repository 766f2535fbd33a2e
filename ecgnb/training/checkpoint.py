"""An unfinished training on disk, so that a stopped one goes on where it was.

What is kept is all that the next update depends on, so that a training that was stopped ends, on
the same kind of machine, with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ecgnb.files import put

_EVERY_S = 60.0


@dataclass
class State:
    """What a training has come to, beside the weights and the optimiser's averages.

    Attributes
    ----------
    update : int
        Updates done.
    history : dict of list
        See `ecgnb.training.fit.Fitted`.
    losses : list of Tensor
        Of the updates since validation was last looked at; read then, so that a GPU is not
        waited for.
    best_value, best_score : float
        What the checkpoint was chosen by, and how good it is on validation.
    best_update : int
    best_weights : dict of Tensor
    best_scores : Tensor
        Its probabilities on validation.
    seconds, evaluation_seconds : float
        Spent so far, in all and on looking at validation.
    """

    history: dict[str, list[float]]
    best_weights: dict[str, torch.Tensor]
    update: int = 0
    best_value: float = float("-inf")
    best_score: float = float("nan")
    best_update: int = 0
    best_scores: torch.Tensor = field(default_factory=lambda: torch.empty((0, 0)))
    losses: list[torch.Tensor] = field(default_factory=list)
    seconds: float = 0.0
    evaluation_seconds: float = 0.0


_PLAIN = (
    "history",
    "update",
    "best_value",
    "best_score",
    "best_update",
    "seconds",
    "evaluation_seconds",
)


class Checkpoint:
    """Where one training keeps what it has come to, at most once a minute.

    Parameters
    ----------
    path : Path
        The file.
    made_by : str
        What must be the same for a training to go on: the code, its versions, the device.
    """

    def __init__(self, path: Path, made_by: str) -> None:
        self.path = path
        self.made_by = made_by
        self._last = time.monotonic()

    def due(self) -> bool:
        """Tell whether it is time to save again."""
        return time.monotonic() - self._last >= _EVERY_S

    def save(self, state: State, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Write down a training; where that cannot be, warn once, and let it go on without."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in state.best_weights.items()}
        for index, averages in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in averages.items()}
        tensors["scores"] = state.best_scores
        if state.losses:
            tensors["losses"] = torch.stack(state.losses)
        plain = {name: getattr(state, name) for name in _PLAIN}
        facts = {"made_by": self.made_by, "state": json.dumps(plain)}
        # Copies: a file holds no two tensors that share memory.
        whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        written = save(whole, metadata=facts)
        try:
            put(self.path, lambda path: path.write_bytes(written))
            self._last = time.monotonic()
        except OSError as error:
            self._last = math.inf
            warnings.warn(
                f"cannot write to {self.path.parent.parent} ({error.strerror or error}); a "
                "training that is stopped now begins again",
                stacklevel=2,
            )

    def load(self, state: State, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Bring a training that has just begun to where it was; leave it if nothing is kept."""
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = file.metadata()
                if facts["made_by"] != self.made_by:
                    return  # two codes or two machines in one run would be neither's result
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # not there, or not written by this program
            return
        for name, value in json.loads(facts["state"]).items():
            setattr(state, name, value)
        model.load_state_dict(_part(tensors, "model."))
        state.best_weights = _part(tensors, "best.")
        state.best_scores = tensors["scores"]
        device = next(model.parameters()).device
        state.losses = list(tensors["losses"].to(device)) if "losses" in tensors else []
        _restore(optimiser, _part(tensors, "optimiser."))


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _restore(optimiser: torch.optim.Optimizer, found: dict[str, torch.Tensor]) -> None:
    parameters = [one for group in optimiser.param_groups for one in group["params"]]
    averages: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in found.items():
        index, _, kind = name.partition(".")
        like = parameters[int(index)]
        # An average lies in memory as its parameter does, which a file does not tell.
        if value.shape == like.shape:
            value = torch.empty_like(like, requires_grad=False).copy_(value)
        averages.setdefault(int(index), {})[kind] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": averages})
