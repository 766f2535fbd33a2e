"""One-dimensional residual networks, with the layer sizes that Nguyen & Do used.

He et al. 2016, in one dimension: a stem of 64 kernels of length 7, a max-pool, four stages of
residual blocks with kernels of length 3, global average pooling and one hidden layer of 512.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn

_WIDTHS = (64, 128, 256, 512)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # A 1-D convolution written as Conv2d (1, k) in channels-last layout is up to twice as fast on
    # CPUs, and as fast on GPUs; its weights and its numbers are those of Conv1d.
    return nn.Conv2d(
        inputs, outputs, (1, kernel), (1, stride), padding=(0, kernel // 2), bias=False
    )


class BasicBlock(nn.Module):
    """Two convolutions of length 3 beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, inputs, 1, samples) to (batch, outputs, 1, samples / stride)."""
        inner = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x), inplace=True)


class ResNet1d(nn.Module):
    """Stem, four stages, global average pooling and a hidden layer.

    Parameters
    ----------
    blocks : tuple of int
        Residual blocks of each stage.
    leads : int
        Input channels.
    """

    def __init__(self, blocks: tuple[int, ...], leads: int = 12) -> None:
        super().__init__()
        self.stem = _convolution(leads, _WIDTHS[0], 7, stride=2)
        self.norm = nn.BatchNorm2d(_WIDTHS[0])
        self.pool = nn.MaxPool2d((1, 3), (1, 2), (0, 1))
        stages: list[nn.Module] = []
        inputs = _WIDTHS[0]
        for stage, (width, count) in enumerate(zip(_WIDTHS, blocks, strict=True)):
            for block in range(count):
                stages.append(BasicBlock(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Linear(inputs, 512)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, leads, samples) to features (batch, 512)."""
        x = records.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        x = self.pool(F.relu(self.norm(self.stem(x)), inplace=True))
        x = self.stages(x).mean(dim=(2, 3))
        return F.relu(self.hidden(x))


def resnet1d18(head: str, samples: int) -> tuple[nn.Module, int]:
    """Build the encoder of 2-2-2-2 basic blocks; its head is always pooled."""
    encoder = ResNet1d((2, 2, 2, 2))
    return encoder.to(memory_format=torch.channels_last), 512  # type: ignore[call-overload]
