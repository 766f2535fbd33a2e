"""What an autoencoder keeps of an ECG, in sentences and in a figure.

No number of ours in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from IPython.display import Markdown

from ecgnb.data.catalog import JOINT, card
from ecgnb.data.records import LEADS
from ecgnb.models.autoencoder import code_length
from ecgnb.report.ecg_paper import draw_reconstructions
from ecgnb.report.tables import show
from ecgnb.study.data import Drawn, finding_of, read_record
from ecgnb.study.plan import open_progress
from ecgnb.study.spec import Study
from ecgnb.study.store import Result
from ecgnb.training.inputs import UNIT
from ecgnb.training.metrics import UNLABELLED


def reconstructors(study: Study) -> list[Result]:
    """Return the pre-trainings without labels whose encoders the final runs begin with."""
    done = open_progress(study).all_done()
    wanted = {run.spec.pretraining() for run in done if run.spec.stage == "final"}
    return [run for run in done if run.spec in wanted and run.spec.label_set == UNLABELLED]


def reconstructions(study: Study, runs: Sequence[Result]) -> list[Drawn]:
    """Put the reconstructions that the first pre-training keeps beside the records themselves."""
    found: list[Drawn] = []
    if not runs:
        return found
    run = runs[0]
    for name, said in zip(run.records, run.predictions, strict=True):
        lead = read_record(study, name)[LEADS.index("II")]
        lead = lead - lead.mean()
        found.append(Drawn(name, finding_of(name), lead, said.astype(np.float64) * UNIT))
    return found


def reconstruction_answer(study: Study, runs: Sequence[Result], drawn: Sequence[Drawn]) -> Markdown:
    """State how much of lead II the autoencoder keeps, on records it was not trained on."""
    if not runs:
        return Markdown("This study pre-trains no autoencoder.")
    source = card(runs[0].spec.dataset)
    explained = [run.facts["explained_variance"] for run in runs]
    error = np.mean([run.facts["mse"] for run in runs])
    samples = study.data.samples
    code = code_length(samples)
    dataset = card(drawn[0].name.partition("/")[0])
    foreign = "" if dataset.name in source.name.split(JOINT) else ", whose ECGs it has never seen"
    mixed = any(card(name).amplitude == "z-score" for name in source.name.split(JOINT))
    unit = ", where standardised records are counted in their own unit" if mixed else ""
    shown = np.mean([one.explained for one in drawn])
    return Markdown(
        f"From {code} numbers for {samples:,} samples, 1 to {samples / code:g}, the autoencoder "
        f"explains {np.mean(explained):.1%} of the variance of lead II on held-out records of "
        f"{source.short_title} ({min(explained):.1%} to {max(explained):.1%} over {len(runs)} "
        f"seeds); its mean squared error is {error:,.0f} µV²{unit}. On {len(drawn)} records of "
        f"{dataset.short_title}{foreign}, it explains {shown:.1%} on average. Jang et al. report a "
        "mean squared error of 626.583, in a unit that is not told."
    )


def show_reconstructions(study: Study, drawn: Sequence[Drawn]) -> None:
    """Show records and their reconstructions, if there are any."""
    if drawn:
        show(draw_reconstructions(drawn, study.data.rate), *drawn_text(drawn))


def drawn_text(drawn: Sequence[Drawn]) -> tuple[str, str]:
    """Compute the caption and the alternative text of the reconstructions."""
    dataset = card(drawn[0].name.partition("/")[0]).short_title
    caption = (
        f"Lead II of records of {dataset} (grey, wide) and what the autoencoder makes of them "
        "(blue). What is missing is what an eighth of the numbers cannot hold."
    )
    parts = [
        f"{one.name.partition('/')[2]}{f', {one.finding}' * bool(one.finding)}: "
        f"{one.explained:.1%} of the variance"
        for one in drawn
    ]
    return caption, f"Reconstructions. {'; '.join(parts)}."
