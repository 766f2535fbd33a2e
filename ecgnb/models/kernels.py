"""No network: random convolution kernels, and a ridge regression on what they find.

MiniRocket (Dempster, Schmidt & Webb 2021) in its multivariate form: 84 kernels of length 9 with
weights -1 and 2, at many dilations, each on a few random leads. A feature is the share of samples
at which a kernel's response exceeds a bias, which is a quantile of its response on one training
record.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)

from ecgnb.models import FEWEST_SAMPLES

Floats = npt.NDArray[np.float32]

FEATURES = 10_000  # at most: 84 kernels times a whole number
PENALTIES = np.logspace(-1, 5, 13)
_LENGTH, _KERNELS, _MOST_DILATIONS = FEWEST_SAMPLES, 84, 32
_AT_ONCE = 4  # records: what is computed of them stays in the processor's cache

_WEIGHTS = torch.full((_KERNELS, 1, _LENGTH), -1.0)  # the middle for the leads
for _kernel, _places in enumerate(combinations(range(_LENGTH), 3)):
    _WEIGHTS[_kernel, 0, list(_places)] = 2.0


@dataclass(frozen=True)
class Kernels:
    """Random kernels."""

    dilations: tuple[int, ...]
    leads: npt.NDArray[np.bool_]  # which each kernel adds up, shape (dilations, 84, leads)
    biases: tuple[Floats, ...]  # of each dilation, shape (84, its features)

    def transform(self, records: torch.Tensor) -> Floats:
        """Return the features of records of shape (records, leads, samples).

        They have the shape (records, features), sorted by dilation, then kernel, then bias.
        """
        return torch.cat([self._transform(batch) for batch in records.split(_AT_ONCE)]).numpy()

    def _transform(self, batch: torch.Tensor) -> torch.Tensor:
        samples = batch.shape[2]
        found, over = [], torch.empty(len(batch), _KERNELS, samples)
        for place, dilation in enumerate(self.dilations):
            padding = dilation * (_LENGTH // 2)
            # Every other kernel looks at all samples, the others where they lie inside the record.
            looks = [
                (slice(place % 2, None, 2), slice(None)),
                (slice(1 - place % 2, None, 2), slice(padding, samples - padding)),
            ]
            response = _convolve(batch, self.leads[place], dilation)
            above = torch.empty(len(batch), *self.biases[place].shape)
            for index, bias in enumerate(torch.from_numpy(self.biases[place]).unbind(1)):
                torch.gt(response, bias[None, :, None], out=over)
                for kernels, inner in looks:
                    above[:, kernels, index] = over[:, kernels, inner].mean(dim=2)
            found.append(above.flatten(1))
        return torch.cat(found, dim=1)


def _convolve(records: torch.Tensor, leads: npt.NDArray[np.bool_], dilation: int) -> torch.Tensor:
    """Convolve the sum of each kernel's leads, shape (records, 84, samples)."""
    weights = _WEIGHTS * torch.from_numpy(leads)[:, :, None]
    return F.conv1d(records, weights, padding=dilation * (_LENGTH // 2), dilation=dilation)


def _dilations(samples: int, each: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the dilations of every kernel, and how many of its `each` features each has."""
    most = min(each, _MOST_DILATIONS)
    largest = np.log2((samples - 1) / (_LENGTH - 1))
    dilations, counts = np.unique(
        np.logspace(0, largest, most, base=2).astype(np.int64), return_counts=True
    )
    counts = (counts * (each / most)).astype(np.int64)
    counts[: each - counts.sum()] += 1  # what is left over goes to the smallest
    return dilations, counts


def draw_kernels(records: torch.Tensor, seed: int, features: int = FEATURES) -> Kernels:
    """Draw kernels of at most so many features, with biases from training records.

    The records have the shape (records, leads, samples). Raises a ValueError if one is shorter than
    a kernel.
    """
    count, leads, samples = records.shape
    if samples < _LENGTH:
        raise ValueError(f"a record of {samples} samples is shorter than a kernel of {_LENGTH}")
    rng = np.random.default_rng(seed)
    each = features // _KERNELS
    dilations, counts = _dilations(samples, each)
    # Few leads are likelier than many: their number is uniform on a scale of logarithms.
    most = np.log2(min(leads, _LENGTH) + 1)
    chosen = np.zeros((len(dilations), _KERNELS, leads), dtype=bool)
    for kernel in chosen.reshape(-1, leads):
        kernel[rng.permutation(leads)[: int(2 ** rng.uniform(0, most))]] = True
    # A sequence that fills the unit interval evenly, however many of it are taken.
    quantiles = (np.arange(1, _KERNELS * each + 1) * (np.sqrt(5) + 1) / 2) % 1
    biases, begin = [], 0
    for place, (dilation, number) in enumerate(zip(dilations, counts, strict=True)):
        asked = quantiles[begin : begin + _KERNELS * number].reshape(_KERNELS, number)
        begin += _KERNELS * number
        examples = torch.from_numpy(rng.integers(count, size=_KERNELS))  # one for each kernel
        drawn = _convolve(records[examples], chosen[place], int(dilation))
        response = drawn.diagonal().T.numpy()
        at = np.stack([np.quantile(r, q) for r, q in zip(response, asked, strict=True)])
        biases.append(at.astype(np.float32))
    return Kernels(tuple(map(int, dilations)), chosen, tuple(biases))


def ridge(train: Floats, labels: npt.NDArray[np.bool_], *others: Floats) -> list[Floats]:
    """Fit a ridge regression on features of shape (records, features), and score other records.

    The penalty of each class is the one with the least error on training records that are left out
    one at a time. The scores, (other records, classes), are between 0 and 1; in the right order,
    yet no probabilities. 0.5 for a class without positives or without negatives.
    """
    from sklearn.linear_model import RidgeCV  # takes a second to import

    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    use = labels.any(axis=0) & ~labels.all(axis=0)
    scores = [np.full((len(other), labels.shape[1]), 0.5, np.float32) for other in others]
    if use.any():
        model = RidgeCV(PENALTIES, alpha_per_target=True)
        model.fit((train - mean) * scale, 2.0 * labels[:, use] - 1.0)
        for score, other in zip(scores, others, strict=True):
            said = model.predict((other - mean) * scale).reshape(len(other), -1)
            score[:, use] = 1 / (1 + np.exp(-4 * said))
    return scores
