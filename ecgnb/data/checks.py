"""What is odd about prepared records: same samples, amplitudes that cannot be, telling flags."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

_USUAL = (500, 5000)  # microvolts: what the middle lead of the middle record spans
_FACTOR, _APART, _SHARE = 3.0, 3.5, 0.05  # of two populations: medians, deviations, the smaller one
_PLAIN = 0.6  # AUROC that the interval of a flag must exclude


def copies(digests: pd.Series) -> list[list[int]]:
    """Group the rows of the same samples, by their hashes."""
    again = digests[digests.duplicated(keep=False)]
    return again.index.to_series().groupby(again, sort=False).agg(list).tolist()


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
    """Say that amplitudes, the spans of middle leads, are no ECG's, or come in two units."""
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


def confounders(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Say how well what is not the ECG predicts each label by itself.

    `table` is that of a prepared dataset, `labels` what `ecgnb.data.labels.encode` gives for it.
    Returns one row a ``feature`` (``padded``, ``clipped``, ``flat``, ``length``, ``site ...``,
    ``age``, ``female``) and ``label`` that five records have and five have not: ``auroc``, and
    ``low`` and ``high``, the 95 % interval of Hanley & McNeil (1982), which takes records as
    independent.
    """
    features = {kind: table["flags"].str.contains(kind) for kind in ("padded", "clipped", "flat")}
    sites = [one for one in table["site"].unique() if one]
    sites = sites[:1] if len(sites) == 2 else sites  # the other says the same
    features |= {f"site {one}": table["site"] == one for one in sites}
    features |= {"length": table["seconds"], "age": table["age"]}
    features["female"] = table["sex"].map({"female": 1.0, "male": 0.0})
    rows = []
    for feature, values in features.items():
        known = values.notna().to_numpy()
        ranks, has = values[known].rank().to_numpy(), labels.to_numpy(bool)[known]
        use = np.minimum(has.sum(axis=0), (~has).sum(axis=0)) >= 5
        if not use.any() or np.ptp(ranks) == 0:
            continue
        n, m = has[:, use].sum(axis=0), (~has[:, use]).sum(axis=0)
        area = (ranks @ has[:, use] - n * (n + 1) / 2) / (n * m)
        two_n, two_m = area / (2 - area), 2 * area**2 / (1 + area)
        variance = area * (1 - area) + (n - 1) * (two_n - area**2) + (m - 1) * (two_m - area**2)
        margin = 1.96 * np.sqrt(np.maximum(variance, 0) / (n * m))
        ends = (area - margin).clip(0, 1), (area + margin).clip(0, 1)
        rows += [(feature, *row) for row in zip(labels.columns[use], area, *ends, strict=True)]
    return pd.DataFrame(rows, columns=["feature", "label", "auroc", "low", "high"])


def of_confounders(table: pd.DataFrame, labels: pd.DataFrame) -> Iterator[str]:
    """Say where what is no ECG predicts a label, the plainest first; age and sex rightly may."""
    found = confounders(table, labels)
    plain = np.maximum(found["low"], 1 - found["high"])
    chosen = found.assign(plain=plain)[(plain > _PLAIN) & ~found["feature"].isin(("age", "female"))]
    for row in chosen.sort_values("plain", ascending=False).head(3).itertuples():
        yield (
            f"{row.feature} alone predicts {row.label}: AUROC {row.auroc:.2f} "
            f"({row.low:.2f} to {row.high:.2f})"
        )
