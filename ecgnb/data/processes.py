"""Work on many records, divided over processes."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor

_WATCH_S = 0.2


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
    begun = work if workers == 1 else functools.partial(_beside, os.getpid(), work)
    calls = (joblib.delayed(begun)(*job) for job in jobs)
    try:
        yield from joblib.Parallel(workers, return_as="generator")(calls)
    finally:
        if workers > 1:  # joblib would keep the processes, and a program's end wait for them
            get_reusable_executor().shutdown(wait=True)


def _beside(parent: int, work: Callable[..., Any], *job: Any) -> Any:
    end_with(parent)
    return work(*job)


@functools.cache
def end_with(parent: int) -> None:
    """Let this process end with the one that started it, also where that is killed.

    It would else wait for work for ever, or go on writing files that the next start removes. A
    process whose parent is gone gets another one; only Windows does not tell.

    Parameters
    ----------
    parent : int
        The number of that process. It may be gone already.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
