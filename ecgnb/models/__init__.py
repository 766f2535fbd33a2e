"""The models: each is an encoder, which transfers, and a head, which belongs to the label set.

What is known of them stands here; `ecgnb.models.build` builds them, and only it needs PyTorch.
"""

from dataclasses import dataclass

from ecgnb.errors import UserError, look_up

# The heads of a recurrent network: one linear layer on the mean over time, or on all steps.
READOUTS = ("pooled", "flattened")
# The heads of a residual network: a linear layer behind the published hidden layer, which belongs
# to the encoder (``pooled``); the hidden layer and the linear one (``hidden``); a linear layer
# behind the pooling, without any hidden layer (``linear``).
CUTS = ("pooled", "hidden", "linear")
HEADS = tuple(dict.fromkeys((*READOUTS, *CUTS)))


@dataclass(frozen=True)
class Entry:
    """A model of the registry."""

    title: str  # its name in print
    family: str  # ``CNN``, ``RNN``, or ``kernels`` where there is no network
    # Where the function ``build(head, samples)`` is, which returns the encoder and the number of
    # its features: ``module:name`` of this room.
    build: str
    # ``pooled`` over time, or all time steps ``flattened``; see also `CUTS`
    heads: tuple[str, ...] = ("pooled",)
    half_precision_on_cpu: bool = False  # whether bfloat16 is faster where a processor has it
    unlabelled: bool = False  # whether `build_reconstructor` can pre-train it without labels
    load_imagenet: str = ""  # where the function is that gives it the weights learnt on photographs


FEWEST_SAMPLES = 9  # of a window: as long as a kernel
NO_NETWORK = "kernels"  # stands for a model in the arm that has none
MODELS: dict[str, Entry] = {
    "resnet1d18": Entry("ResNet1d18", "CNN", "resnet1d:resnet1d18", CUTS, True),
    "resnet1d50": Entry("ResNet1d50", "CNN", "resnet1d:resnet1d50", CUTS, True),
    "resnet1d101": Entry("ResNet1d101", "CNN", "resnet1d:resnet1d101", CUTS, True),
    "gru": Entry("GRU", "RNN", "recurrent:build_gru", READOUTS),
    "lstm": Entry("LSTM", "RNN", "recurrent:build_lstm", READOUTS, True),
    "bilstm": Entry("BiLSTM", "RNN", "recurrent:build_bilstm", READOUTS, True),
    "autoencoder": Entry(
        "Autoencoder",
        "CNN",
        "autoencoder:build_autoencoder",
        half_precision_on_cpu=True,
        unlabelled=True,
    ),
    NO_NETWORK: Entry("No network", "kernels", ""),
    "efficientnet-lite0": Entry(
        "EfficientNet-Lite0 on spectrograms",
        "CNN",
        "spectrogram:build_spectrogram",
        load_imagenet="spectrogram:load_imagenet",
    ),
}
"""The models by name, with what is known of each."""


def check_model(name: str, head: str) -> Entry:
    """Return the registry's entry, or raise a UserError that names what there is."""
    entry = look_up("model", {n: one for n, one in MODELS.items() if n != NO_NETWORK}, name)
    if head not in entry.heads:
        raise UserError(f"{name} has no head {head!r}; choose {' or '.join(entry.heads)}")
    return entry
