"""What is odd about prepared records: the same samples twice, amplitudes that cannot be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

_USUAL = (500, 5000)  # microvolts: what the middle lead of the middle record spans
_FACTOR, _APART, _SHARE = 3.0, 3.5, 0.05  # of two populations: medians, deviations, the smaller one


def copies(signals: npt.NDArray[np.int16], glances: Iterable[bytes]) -> list[list[int]]:
    """Group the rows of the same samples, among those that look alike at a glance."""
    alike = defaultdict(list)
    for row, glance in enumerate(glances):
        alike[glance].append(row)
    groups = []
    for rows in alike.values():
        while len(rows) > 1:
            same = {row for row in rows if np.array_equal(signals[row], signals[rows[0]])}
            groups += [sorted(same)] if len(same) > 1 else []
            rows = [row for row in rows if row not in same]
    return groups


def of_copies(table: pd.DataFrame, groups: list[list[int]]) -> Iterator[str]:
    """Say which records have the same samples, and whether they stand in different folds."""
    if groups:
        first, second = table["record"].iloc[groups[0][:2]]
        apart = sum(table["fold"].iloc[rows].nunique() > 1 for rows in groups)
        yield (
            f"{sum(map(len, groups))} records have the samples of another "
            f"(first: {first} and {second})"
            + (f"; {apart} times they stand in different folds" if apart else "; one patient each")
        )


def of_amplitude(ranges: npt.NDArray[np.int64]) -> Iterator[str]:
    """Say that amplitudes are no ECG's, or come in two units.

    `ranges` has what the middle lead of each record spans, in microvolts.
    """
    middle = float(np.median(ranges))
    if not _USUAL[0] <= middle <= _USUAL[1]:
        yield (
            f"amplitude: half of the records span less than {middle / 1000:g} mV in half of their "
            f"leads, and {_USUAL[0] / 1000:g} to {_USUAL[1] / 1000:g} are usual: check the unit"
        )
    logs = np.sort(np.log(np.maximum(ranges, 1)))
    counts = np.arange(1, len(logs))
    least = max(2, int(_SHARE * len(logs)))
    sums, squares = np.cumsum(logs)[:-1], np.cumsum(logs**2)[:-1]
    low, high = sums / counts, (logs.sum() - sums) / (len(logs) - counts)
    within = squares - counts * low**2 + (logs**2).sum() - squares - (len(logs) - counts) * high**2
    inner = slice(least - 1, len(logs) - least)
    if len(within[inner]):
        cut = int(within[inner].argmin()) + inner.start
        deviation = np.sqrt(max(within[cut], 0) / len(logs))
        apart = high[cut] - low[cut]
        if apart > np.log(_FACTOR) and apart > _APART * deviation:
            yield (
                f"amplitude: {counts[cut]} records span about {np.exp(low[cut]) / 1000:.2g} mV and "
                f"{len(logs) - counts[cut]} about {np.exp(high[cut]) / 1000:.2g}: "
                "two units may be mixed"
            )
