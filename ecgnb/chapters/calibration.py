"""Sentences, figure and table on the calibration of networks at another hospital.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import Cell, Scores, with_tests
from ecgnb.analysis.hospitals import beginnings, contrast, reliability, taught
from ecgnb.analysis.statistics import LEVEL
from ecgnb.chapters import common
from ecgnb.report.charts import draw_reliability
from ecgnb.report.tables import show
from ecgnb.report.wording import interval_texts, signed
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

_NAMES = {
    "as-is": "as it came",
    "finetune": "fine-tuned",
    "finetune-whole": "fine-tuned, head kept",
    "scratch": "from scratch",
}


def calibration_table(study: Study, results: Sequence[Result], cell: Cell) -> pd.DataFrame:
    """Tabulate the expected calibration error of every way to begin, at all sizes of a target."""
    means = beginnings(study, results, cell.target, [cell.source], "ece")
    rows = means.sort_values(["arm", "records"], kind="stable")
    return pd.DataFrame(
        {
            "network": rows["arm"].map(_NAMES),
            "training records": [
                "none" if arm == "as-is" else f"{records:,}"
                for arm, records in zip(rows["arm"], rows["records"], strict=True)
            ],
            "calibration error": rows["mean"].map("{:.3f}".format),
            f"{LEVEL:.0%} interval": [
                f"{low:.3f} to {high:.3f}"
                for low, high in zip(rows["low"].clip(lower=0), rows["high"], strict=True)
            ],
            "seeds": rows["seeds"],
        }
    )


def calibration_answer(study: Study, results: Sequence[Result], cell: Cell) -> Markdown:
    """State whether fine-tuning mends the calibration of a network that came from elsewhere."""
    scores = Scores(study, results)
    known = taught(study, cell.source, cell.taught)
    if not known or not scores.of(cell, "as-is"):
        return Markdown("No network of this study was used on the target as it came.")
    lines = []
    for arm, name in (("finetune", "a new head"), ("finetune-whole", "its head kept")):
        if not scores.of(cell, arm):
            continue
        difference = contrast(study, results, (cell, arm), (cell, "as-is"), "ece", known)
        if difference is None:
            continue
        row = with_tests(pd.DataFrame(index=[0]), [difference])
        word = "whether it mends it is **undecided**"
        if difference.high < 0:
            word = "it **mends** the calibration"
        elif difference.low > 0:
            word = "it **spoils** the calibration"
        lines.append(
            f"Fine-tuning on all records with {name} changes the calibration error by "
            f"{signed(difference.mean)} ({interval_texts(row)[0]}) against the network as it came: "
            f"{word}."
        )
    lines.append(
        "For all networks alike, the diagnoses count that the source has taught and that can be "
        "scored."
    )
    return common.as_list(lines)


def show_reliability(study: Study, results: Sequence[Result], cell: Cell) -> None:
    """Show the reliability curves of a cell."""
    found = curves(study, results, cell)
    show(draw_reliability(found), *reliability_text(found))


def curves(study: Study, results: Sequence[Result], cell: Cell) -> dict[str, pd.DataFrame]:
    """Return reliability curves of a cell, before and after fine-tuning, by name."""
    scores = Scores(study, results)
    runs = {name: list(scores.of(cell, arm).values()) for arm, name in _NAMES.items()}
    known = taught(study, cell.source, cell.taught) if runs[_NAMES["as-is"]] else ()
    return {name: reliability(study, some, known) for name, some in runs.items() if some}


def reliability_text(curves: dict[str, pd.DataFrame]) -> tuple[str, str]:
    """Compute the caption and the alternative text of reliability curves."""
    caption = (
        "How often a finding is there, by the probability that a network gives it, over all "
        "records and seeds, and the same diagnoses as above. On the grey line, a network means "
        "what it says; the size of a mark grows with the number of probabilities."
    )
    parts = [
        f"{name}: "
        + ", ".join(f"{row.said:.2f} said, {row.true:.2f} true" for row in rows.itertuples())
        for name, rows in curves.items()
    ]
    return caption, f"Reliability. {'; '.join(parts)}."
