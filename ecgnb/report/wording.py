"""How networks, numbers, lists and verdicts are written in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ecgnb.analysis.statistics import MOST_SEEDS
from ecgnb.models import MODELS

_MANY = 5  # more are counted, not named


def network(model: str, head: str) -> str:
    """Name a network for a reader."""
    title = MODELS[model].title
    return title if head == "pooled" else f"{title} ({head} head)"


def named(models: pd.Series, heads: pd.Series) -> list[str]:
    """Name the networks of a table."""
    return [network(model, head) for model, head in zip(models, heads, strict=True)]


def joined(texts: Sequence[str]) -> str:
    """Write a list as a person would say it."""
    if not texts:
        return "none"
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def spread(values: Sequence[int]) -> str:
    """Write from how many to how many, or the one number."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def signed(value: float) -> str:
    """Write a difference with its sign, and none where it is zero as written."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text


def interval_text(low: float, high: float) -> str:
    """Write the interval of a difference; one run alone has none.

    An end so near zero that three digits would not tell its side is written with up to five.
    """
    return f"{_end(low)} to {_end(high)}" if np.isfinite(low) else "not known"


def _end(value: float) -> str:
    fine = f"{value:+.5f}".rstrip("0")
    return fine if signed(value) == "0.000" and float(fine) else signed(value)


def interval_texts(comparison: pd.DataFrame) -> list[str]:
    """Write the intervals of a comparison, see `interval_text`."""
    return [
        interval_text(low, high)
        for low, high in zip(comparison["low"], comparison["high"], strict=True)
    ]


def at_sizes(comparison: pd.DataFrame) -> list[str]:
    """Write differences behind the numbers of training records that they were found with."""
    rows = comparison.to_dict("records")
    return [f"{row['records']:,} ({signed(row['difference'])})" for row in rows]


def p_text(value: float) -> str:
    """Write a p value."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def p_texts(comparison: pd.DataFrame) -> list[str]:
    """Write p values after Holm's correction: that of equivalence where it is the verdict."""
    values = comparison["p_holm"].where(
        comparison["verdict"] != "equivalent", comparison["equivalence_p_holm"]
    )
    return [p_text(value) for value in values]


def seeds_of(comparison: pd.DataFrame) -> str:
    """Say how many seeds there are, or from how many to how many."""
    text = spread(comparison["seeds"].tolist())
    return f"{text} seed{'s' * (text != '1')}"


def needed_text(seeds: float) -> str:
    """Write how many seeds are needed; see `ecgnb.analysis.statistics.seeds_needed`."""
    if np.isnan(seeds):
        return "not known"
    return f"over {MOST_SEEDS}" if np.isinf(seeds) else f"{seeds:.0f}"


def standing(comparison: pd.DataFrame, names: Sequence[str]) -> str:
    """Say which verdicts fall when all comparisons of an answer are taken as one family.

    Parameters
    ----------
    comparison : DataFrame
        With the columns of `ecgnb.analysis.compare.with_tests`.
    names : sequence of str
        What each row is called in a sentence.
    """
    decided = comparison["verdict"] != "undecided"
    if len(comparison) < 2 or not decided.any():
        return ""
    family = f"Holm's correction for all {len(comparison)} comparisons"
    falls = decided & ~comparison["holds"]
    fallen = [name for name, one in zip(names, falls, strict=True) if one]
    if decided.sum() == 1:
        stands = f", that on {fallen[0]}, would not stand" if fallen else " stands"
        return f"The one verdict other than *undecided*{stands} after {family}."
    if not fallen:
        return f"All verdicts other than *undecided* stand after {family}."
    stand = decided.sum() - len(fallen)
    text = f"Of {decided.sum()} verdicts other than *undecided*, {stand or 'none'} would stand"
    each = "that on" if len(fallen) == 1 else "those on"
    named = f"; not {each} {joined(fallen)}" if len(fallen) < _MANY else ""
    return f"{text} after {family}{named}."
