"""Sentences on sources that are simulated.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import compare_sources
from ecgnb.data.catalog import card
from ecgnb.report.wording import found_at_sizes, joined, network, seeds_of, standing
from ecgnb.study.data import read_table
from ecgnb.study.spec import Study
from ecgnb.study.store import Result


def against_real(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare networks fine-tuned from simulated ECGs with those from real ones.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.compare_sources`.
    """
    return compare_sources(
        study,
        results,
        lambda source, other: card(source).simulated and not card(other).simulated,
    )


def simulated_answer(study: Study, found: pd.DataFrame) -> Markdown:
    """State whether simulated ECGs are as good a beginning as real ones.

    Parameters
    ----------
    study : Study
    found : DataFrame
        From `against_real`.
    """
    if not len(found):
        return Markdown("This study has no simulated source beside a real one.")
    lines = []
    for names, rows in found.groupby(["other", "target", "model", "head"], sort=False):
        other, target, model, head = map(str, names)
        said = rows.assign(verdict=rows["verdict"].replace(_WORDS))
        lines.append(
            f"- {network(model, head)} to {card(target).short_title}, against "
            f"{_counted(study, other)}: {joined(found_at_sizes(said))} training records."
        )
    sources = [_counted(study, str(name)) for name in found["source"].unique()]
    texts = [
        f"{network(row['model'], row['head'])} with {row['records']:,} of "
        f"{card(row['target']).short_title}"
        for row in found.to_dict("records")
    ]
    asked = (
        "**Are simulated ECGs as good a beginning as real ones?** A network fine-tuned from "
        f"{joined(sources)} less one fine-tuned from a real hospital, in macro AUROC on the same "
        f"patients ({seeds_of(found)}):"
    )
    evidence = (
        f"{standing(found, texts)} The sources differ in more than being simulated or not: in the "
        "number of records, and in which diagnoses they label and how common these are."
    )
    return Markdown("\n\n".join([asked, "\n".join(lines), evidence.strip()]))


_WORDS = {"helps": "better", "harms": "worse"}


def _counted(study: Study, dataset: str) -> str:
    return f"{card(dataset).short_title} ({len(read_table(study, dataset)):,} records)"
