"""Sentences on the records of PTB-XL that were published after a filter.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters.common import network
from ecgnb.data.catalog import card, parts
from ecgnb.prose import answer
from ecgnb.study.compare import compare_arms, with_tests
from ecgnb.study.data import read_table
from ecgnb.study.generalise import contrast
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Scores
from ecgnb.wording import interval_texts, joined, signed


def extended(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare networks fine-tuned from an extended source with those from what it extends.

    Returns
    -------
    DataFrame
        One row a network and size: ``source`` and ``other`` (datasets), ``target``, ``model``,
        ``head``, ``records`` (training records), and the columns of
        `ecgnb.study.compare.with_tests` for the extended source less the other.
    """
    scores = Scores(study, results)
    rows, found = [], []
    for cell in scores.cells:
        runs = scores.of(cell, "finetune") if cell.source else {}
        for part in parts(card(cell.source)) if runs else []:
            difference = contrast(
                study, results, (cell, "finetune"), (replace(cell, source=part.name), "finetune")
            )
            if difference and part.name != cell.source:
                records = round(np.mean([run.facts["train_records"] for run in runs.values()]))
                rows.append((cell.source, part.name, cell.target, cell.model, cell.head, records))
                found.append(difference)
    columns = ["source", "other", "target", "model", "head", "records"]
    return with_tests(pd.DataFrame(rows, columns=columns), found)


def filtered_answer(study: Study, results: Sequence[Result]) -> Markdown:
    """State what fine-tuning does among filtered records, and whether more of them teach more.

    Parameters
    ----------
    study : Study
        That of the filtered records.
    results : sequence of Result
        Its final runs.
    """
    gain = compare_arms(study, results)
    if gain.empty:
        return Markdown("This study has no other records than those above.")
    groups = extended(study, results).groupby(["source", "target", "model", "head"], sort=False)
    more = [_more_sentence(study, rows) for _, rows in groups]
    return Markdown("\n\n".join([_SET_APART, *more, answer(gain).data]))


_SET_APART = (
    "Part of PTB-XL is at hand only as it was published after a band-pass filter and a scaling of "
    "each lead: its amplitudes are lost, and the official files do not give it again. So that "
    "nothing but the number of records differs, every record of this section went through the same "
    "filter and scaling. No number outside of this section rests on them."
)


def _more_sentence(study: Study, rows: pd.DataFrame) -> str:
    """Say what the records that a source was extended by bring to a network that came from it."""
    first = rows.iloc[0]
    large, small = (len(read_table(study, str(first[side]))) for side in ("source", "other"))
    texts = [
        f"{signed(row['difference'])} with {row['records']:,} (interval {interval}, "
        f"*{row['verdict']}*)"
        for row, interval in zip(rows.to_dict("records"), interval_texts(rows), strict=True)
    ]
    return (
        f"**Does a larger source teach more?** {network(first['model'], first['head'])} "
        f"pre-trained on {large:,} records rather than on {small:,}, then fine-tuned on "
        f"{card(str(first['target'])).short_title}: {joined(texts)} training records."
    )
