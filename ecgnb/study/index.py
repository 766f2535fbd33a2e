"""The validation scores of finished runs in one small file, which spares opening thousands.

It is only an index: a run that it lacks is looked up in its own file, and one whose file is gone
does not count as done because the index names it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ecgnb.data.files import locked

_NAME = "scores.txt"


def read_scores(folder: Path) -> dict[str, float]:
    """Return the validation score of runs by their key, as far as a store's index has them."""
    try:
        text = (folder / _NAME).read_text()
    except OSError:
        return {}
    scores = {}
    # What stands behind the last line's end was cut off in the middle of being written.
    for line in text.split("\n")[:-1]:
        key, _, value = line.partition(" ")
        with suppress(ValueError):  # a line that begins in one that was cut off
            scores[key] = float(value)
    return scores


def add_score(folder: Path, key: str, score: float) -> None:
    """Note the score of a run; without it the run is as done as with it."""
    path = folder / _NAME
    with suppress(OSError), locked(folder / f".{_NAME}.claim"), open(path, "a") as file:
        file.write(f"{key} {score!r}\n")
