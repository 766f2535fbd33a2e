"""Work on many records, divided over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor


def in_processes(
    work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], most: int
) -> Iterator[Any]:
    """Do jobs side by side, and hand out their results in order.

    Parameters
    ----------
    work : callable
        A function of a module, called with the values of each job.
    jobs : sequence of tuple
    most : int
        Processes that are worth their start; there are never more than cores. With one, the work
        is done here.
    """
    workers = max(1, min(joblib.cpu_count(), most))
    calls = (joblib.delayed(work)(*job) for job in jobs)
    try:
        yield from joblib.Parallel(workers, return_as="generator")(calls)
    finally:
        if workers > 1:  # joblib would keep the processes, and a program's end wait for them
            get_reusable_executor().shutdown(wait=True)
