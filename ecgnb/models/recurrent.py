"""A GRU layer for CPUs, with the weights and the numbers of `torch.nn.GRU`, twice as fast.

PyTorch records some ten small operations a step and goes back through all of them. Here the layer
is one operation. Going forward, every step writes into buffers that stand already. Going back,
whatever does not depend on the running gradient is computed for a block of steps at once, in
cache, so that a step is left with one sum and two products; and the gradients of the weights are
one product of matrices a block.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

_BLOCK = 16  # steps: what is computed for a block stays in the second-level cache


def gru(layer: nn.GRU, inputs: torch.Tensor) -> torch.Tensor:
    """Run a GRU of one layer and one direction, with biases, over records on a CPU.

    Maps (steps, records, inputs) to the hidden states, (steps, records, hidden), as the layer
    itself returns them.
    """
    weights = tuple(layer.parameters())
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, *weights)):
        return _Gru.apply(inputs, *weights)  # type: ignore[no-any-return, no-untyped-call]
    return _steps(inputs, *weights, keep=False)[0][1:]


def _steps(x: torch.Tensor, *weights: torch.Tensor, keep: bool) -> tuple[torch.Tensor, ...]:
    """Return the states h from zero on, and the gates r and z, n, and m = U_n h + b_n.

    r, z = sigmoid(W x + U h + b), n = tanh(W_n x + b_n + r m), h' = n + z (h - n). Without `keep`
    the gates of the last block only: what follows does not go back.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    steps, batch, _ = x.shape
    size = w_hh.shape[1]
    kept = steps if keep else _BLOCK
    rz, n, m = (x.new_empty(kept, batch, width) for width in (2 * size, size, size))
    h = x.new_empty(steps + 1, batch, size)
    h[0] = 0
    b_rz = b_ih[: 2 * size] + b_hh[: 2 * size]
    b_n, b_m = b_ih[2 * size :], b_hh[2 * size :]
    w_rz, w_n = w_ih[: 2 * size].t(), w_ih[2 * size :].t()
    u_rz, u_n = w_hh[: 2 * size].t().contiguous(), w_hh[2 * size :].t().contiguous()
    for start, end in _blocks(steps):
        flat = x[start:end].reshape((end - start) * batch, -1)
        rows = slice(start, end) if keep else slice(0, end - start)
        torch.addmm(b_rz, flat, w_rz, out=rz[rows].view(len(flat), -1))
        torch.addmm(b_n, flat, w_n, out=n[rows].view(len(flat), -1))
        r, z = rz[rows].split(size, dim=2)
        each = (rz[rows], r, z, n[rows], m[rows], h[start:end], h[start + 1 : end + 1])
        for rz_t, r_t, z_t, n_t, m_t, h_t, next_t in zip(*each, strict=True):
            rz_t.addmm_(h_t, u_rz).sigmoid_()
            torch.addmm(b_m, h_t, u_n, out=m_t)
            n_t.addcmul_(r_t, m_t).tanh_()
            torch.lerp(n_t, h_t, z_t, out=next_t)
    return h, rz, n, m


def _blocks(steps: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, steps)) for start in range(0, steps, _BLOCK)]


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        found = _steps(x, *weights, keep=True)
        ctx.save_for_backward(x, *weights[:2], *found)
        return found[0][1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w_ih, w_hh, h, rz, n, m = ctx.saved_tensors
        steps, batch, size = n.shape
        # Four columns a step, of n (its input side), r, z and m: what dh, the gradient of the
        # state, is multiplied by, and the product, which is the gradient of the gate.
        factors, d = (x.new_empty(_BLOCK, batch, 4, size) for _ in range(2))
        flat_d = d.view(_BLOCK, batch, 4 * size)
        dh = x.new_zeros(batch, size)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        # Gates in the order n, r, z for the inputs and r, z, m for the states.
        dw, du, db = torch.zeros_like(w_ih), torch.zeros_like(w_hh), x.new_zeros(4 * size)
        w_nrz = w_ih.roll(size, 0)
        for start, end in reversed(_blocks(steps)):
            length = end - start
            r, z = rz[start:end].split(size, dim=2)
            f_n, f_r, f_z, f_m = factors[:length].unbind(2)
            torch.mul(n[start:end], n[start:end], out=f_n)
            torch.sub(1, f_n, out=f_n).addcmul_(f_n, z, value=-1)  # (1 - n^2) (1 - z)
            torch.mul(f_n, r, out=f_m)
            torch.mul(f_m, m[start:end], out=f_r).addcmul_(f_r, r, value=-1)
            torch.sub(h[start:end], n[start:end], out=f_z).mul_(z).addcmul_(f_z, z, value=-1)
            each = (factors[:length], d[:length], flat_d[:length, :, size:], z, given[start:end])
            for f_t, d_t, rzm_t, z_t, given_t in reversed(list(zip(*each, strict=True))):
                dh.add_(given_t)
                torch.mul(f_t, dh.unsqueeze(1), out=d_t)
                dh.mul_(z_t).addmm_(rzm_t, w_hh)
            rows = flat_d[:length].view(length * batch, 4 * size)
            dw.addmm_(rows[:, : 3 * size].t(), x[start:end].reshape(length * batch, -1))
            du.addmm_(rows[:, size:].t(), h[start:end].reshape(length * batch, size))
            db += rows.sum(0)
            if dx is not None:
                dx[start:end] = (rows[:, : 3 * size] @ w_nrz).view(length, batch, -1)
        return dx, dw.roll(-size, 0), du, db[: 3 * size].roll(-size, 0), db[size:]


LEADS, _HIDDEN = 12, 100
_GATES = 4  # of an LSTM, the larger of the two


class RecurrentEncoder(nn.Module):
    """A recurrent layer and what its head, ``pooled`` or ``flattened``, sees of the hidden states.

    In the layer time stands before the records: no transposition of all states is needed.
    """

    def __init__(self, layer: nn.RNNBase, head: str) -> None:
        super().__init__()
        self.layer = layer
        self.flattened = head == "flattened"

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Map records (batch, leads, samples) to features (batch, features)."""
        inputs = records.permute(2, 0, 1).contiguous()
        plain = not (inputs.is_cuda or torch.is_autocast_enabled(inputs.device.type))
        plain &= not torch.onnx.is_in_onnx_export()
        if plain and isinstance(self.layer, nn.GRU):
            states = gru(self.layer, inputs)
        else:
            states = self.layer(inputs)[0]
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


def _encoder(
    kind: type[nn.GRU] | type[nn.LSTM], head: str, samples: int, **options: bool
) -> tuple[nn.Module, int]:
    layer = kind(LEADS, _HIDDEN, **options)
    width = _HIDDEN * (2 if layer.bidirectional else 1)
    return RecurrentEncoder(layer, head), width * (samples if head == "flattened" else 3)


build_gru = partial(_encoder, nn.GRU)
build_lstm = partial(_encoder, nn.LSTM)
build_bilstm = partial(_encoder, nn.LSTM, bidirectional=True)
