"""What the runs of a study cost on this machine, measured before any of them starts."""

import time
from dataclasses import dataclass
from functools import cache, partial

import torch

from ecgnb.models import NO_NETWORK
from ecgnb.models.build import build_model
from ecgnb.models.kernels import draw_kernels
from ecgnb.study.plan import RUN_S, UPDATE_PASSES, Estimate, Progress
from ecgnb.study.spec import RunSpec, Study
from ecgnb.training.device import activate, choose_device, choose_precision
from ecgnb.training.fit import Schedule, fit
from ecgnb.training.inputs import Data, Records


@dataclass(frozen=True)
class Group:
    """Runs that cost the same, for a table of the plan."""

    stage: str
    model: str
    head: str
    arm: str
    runs: int
    done: int
    seconds: float | None  # of one of them here, on one thread; not measured where all are done

    @property
    def seconds_left(self) -> float:
        """What those that are not done take together."""
        return (self.runs - self.done) * (self.seconds or 0.0)


def groups(progress: Progress, precision: str = "auto") -> list[Group]:
    """Count the runs of a study by stage, model and arm, and measure what those left cost here."""
    every, left = progress.runs(), {*progress.missing()}
    planned: dict[tuple[str, str, str, str], list[RunSpec]] = {}
    for spec in every:
        planned.setdefault((spec.stage, spec.model, spec.head, spec.arm), []).append(spec)
    estimate = Estimate(progress.study)
    cost = cache(partial(_seconds_per_pass, progress.study, precision))
    rows = []
    for (stage, model, head, arm), runs in planned.items():
        done = sum(spec not in left for spec in runs)
        seconds = None
        if done < len(runs):
            seconds = sum(map(estimate.work, runs)) / len(runs) * cost(model, head) + RUN_S
        rows.append(Group(stage, model, head, arm, len(runs), done, seconds))
    return rows


def _seconds_per_pass(study: Study, precision: str, model_name: str, head: str) -> float:
    """Time a few updates on one thread; return the time of a forward pass of one record."""
    device = choose_device()
    precision = choose_precision(model_name, precision, device)
    activate(precision, device)
    size, samples = study.batch_size, study.data.samples
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-500, 500, (size, 12, samples), generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if model_name == NO_NETWORK:
            started = time.perf_counter()
            draw_kernels(values.float(), seed=0).transform(values.float())
            return (time.perf_counter() - started) / size
        model = build_model(model_name, head, 20, samples, seed=0).to(device)
        labels = (torch.rand((size, 20), generator=generator) > 0.5).float()
        records = Records(values.to(torch.int16), torch.arange(size)).to(device)
        data = Data(records, labels.to(device))
        for updates in (1, 4):  # the first call warms up; the last is timed
            schedule = Schedule(1e-3, updates, size, 1, 0, recipe="one-cycle")
            fitted = fit(model, data, data, schedule, precision=precision)
        seconds = fitted.history["seconds"][-1] - fitted.evaluation_seconds
        return seconds / (updates * UPDATE_PASSES * size)
    finally:
        torch.set_num_threads(threads)
