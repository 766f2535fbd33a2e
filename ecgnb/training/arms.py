"""The arms: how the target's model starts, and which part of it is trained."""

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
    """

    title: str
    pretrained: bool
    frozen: bool
    probing: float = 0.0
    trained: bool = True
    photographs: bool = False
    keeps_head: bool = False


ARMS = {
    "scratch": Arm("from scratch", pretrained=False, frozen=False),
    "finetune": Arm("fine-tuned", pretrained=True, frozen=False),
    "linear-probe": Arm("linear probe", pretrained=True, frozen=True),
    "random-probe": Arm("random probe", pretrained=False, frozen=True),
    # Kumar et al. (2022): a head that fits spares the encoder the first, largest gradients.
    "probe-then-finetune": Arm(
        "probed, then fine-tuned", pretrained=True, frozen=False, probing=1 / 3
    ),
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
class Protocol:
    """What two ways of training differ in.

    Attributes
    ----------
    weight_decay : float
        Of AdamW; with 0 it is Adam.
    clipping : float
        Largest norm of a gradient; 0 leaves it as it is.
    scheduled : bool
        Whether the learning rate rises and falls; else it stays.
    ranged : bool
        Whether each lead of each record is scaled to one range.
    chosen_on_test : bool
        Whether the checkpoint is the one with the best F1 on the test set, weighted by
        prevalence; else the one with the best macro AUROC on validation.
    """

    weight_decay: float
    clipping: float
    scheduled: bool
    ranged: bool
    chosen_on_test: bool


PROTOCOLS = {
    "clean": Protocol(0.01, 1.0, scheduled=True, ranged=False, chosen_on_test=False),
    # Nguyen & Do (2025), as their public code has it.
    "paper": Protocol(0.0, 0.0, scheduled=False, ranged=True, chosen_on_test=True),
}


def check_protocol(name: str) -> Protocol:
    """Return a protocol, or raise a UserError that names what there is."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
