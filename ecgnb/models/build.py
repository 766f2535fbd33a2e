"""Building the models of the registry: an encoder, which transfers, and a head on top of it."""

from functools import cache
from pkgutil import resolve_name

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ecgnb.errors import UserError
from ecgnb.models import MODELS, autoencoder, check_model, recurrent


class Model(nn.Module):
    """An encoder and a head, which has a hidden layer of so many units, or with 0 is linear.

    The encoder maps records, float of shape (batch, 12, samples), to features, (batch, features).
    """

    def __init__(self, encoder: nn.Module, features: int, classes: int, hidden: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = features
        self.head: nn.Module = nn.Linear(hidden or features, classes)
        if hidden:
            self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), self.head)

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Return one logit a class, shape (batch, classes)."""
        return self.head(self.encoder(records))  # type: ignore[no-any-return]


def build_model(name: str, head: str, classes: int, samples: int, seed: int) -> Model:
    """Build a model of `MODELS` with one of its heads for so many classes, and samples a record.

    Initial weights are drawn from `seed`: the same gives the same encoder whatever the number of
    classes. Raises a UserError if the model is unknown or has no such head.
    """
    entry = check_model(name, head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, features = resolve_name(f"ecgnb.models.{entry.build}")(head, samples)
        return Model(encoder, features, classes, hidden=512 if head == "hidden" else 0)


def build_reconstructor(name: str, seed: int) -> autoencoder.Reconstructor:
    """Build an encoder with a way back to its records; or raise a UserError if it has none."""
    entry = check_model(name, "pooled")
    if not entry.unlabelled:
        able = ", ".join(other for other, known in MODELS.items() if known.unlabelled)
        raise UserError(f"{name} cannot be pre-trained without labels; choose one of {able}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, _ = resolve_name(f"ecgnb.models.{entry.build}")("pooled", 0)
        return autoencoder.Reconstructor(encoder)  # type: ignore[arg-type]


@cache
def training_bytes(name: str, head: str, samples: int) -> tuple[float, float]:
    """Estimate the memory of a training: for the weights, and for each record of a batch.

    Weights, gradients and both averages of the optimiser take 16 bytes a parameter; a record, what
    the layers put out. Measured were 0.7 to 0.8 of it for ResNets, and all for recurrent networks.
    """
    model = build_model(name, head, 1, samples, seed=0).eval()
    outputs: list[int] = []
    if isinstance(model.encoder, recurrent.RecurrentEncoder):
        outputs.append(model.encoder.kept(samples))
    else:
        for module in model.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda *call: outputs.append(call[2].numel()))
        with torch.no_grad():
            model(torch.zeros(1, recurrent.LEADS, samples))
    weights = sum(parameter.numel() for parameter in model.parameters())
    return 16.0 * weights, 4.0 * sum(outputs)


@cache
def forward_gflop(name: str, head: str, classes: int, samples: int) -> float:
    """Count the operations of a model on one record, in billions; a product and a sum are two."""
    model = build_model(name, head, classes, samples, seed=0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, recurrent.LEADS, samples))
    counted = counter.get_total_flops()
    if isinstance(model.encoder, recurrent.RecurrentEncoder):  # some of its kernels are not counted
        counted = model.encoder.operations(samples) + 2 * model.features * classes
    return counted / 1e9
