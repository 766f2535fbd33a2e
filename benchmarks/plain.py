"""What a user would otherwise write: Conv1d, float32, a DataLoader, the defaults.

The networks are those of `ecgnb.models`, with as many parameters.
"""

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

WIDTHS = (64, 64, 128, 256, 512)


class Block(nn.Module):
    """A residual block of two convolutions, or a bottleneck of three."""

    def __init__(self, layers: list[nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


def _convolutions(*parts: tuple[int, int, int, int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride in parts:
        layers += [
            nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
        ]
    return layers[:-1]  # the last activation follows the sum


def resnet(blocks: tuple[int, ...], expansion: int, classes: int) -> nn.Module:
    """Build a residual network of basic blocks (expansion 1) or bottlenecks (4)."""
    layers = [*_convolutions((12, 64, 7, 2)), nn.ReLU(), nn.MaxPool1d(3, 2, 1)]
    inputs = WIDTHS[0]
    for stage, ((_, width), count) in enumerate(zip(pairwise(WIDTHS), blocks, strict=True)):
        outputs = width * expansion
        for block in range(count):
            stride = 2 if stage and not block else 1
            if expansion == 1:
                inner = _convolutions((inputs, width, 3, stride), (width, width, 3, 1))
            else:
                inner = _convolutions(
                    (inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)
                )
            shortcut: nn.Module = nn.Identity()
            if stride != 1 or inputs != outputs:
                shortcut = nn.Sequential(*_convolutions((inputs, outputs, 1, stride)))
            layers.append(Block(inner, shortcut))
            inputs = outputs
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(inputs, 512), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Linear(512, classes))


class Recurrent(nn.Module):
    """A recurrent layer of 100 units, pooled over time."""

    def __init__(self, layer: nn.RNNBase, classes: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(300 * (2 if layer.bidirectional else 1), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.layer(x.transpose(1, 2))[0]
        return self.head(torch.cat([states.mean(1), states.amax(1), states[:, -1]], dim=1))


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet1d18": lambda classes: resnet((2, 2, 2, 2), 1, classes),
    "resnet1d50": lambda classes: resnet((3, 4, 6, 3), 4, classes),
    "resnet1d101": lambda classes: resnet((3, 4, 23, 3), 4, classes),
    "gru": lambda classes: Recurrent(nn.GRU(12, 100, batch_first=True), classes),
    "lstm": lambda classes: Recurrent(nn.LSTM(12, 100, batch_first=True), classes),
    "bilstm": lambda classes: Recurrent(
        nn.LSTM(12, 100, batch_first=True, bidirectional=True), classes
    ),
}


class Trainer:
    """The loop over a DataLoader, with Adam and its defaults."""

    def __init__(self, model: str, signals: np.ndarray, labels: np.ndarray, batch: int) -> None:
        self.model = MODELS[model](labels.shape[1])
        records = TensorDataset(torch.from_numpy(signals / 1000).float(), torch.from_numpy(labels))
        self.loader = DataLoader(records, batch_size=batch, shuffle=True)
        self.optimiser = torch.optim.Adam(self.model.parameters())

    def rate(self, updates: int) -> float:
        """Return the records trained a second."""
        self.model.train()
        records, started = 0, time.perf_counter()
        while True:
            for inputs, labels in self.loader:
                self.optimiser.zero_grad()
                loss = F.binary_cross_entropy_with_logits(self.model(inputs), labels)
                loss.backward()
                self.optimiser.step()
                records, updates = records + len(labels), updates - 1
                if not updates:
                    return records / (time.perf_counter() - started)
