"""An unfinished training on disk, so that a stopped one goes on where it was.

What is kept is all that the next update depends on, so that a training that was stopped ends, on
the same kind of machine, with the same bits as one that was not.
"""

import hashlib
import io
import math
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ecgnb.files import put

_EVERY_S = 60.0
_DIGEST = hashlib.sha256().digest_size


@dataclass
class State:
    """What a training has come to, beside the weights and the optimiser's averages."""

    history: dict[str, list[float]]  # see `ecgnb.training.fit.Fitted`
    best_weights: dict[str, torch.Tensor]
    update: int = 0  # updates done
    best_value: float = float("-inf")  # what the checkpoint was chosen by
    best_score: float = float("nan")  # how good it is on validation
    best_update: int = 0
    # its probabilities on validation
    best_scores: torch.Tensor = field(default_factory=lambda: torch.empty((0, 0)))
    # Of the updates since validation was last looked at; read then, so that a GPU is not waited
    # for.
    losses: list[torch.Tensor] = field(default_factory=list)
    seconds: float = 0.0  # spent so far, in all
    evaluation_seconds: float = 0.0  # of these, on looking at validation


class Checkpoint:
    """Where one training keeps what it has come to, at most once a minute.

    `made_by` is what must be the same for a training to go on: the code, its versions, the device.
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
        training = {
            "made_by": self.made_by,
            "state": vars(state),
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        torch.save(training, written := io.BytesIO())
        digest = hashlib.sha256(written.getbuffer()).digest()
        try:
            put(self.path, lambda path: path.write_bytes(digest + written.getbuffer()))
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
            written = self.path.read_bytes()
        except OSError:
            return
        digest, written = written[:_DIGEST], written[_DIGEST:]
        if hashlib.sha256(written).digest() != digest:
            warnings.warn(f"{self.path} is damaged; the training begins again", stacklevel=2)
            return
        device = next(model.parameters()).device
        training = torch.load(io.BytesIO(written), map_location=device, weights_only=True)
        if training["made_by"] != self.made_by:
            return  # two codes or two machines in one run would be neither's result
        vars(state).update(training["state"])
        state.best_scores = state.best_scores.cpu()
        model.load_state_dict(training["model"])
        optimiser.load_state_dict(training["optimiser"])
