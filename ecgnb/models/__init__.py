"""The models: each is an encoder, which transfers, and a head, which belongs to the label set.

What is known of them stands here; `ecgnb.models.build` builds them, and only it needs PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ecgnb.errors import UserError

READOUTS = ("pooled", "flattened")
"""The heads of a recurrent network: one linear layer on the mean over time, or on all steps."""

CUTS = ("pooled", "hidden", "linear")
"""The heads of a residual network: a linear layer behind the published hidden layer, which belongs
to the encoder (``pooled``); the hidden layer and the linear one (``hidden``); a linear layer behind
the pooling, without any hidden layer (``linear``)."""

HEADS = tuple(dict.fromkeys((*READOUTS, *CUTS)))


@dataclass(frozen=True)
class Entry:
    """A model of the registry.

    Attributes
    ----------
    title : str
        Its name in print.
    family : str
        ``CNN``, ``RNN``, or ``kernels`` where there is no network.
    build : str
        Where the function ``build(head, samples)`` is, which returns the encoder and the number
        of its features, as ``module:name``.
    heads : tuple of str
        The heads it has: ``pooled`` over time, or all time steps ``flattened``; see also `CUTS`.
    half_precision_on_cpu : bool
        Whether bfloat16 is faster than float32 on processors that have it.
    unlabelled : bool
        Whether its encoder can be pre-trained without labels, by `build_reconstructor`.
    load_imagenet : str, optional
        Where the function is that gives its encoder weights that were learnt on photographs.
    """

    title: str
    family: str
    build: str
    heads: tuple[str, ...]
    half_precision_on_cpu: bool
    unlabelled: bool = False
    load_imagenet: str | None = None


NO_NETWORK = "kernels"
"""Stands for a model in the arm that has none; see `ecgnb.models.kernels`."""

_PACKAGE = "ecgnb.models."


def _resnet(depth: int) -> Entry:
    return Entry(f"ResNet1d{depth}", "CNN", f"{_PACKAGE}resnet1d:resnet1d{depth}", CUTS, True)


MODELS: dict[str, Entry] = {
    "resnet1d18": _resnet(18),
    "resnet1d50": _resnet(50),
    "resnet1d101": _resnet(101),
    "gru": Entry("GRU", "RNN", f"{_PACKAGE}recurrent:build_gru", READOUTS, False),
    "lstm": Entry("LSTM", "RNN", f"{_PACKAGE}recurrent:build_lstm", READOUTS, True),
    "bilstm": Entry("BiLSTM", "RNN", f"{_PACKAGE}recurrent:build_bilstm", READOUTS, True),
    "autoencoder": Entry(
        "Autoencoder",
        "CNN",
        f"{_PACKAGE}autoencoder:build_autoencoder",
        ("pooled",),
        True,
        unlabelled=True,
    ),
    NO_NETWORK: Entry("No network", "kernels", "", ("pooled",), False),
    "efficientnet-lite0": Entry(
        "EfficientNet-Lite0 on spectrograms",
        "CNN",
        f"{_PACKAGE}spectrogram:build_spectrogram",
        ("pooled",),
        False,
        load_imagenet=f"{_PACKAGE}spectrogram:load_imagenet",
    ),
}
"""The models by name, with what is known of each."""


def check_model(name: str, head: str) -> Entry:
    """Return the registry's entry, or raise a UserError that names what there is."""
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    entry = MODELS[name]
    if head not in entry.heads:
        raise UserError(f"{name} has no head {head!r}; choose {' or '.join(entry.heads)}")
    return entry
