"""Training recorded runs again, to see that they come out as they were recorded."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from ecgnb.errors import UserError
from ecgnb.study.data import fingerprints, recorded_runs
from ecgnb.study.plan import Progress
from ecgnb.study.spec import Study, size_label
from ecgnb.study.store import Result, Store, provenance, read_part, recorded_scores, spare_room
from ecgnb.study.train import Materials, execute
from ecgnb.training.device import describe_device

# How far the AUROC of a single run may move on another machine: about as far as between seeds.
TOLERANCE = 0.05
_MACHINE = ("torch", "numpy")


@dataclass(frozen=True)
class Check:
    """A recorded run beside the same run trained again."""

    recorded: Result
    again: Result
    same_machine: bool  # whether processor, precision and versions are those of the recorded run

    @property
    def identical(self) -> bool:
        """Whether all test predictions are equal."""
        return np.array_equal(self.recorded.predictions, self.again.predictions)

    @property
    def difference(self) -> float:
        """Test AUROC of the new run less that of the recorded one."""
        return float(self.again.facts["auroc"] - self.recorded.facts["auroc"])

    def __str__(self) -> str:
        spec = self.recorded.spec
        verdict = "identical" if self.identical else f"AUROC {self.difference:+.4f}"
        machine = "same kind of machine" if self.same_machine else "another kind of machine"
        return (
            f"{'ok' if self.passed else 'DIFFERS':8} {spec.source or '-'} to {spec.dataset}, "
            f"{spec.model} {spec.head}, {spec.arm}, {size_label(spec.size)} records, seed "
            f"{spec.seed}: {verdict} ({machine})"
        )

    @property
    def passed(self) -> bool:
        """Whether it agrees, to the bit on the same kind of machine, else within `TOLERANCE`."""
        return self.identical if self.same_machine else abs(self.difference) <= TOLERANCE


def verify(study: Study, sample: int, seed: int = 0, part: Path | None = None) -> Iterator[Check]:
    """Train a `sample` of the recorded final runs again, pre-training and all, drawn by `seed`.

    They may be in a `part` that somebody else has written. Raises a UserError if nothing is
    recorded that belongs to the study, or the data are not here or others.
    """
    parts = recorded_runs(study)
    if part:
        parts = tuple(sorted(part.glob("*.parquet"))) if part.is_dir() else (part,)
        if not parts or not parts[0].exists():
            raise UserError(f"there is no part in {part}, as `ecgnb run --part` writes one")
    made = [read_part(one)[0].get("fingerprints", {}) for one in parts if part]
    for one, (name, value) in product(made, fingerprints(study).items()):
        if one.get(name, value) != value:
            raise UserError(
                f"{part} was made on other records of {name} ({one[name][:12]}, here "
                f"{value[:12]}); get those that it was made on"
            )
    if not parts:
        raise UserError(f"study {study.name} has no recorded runs; `ecgnb run` trains them")
    with spare_room() as folder:
        runs = Progress(study, Store(Path(folder) / "none", parts)).finished()
        if not runs:
            raise UserError(
                f"none of the {len(recorded_scores(parts))} recorded runs belongs to study "
                f"{study.name} as it is declared now: take its declaration, or its records, back "
                f"to where they were, or record it anew with `ecgnb run {study.name} --record`"
            )
        chosen = np.random.default_rng(seed).permutation(len(runs))[:sample]
        materials = Materials(study, Store(Path(folder)))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for run in (runs[place] for place in sorted(chosen)):
                precision = run.facts["precision"]
                if precision == "tf32" and materials.device.type == "cpu":  # which no CPU has
                    precision = "float32"
                key = execute(materials, run.spec, precision)
                again = materials.store.load(key, run.spec)
                assert again is not None
                here = {**provenance(), "device": describe_device(materials.device)}
                same = all(run.facts[name] == here[name] for name in ("device", *_MACHINE))
                yield Check(run, again, same)
        finally:
            torch.set_num_threads(threads)
