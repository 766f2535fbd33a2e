"""A convolutional autoencoder of lead II, whose encoder can be pre-trained without labels.

Jang, Kim & Yoon (2021) pre-trained one on windows of 8.2 s; its layers are not published. This one
is residual: five stages, each halving the samples, then a code of an eighth of them, and the same
stages backwards.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn

from ecgnb.models.resnet1d import convolution

_LEAD_II = 1  # among the standard leads
_WIDTHS = (16, 32, 64, 64, 128)
_SHRINKS = 2 ** len(_WIDTHS)
_CODE = _SHRINKS // 8  # channels of the code: an eighth as many numbers as samples


class Stage(nn.Module):
    """Two convolutions of length 7 beside one of length 1, to half or (`up`) twice the samples."""

    def __init__(self, inputs: int, outputs: int, up: bool = False) -> None:
        super().__init__()
        stride = 1 if up else 2
        self.up = up
        self.conv1 = convolution(inputs, outputs, 7, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 7)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = convolution(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, inputs, 1, samples) to (batch, outputs, 1, other samples)."""
        if self.up:
            x = F.interpolate(x, scale_factor=(1, 2))
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class Encoder(nn.Module):
    """The stages that halve; their mean and maximum over time are what a classifier sees."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *_WIDTHS)
        self.stages = nn.Sequential(*(Stage(a, b) for a, b in pairwise(widths)))

    def maps(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, 12, samples) to (batch, 128, 1, samples / 32, rounded up)."""
        lead = F.pad(records[:, _LEAD_II, None, None], (0, -records.shape[2] % _SHRINKS))
        return self.stages(lead.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, 12, samples) to features (batch, 256)."""
        maps = self.maps(records)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


class Reconstructor(nn.Module):
    """The encoder, a code, and the way back to the samples of lead II."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        widths = _WIDTHS[::-1]
        self.head = nn.Sequential(
            nn.Conv2d(widths[0], _CODE, 1),
            nn.Conv2d(_CODE, widths[0], 1),
            *(Stage(a, b, up=True) for a, b in zip(widths, (*widths[1:], widths[-1]), strict=True)),
            nn.Conv2d(widths[-1], 1, 1),
        )

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, 12, samples) to their lead II again, (batch, samples)."""
        return self.head(self.encoder.maps(records))[:, 0, 0, : records.shape[2]]  # type: ignore[no-any-return]


def build_autoencoder(head: str, samples: int) -> tuple[nn.Module, int]:
    """Build the encoder; its head is always pooled."""
    return Encoder().to(memory_format=torch.channels_last), 2 * _WIDTHS[-1]  # type: ignore[call-overload]
