"""The error that a user can cause, and looking up what a user names."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake in a parameter, a setting or the data; its text says what is wrong and what to do.

    The command line prints the text alone and exits with status 2.
    """


def near(name: str, known: Iterable[str]) -> str:
    """Ask in brackets for the known name that is most like one; "" if none is."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def look_up(what: str, known: Mapping[str, T], name: str) -> T:
    """Return what is known under a name, or raise a UserError that names what there is."""
    if name not in known:
        choice = ", ".join(known)
        raise UserError(f"unknown {what} {name!r}{near(name, known)}; choose one of {choice}")
    return known[name]
