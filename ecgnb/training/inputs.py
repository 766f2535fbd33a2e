"""What enters a model, and what it says of it: records that all runs share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn

from ecgnb.data.records import LEADS
from ecgnb.training.device import autocast
from ecgnb.training.metrics import AUROC, EXPLAINED, UNLABELLED, macro_auroc

UNIT = 250.0  # microvolts: about the standard deviation of an ECG, so that inputs are near 1
_EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Records:
    """Some records of a dataset, none of them copied: all parts of all runs share one array.

    `values` are the whole dataset, int16 microvolts (all, 12, samples) or float features (all,
    features), memory-mapped on a CPU, and on a GPU there once; `rows`, int64 on the same device,
    say which of them. If `ranged`, each lead of each record is scaled to the range from -1 to 1, as
    in the protocol ``paper``, instead of keeping its amplitude.
    """

    values: torch.Tensor
    rows: torch.Tensor
    ranged: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        """Return some of the records, ready to enter a model."""
        found = self.values[self.rows[which]]
        if found.dtype != torch.int16:
            return found
        return to_range(found) if self.ranged else normalise(found)

    def to(self, device: torch.device) -> "Records":
        """Move the array to a device."""
        return replace(self, values=self.values.to(device), rows=self.rows.to(device))

    def batches(self) -> Iterator[torch.Tensor]:
        """Go through all records in order, in batches for evaluation."""
        for which in torch.arange(len(self), device=self.rows.device).split(_EVALUATION_BATCH):
            yield self[which]


@dataclass(frozen=True)
class Data:
    """Records and their labels, float32 of shape (records, classes)."""

    records: Records
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def normalise(signals: torch.Tensor) -> torch.Tensor:
    """Turn int16 microvolts into floats near 1, each lead without its mean.

    Amplitudes between leads and records are kept, since hypertrophy and axis are read from them.
    """
    values = signals.float() / UNIT
    return values - values.mean(dim=2, keepdim=True)


def to_range(signals: torch.Tensor) -> torch.Tensor:
    """Scale each lead of each record to the range from -1 to 1; a lead that never moves gets 0."""
    values = signals.float()
    low, high = values.amin(dim=2, keepdim=True), values.amax(dim=2, keepdim=True)
    return (2 * values - low - high) / (high - low).clamp(min=1.0)


def augment(batch: torch.Tensor, seed: int, update: int) -> torch.Tensor:
    """Change records a little: amplitude by up to a fifth, noise, and a shift by up to a tenth.

    What is shifted out at one end comes in at the other. `seed` and `update` decide what is drawn,
    so that a training goes on as it would have.
    """
    rng = np.random.default_rng((seed, update))
    count, _, samples = batch.shape
    gains = torch.from_numpy(rng.uniform(0.8, 1.2, (count, 1, 1)).astype(np.float32))
    shifts = rng.integers(-(samples // 10), samples // 10 + 1, count)
    noise = torch.from_numpy(rng.standard_normal(batch.shape, dtype=np.float32))
    places = (np.arange(samples) - shifts[:, None, None]) % samples
    moved = batch.gather(2, torch.from_numpy(places).to(batch.device).expand(batch.shape))
    return moved * gains.to(batch) + 0.1 * noise.to(batch)


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


MIN_VALIDATION_POSITIVES = 3

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What a network is trained for."""

    # what the output should be, from a batch as it enters the network and the labels of its records
    wanted: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    # of output and wanted: what is made small
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    # how good the output is on validation, the higher the better; by it the checkpoint is chosen
    score: Callable[[Values, Values], float]
    cost: Callable[[Values, Values], float]  # the loss as a number, on validation
    name: str  # of the score, in a history
    probabilities: bool  # whether the output is turned into them before it is scored


def _cross_entropy(output: Values, wanted: Values) -> float:
    likely = np.where(wanted, output, 1 - output).clip(1e-7, 1)
    return float(-np.log(likely).mean())


def _squared(output: Values, wanted: Values) -> float:
    return float(np.square(output - wanted).mean())


def explained_variance(output: Values, wanted: Values) -> float:
    """Share of the variance of windows, each with a mean of 0, that reconstructions explain."""
    return 1.0 - float(np.square(output - wanted).sum() / np.square(wanted).sum())


def reconstruction(output: Values, wanted: Values) -> dict[str, float]:
    """Score reconstructions in the unit of `normalise`; ``mse`` is in microvolts squared."""
    mse = _squared(output, wanted) * UNIT**2
    return {"explained_variance": explained_variance(output, wanted), "mse": mse}


CLASSIFY = Task(
    wanted=lambda records, labels: labels,
    loss=F.binary_cross_entropy_with_logits,
    score=lambda output, wanted: macro_auroc(wanted.astype(bool), output, MIN_VALIDATION_POSITIVES),
    cost=_cross_entropy,
    name=AUROC,
    probabilities=True,
)
RECONSTRUCT = Task(
    wanted=lambda records, labels: records[:, LEADS.index("II")],
    loss=F.mse_loss,
    score=explained_variance,
    cost=_squared,
    name=EXPLAINED,
    probabilities=False,
)


def wanted_of(task: Task, data: Data) -> Values:
    """Return what a network should say of some records, shape (records, outputs)."""
    batches = zip(data.records.batches(), data.labels.split(_EVALUATION_BATCH), strict=True)
    return torch.cat([task.wanted(*batch) for batch in batches]).float().cpu().numpy()


def task_of(label_set: str) -> Task:
    """Return the task that a label set stands for."""
    return RECONSTRUCT if label_set == UNLABELLED else CLASSIFY
