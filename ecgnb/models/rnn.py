"""Recurrent networks over the samples of a record, with the sizes that Nguyen & Do used.

One layer with 100 hidden units reads all samples. With the published ``flattened`` head the
linear layer sees the hidden states of all time steps, and over 90 % of the parameters stand in
the head, which transfer replaces. With the ``pooled`` head it sees their mean, their maximum and
the last one, so that almost everything learnt stays in the encoder.
"""

from __future__ import annotations

import torch
from torch import nn

_HIDDEN = 100


class RecurrentEncoder(nn.Module):
    """A recurrent layer and what its head sees of the hidden states.

    Parameters
    ----------
    layer : nn.GRU or nn.LSTM
        With ``batch_first=True``.
    head : str
        ``pooled`` or ``flattened``.
    """

    def __init__(self, layer: nn.RNNBase, head: str) -> None:
        super().__init__()
        self.layer = layer
        self.flattened = head == "flattened"

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, leads, samples) to features (batch, features)."""
        states, _ = self.layer(records.transpose(1, 2).contiguous())
        if self.flattened:
            return states.flatten(1)
        return torch.cat([states.mean(dim=1), states.amax(dim=1), states[:, -1]], dim=1)


def gru(head: str, samples: int) -> tuple[nn.Module, int]:
    """Build the GRU encoder."""
    encoder = RecurrentEncoder(nn.GRU(12, _HIDDEN, batch_first=True), head)
    return encoder, _HIDDEN * (samples if head == "flattened" else 3)
