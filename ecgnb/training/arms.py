"""The arms: how the target's model starts, and what of it is trained; and the recipes for that."""

from dataclasses import dataclass
from functools import partial

from ecgnb.errors import look_up


@dataclass(frozen=True)
class Arm:
    """One way to start and to train."""

    title: str  # its name in print
    pretrained: bool  # whether the encoder comes from the source
    frozen: bool  # whether only the head is trained
    # the share of the updates that train the head alone, before everything is trained
    probing: float = 0.0
    # whether anything is; else the source's network names the target's classes as it is
    trained: bool = True
    # whether the encoder comes from ImageNet, which not every model has weights of
    photographs: bool = False
    # whether the head is the source's as well, whose classes must be the target's
    keeps_head: bool = False
    # whether there is one; else random convolution kernels and a ridge regression
    network: bool = True


ARMS = {
    "scratch": Arm("from scratch", pretrained=False, frozen=False),
    "finetune": Arm("fine-tuned", pretrained=True, frozen=False),
    "linear-probe": Arm("linear probe", pretrained=True, frozen=True),
    "random-probe": Arm("random probe", pretrained=False, frozen=True),
    # Kumar et al. (2022): a head that fits spares the encoder the first, largest gradients.
    "probe-then-finetune": Arm(
        "probed, then fine-tuned", pretrained=True, frozen=False, probing=1 / 3
    ),
    "no-network": Arm("no network", pretrained=False, frozen=True, network=False),
    "imagenet": Arm("from ImageNet", pretrained=False, frozen=False, photographs=True),
    "finetune-whole": Arm("fine-tuned, head kept", pretrained=True, frozen=False, keeps_head=True),
    "as-is": Arm("as it came", pretrained=True, frozen=True, trained=False, keeps_head=True),
}
"""The arms by name, with what each starts from and trains."""


check_arm = partial(look_up, "arm", ARMS)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, besides its learning rate and the number of updates."""

    weight_decay: float = 0.01  # of AdamW; with 0 it is Adam
    clipping: float = 0.0  # largest norm of a gradient; 0 leaves it as it is
    # Of the learning rate: ``constant``; ``cosine``, which rises linearly over the first tenth and
    # falls along a cosine; ``one-cycle`` (Smith & Topin 2018, as in PyTorch), which rises over the
    # first three tenths and moves the momentum the other way.
    schedule: str = "one-cycle"
    # which weights: the ``last``, their running ``average``, or the ``best`` on validation
    keeps: str = "last"
    # whether training records change a little in amplitude and time, and get some noise
    augmented: bool = False


RECIPES = {
    "one-cycle": Recipe(),
    "one-cycle-average": Recipe(keeps="average"),
    "one-cycle-augmented-average": Recipe(keeps="average", augmented=True),
    "cosine-best": Recipe(clipping=1.0, schedule="cosine", keeps="best"),
    # Nguyen & Do (2025), as their public code has it.
    "paper": Recipe(weight_decay=0.0, schedule="constant", keeps="best"),
}


@dataclass(frozen=True)
class Protocol:
    """What two ways of testing differ in."""

    recipe: str  # the name in `RECIPES` of how networks are trained where a study names no other
    ranged: bool  # whether each lead of each record is scaled to one range
    # Whether the checkpoint is the one with the best F1 on the test set, weighted by prevalence;
    # else no choice sees the test set.
    chosen_on_test: bool


PROTOCOLS = {
    "clean": Protocol("cosine-best", ranged=False, chosen_on_test=False),
    "paper": Protocol("paper", ranged=True, chosen_on_test=True),
}


check_protocol = partial(look_up, "protocol", PROTOCOLS)


def recipe_of(name: str, protocol: str) -> Recipe:
    """Return a recipe by its name, or for "" that of a protocol; or raise a UserError."""
    return look_up("recipe", RECIPES, name or check_protocol(protocol).recipe)
