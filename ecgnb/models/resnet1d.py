"""One-dimensional residual networks, with the layer sizes that Nguyen & Do used.

He et al. 2016, in one dimension: a stem of 64 kernels of length 7, a max-pool, four stages of
residual blocks with kernels of length 3, global average pooling and one hidden layer of 512.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn
from torch.autograd.function import once_differentiable

_WIDTHS = (64, 128, 256, 512)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a one-dimensional convolution without bias that keeps the length, but for `stride`."""
    # A 1-D convolution written as Conv2d (1, k) in channels-last layout is up to twice as fast on
    # CPUs, and as fast on GPUs; its weights and its numbers are those of Conv1d.
    return nn.Conv2d(
        inputs, outputs, (1, kernel), (1, stride), padding=(0, kernel // 2), bias=False
    )


class _ReluOfBits(torch.autograd.Function):
    """ReLU of bfloat16 in place, on its bits: as integers, negative numbers are negative too.

    The same numbers as `F.relu`, but PyTorch's own goes through float32 on CPUs, which takes
    four times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x.view(torch.int16).clamp_(min=0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        bits = torch.ops.aten.threshold_backward(given.view(torch.int16), y.view(torch.int16), 0)
        return bits.view(torch.bfloat16)


def _relu(x: torch.Tensor) -> torch.Tensor:
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        return _ReluOfBits.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    return F.relu(x, inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two convolutions of length 3 beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, inputs, 1, samples) to (batch, outputs, 1, samples / stride)."""
        inner = _relu(self.norm1(self.conv1(x)))
        return _relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A convolution of length 3 between two of length 1, beside a shortcut."""

    expansion = 4  # of the channels of the middle

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, inputs, 1, samples) to (batch, 4 x width, 1, samples / stride)."""
        inner = _relu(self.norm1(self.conv1(x)))
        inner = _relu(self.norm2(self.conv2(inner)))
        return _relu(self.norm3(self.conv3(inner)) + self.shortcut(x))


class ResNet1d(nn.Module):
    """Stem, four stages, global average pooling and, as published, a hidden layer.

    `counts` are the blocks of each stage; `hidden` says whether the hidden layer is part of it.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], counts: tuple[int, ...], hidden: bool
    ) -> None:
        super().__init__()
        self.stem = convolution(12, _WIDTHS[0], 7, stride=2)
        self.norm = nn.BatchNorm2d(_WIDTHS[0])
        self.pool = nn.MaxPool2d((1, 3), (1, 2), (0, 1))
        stages: list[nn.Module] = []
        inputs = _WIDTHS[0]
        for stage, (width, count) in enumerate(zip(_WIDTHS, counts, strict=True)):
            for index in range(count):
                stages.append(block(inputs, width, 2 if stage and not index else 1))
                inputs = width * block.expansion
        self.stages = nn.Sequential(*stages)
        self.last_stage = len(stages) - counts[-1]
        self.features = 512 if hidden else inputs
        self.hidden = nn.Linear(inputs, 512) if hidden else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, 12, samples) to features (batch, `features`)."""
        x = records.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        x = self.pool(F.relu(self.norm(self.stem(x)), inplace=True))
        x = self.stages[: self.last_stage](x)
        # The batch as the height of one image: the same memory and the same numbers, but oneDNN
        # finds the gradient of the widest weights in a third of the time.
        order = (2, 1, 0, 3) if x.device.type == "cpu" else (0, 1, 2, 3)
        x = self.stages[self.last_stage :](x.permute(order)).permute(order)
        pooled = x.mean(dim=(2, 3))
        return pooled if self.hidden is None else F.relu(self.hidden(pooled))


def _encoder(
    block: type[BasicBlock] | type[Bottleneck], counts: tuple[int, ...], head: str, samples: int
) -> tuple[nn.Module, int]:
    encoder = ResNet1d(block, counts, hidden=head == "pooled")
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder, encoder.features


resnet1d18 = partial(_encoder, BasicBlock, (2, 2, 2, 2))
resnet1d50 = partial(_encoder, Bottleneck, (3, 4, 6, 3))
resnet1d101 = partial(_encoder, Bottleneck, (3, 4, 23, 3))
