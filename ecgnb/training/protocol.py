"""The two protocols: how a network is trained, and by what its checkpoint is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ecgnb.errors import UserError


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
