"""Recurrent networks over the samples of a record, with the sizes that Nguyen & Do used.

One layer with 100 hidden units reads all samples. With the published ``flattened`` head the
linear layer sees the hidden states of all time steps, and over 90 % of the parameters stand in
the head, which transfer replaces. With the ``pooled`` head it sees their mean, their maximum and
the last one (of each direction), so that almost everything learnt stays in the encoder.
"""

from __future__ import annotations

import torch
from torch import nn

from ecgnb.models.gru import gru

LEADS, _HIDDEN = 12, 100
_GATES = 4  # of an LSTM, the larger of the two


class RecurrentEncoder(nn.Module):
    """A recurrent layer and what its head sees of the hidden states.

    Parameters
    ----------
    layer : nn.GRU or nn.LSTM
        Of one layer. Time stands before the records: no transposition of all states is needed.
    head : str
        ``pooled`` or ``flattened``.
    """

    def __init__(self, layer: nn.RNNBase, head: str) -> None:
        super().__init__()
        self.layer = layer
        self.flattened = head == "flattened"

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, leads, samples) to features (batch, features)."""
        states = self._states(records.permute(2, 0, 1).contiguous())
        if self.flattened:
            return states.transpose(0, 1).flatten(1)
        last = states[-1]
        if self.layer.bidirectional:  # the way back ends at the first sample
            last = torch.cat([last[:, :_HIDDEN], states[0, :, _HIDDEN:]], dim=1)
        return torch.cat([states.mean(dim=0), states.max(dim=0).values, last], dim=1)

    def operations(self, samples: int) -> int:
        """Count the operations on one record; a product and a sum are two."""
        matrices = [weight for weight in self.layer.parameters() if weight.dim() == 2]
        return 2 * samples * sum(weight.numel() for weight in matrices)

    def kept(self, samples: int) -> int:
        """Count the values that a record leaves for the way back: states, and gates of each."""
        width = _HIDDEN * (2 if self.layer.bidirectional else 1)
        return samples * width * (_GATES + 3)

    def _states(self, inputs: torch.Tensor) -> torch.Tensor:
        plain = not (inputs.is_cuda or torch.is_autocast_enabled(inputs.device.type))
        if plain and isinstance(self.layer, nn.GRU):
            return gru(self.layer, inputs)
        return self.layer(inputs)[0]  # type: ignore[no-any-return]


def build_gru(head: str, samples: int) -> tuple[nn.Module, int]:
    """Build the GRU encoder."""
    return _encoder(nn.GRU(LEADS, _HIDDEN), head, samples)


def build_lstm(head: str, samples: int) -> tuple[nn.Module, int]:
    """Build the LSTM encoder."""
    return _encoder(nn.LSTM(LEADS, _HIDDEN), head, samples)


def build_bilstm(head: str, samples: int) -> tuple[nn.Module, int]:
    """Build the LSTM encoder that reads in both directions."""
    return _encoder(nn.LSTM(LEADS, _HIDDEN, bidirectional=True), head, samples)


def _encoder(layer: nn.RNNBase, head: str, samples: int) -> tuple[nn.Module, int]:
    width = _HIDDEN * (2 if layer.bidirectional else 1)
    return RecurrentEncoder(layer, head), width * (samples if head == "flattened" else 3)
