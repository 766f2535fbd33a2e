"""The arms: how the target's model starts, and what of it is trained; and the recipes for that."""

from __future__ import annotations

from dataclasses import dataclass

from ecgnb.errors import UserError


@dataclass(frozen=True)
class Arm:
    """One way to start and to train.

    Attributes
    ----------
    title : str
        Its name in print.
    pretrained : bool
        Whether the encoder comes from the source.
    frozen : bool
        Whether only the head is trained.
    probing : float
        The share of the updates that train the head alone, before everything is trained.
    photographs : bool
        Whether the encoder comes from ImageNet, which not every model has weights of.
    trained : bool
        Whether anything is trained; else the source's network names the target's classes as it is.
    keeps_head : bool
        Whether the head comes from the source as well, whose classes must be those of the target.
    network : bool
        Whether there is a network; else random convolution kernels and a ridge regression.
    """

    title: str
    pretrained: bool
    frozen: bool
    probing: float = 0.0
    trained: bool = True
    photographs: bool = False
    keeps_head: bool = False
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


def check_arm(name: str) -> Arm:
    """Return an arm, or raise a UserError that names what there is."""
    if name not in ARMS:
        raise UserError(f"unknown arm {name!r}; choose one of {', '.join(ARMS)}")
    return ARMS[name]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, besides its learning rate and the number of updates.

    Attributes
    ----------
    weight_decay : float
        Of AdamW; with 0 it is Adam.
    clipping : float
        Largest norm of a gradient; 0 leaves it as it is.
    schedule : str
        Of the learning rate: ``constant``; ``cosine``, which rises linearly over the first tenth
        and falls along a cosine; ``one-cycle`` (Smith & Topin 2018, as in PyTorch), which rises
        over the first three tenths and moves the momentum the other way.
    keeps : str
        Which weights are kept: the ``last``; their running ``average``; the ``best`` of all
        evaluations on validation.
    augmented : bool
        Whether training records change a little in amplitude and time, and get some noise.
    """

    weight_decay: float = 0.01
    clipping: float = 0.0
    schedule: str = "one-cycle"
    keeps: str = "last"
    augmented: bool = False


RECIPES = {
    "one-cycle": Recipe(),
    "one-cycle-average": Recipe(keeps="average"),
    "one-cycle-augmented-average": Recipe(keeps="average", augmented=True),
    "cosine-best": Recipe(clipping=1.0, schedule="cosine", keeps="best"),
    # Nguyen & Do (2025), as their public code has it.
    "paper": Recipe(weight_decay=0.0, schedule="constant", keeps="best"),
}
"""The recipes by name."""


@dataclass(frozen=True)
class Protocol:
    """What two ways of testing differ in.

    Attributes
    ----------
    recipe : str
        The name in `RECIPES` of how networks are trained where a study names no other.
    ranged : bool
        Whether each lead of each record is scaled to one range.
    chosen_on_test : bool
        Whether the checkpoint is the one with the best F1 on the test set, weighted by
        prevalence; else no choice sees the test set.
    """

    recipe: str
    ranged: bool
    chosen_on_test: bool


PROTOCOLS = {
    "clean": Protocol("cosine-best", ranged=False, chosen_on_test=False),
    "paper": Protocol("paper", ranged=True, chosen_on_test=True),
}


def check_protocol(name: str) -> Protocol:
    """Return a protocol, or raise a UserError that names what there is."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def recipe_of(name: str, protocol: str) -> Recipe:
    """Return a recipe by its name, or for "" that of a protocol.

    Raises
    ------
    UserError
        If there is no such recipe.
    """
    name = name or check_protocol(protocol).recipe
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
