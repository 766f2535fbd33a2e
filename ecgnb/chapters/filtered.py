"""Sentences on the records of PTB-XL that were published after a filter.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import compare_arms, compare_sources
from ecgnb.data.catalog import card, parts
from ecgnb.report.prose import answer
from ecgnb.report.wording import found_at_sizes, joined, network
from ecgnb.study.data import read_table
from ecgnb.study.spec import Study
from ecgnb.study.store import Result


def extended(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare networks fine-tuned from an extended source with those from what it extends.

    Returns
    -------
    DataFrame
        See `ecgnb.analysis.compare.compare_sources`.
    """

    def extends(source: str, other: str) -> bool:
        return source != other and other in [part.name for part in parts(card(source))]

    return compare_sources(study, results, extends)


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
    return (
        f"**Does a larger source teach more?** {network(first['model'], first['head'])} "
        f"pre-trained on {large:,} records rather than on {small:,}, then fine-tuned on "
        f"{card(str(first['target'])).short_title}: {joined(found_at_sizes(rows))} training "
        "records."
    )
