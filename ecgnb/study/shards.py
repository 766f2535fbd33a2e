"""Sharing the runs of a study out to jobs that need nothing of each other."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

from ecgnb.errors import UserError
from ecgnb.study.spec import RunSpec


def share(cells: Sequence[RunSpec], number: int, shards: int) -> list[RunSpec]:
    """Return the final runs of one shard, in their order.

    Runs that start from one pre-training are in one shard, so that no other needs it.

    Parameters
    ----------
    cells : sequence of RunSpec
        All final runs of a study.
    number, shards : int
        Which shard, counted from 1, of how many.
    """
    if shards == 1:
        return list(cells)
    sizes = Counter(cell.pretraining() or cell for cell in cells)
    groups = list(sizes)
    # Drawn, so that every shard has long runs and short ones; the large groups first.
    random.Random(0).shuffle(groups)
    groups.sort(key=sizes.__getitem__, reverse=True)
    filled = [0] * shards
    mine = set()
    for group in groups:
        emptiest = filled.index(min(filled))
        filled[emptiest] += sizes[group]
        if emptiest == number - 1:
            mine.add(group)
    return [cell for cell in cells if (cell.pretraining() or cell) in mine]


def read_shard(text: str) -> tuple[int, int]:
    """Read which shard of how many is meant: ``2/5`` is the second of five.

    Raises
    ------
    UserError
        If it is not written so, or there is no such shard.
    """
    number, _, shards = text.partition("/")
    decimal = number.isdecimal() and shards.isdecimal()
    if not (decimal and 1 <= int(number) <= int(shards)):
        raise UserError(f"--shard {text} is not a share; write 2/5 for the second of five")
    return int(number), int(shards)


def shards_needed(seconds: float, minutes: float) -> int:
    """Return how many shards make jobs of about so many minutes.

    Parameters
    ----------
    seconds : float
        What the whole takes one job.
    minutes : float
        How long a job may take.
    """
    return max(1, math.ceil(seconds / 60 / minutes))
