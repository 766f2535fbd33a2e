"""Sentences and tables of the chapter on architectures.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.chapters import common
from ecgnb.chapters.common import named, network
from ecgnb.models import MODELS
from ecgnb.models.build import build_model
from ecgnb.prose import joined
from ecgnb.study.compare import compare_gains
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Scores
from ecgnb.study.statistics import LEVEL

# A gain that is larger than another's profits more.
_WORDS = {"helps": "more", "harms": "less", "equivalent": "as much", "undecided": "undecided"}


def families(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare gains between a convolutional and the recurrent networks, and between heads.

    Returns
    -------
    DataFrame
        See `ecgnb.study.compare.compare_gains`; ``question`` is ``architecture`` (a ResNet
        against a recurrent network, both pooled) or ``head`` (the same recurrent network pooled
        against flattened).
    """
    cells = {(c.model, c.head, c.size): c for c in Scores(study, results).cells if c.source}
    reference = next(model for model in study.models if MODELS[model].family == "CNN")
    pairs = []
    for (model, head, size), cell in cells.items():
        if MODELS[model].family != "RNN":
            continue
        if head == "pooled" and (reference, "pooled", size) in cells:
            pairs.append((cells[reference, "pooled", size], cell))
        if head == "flattened" and (model, "pooled", size) in cells:
            pairs.append((cells[model, "pooled", size], cell))
    table = compare_gains(study, results, pairs)
    if not len(table):
        return table
    same = table["model"] == table["other_model"]
    return table.assign(question=same.map({True: "head", False: "architecture"}))


def families_answer(study: Study, table: pd.DataFrame) -> Markdown:
    """State whether convolutional networks profit more, and what the head has to do with it."""
    lines = []
    for (model, head, other, other_head), rows in table.groupby(
        ["model", "head", "other_model", "other_head"], sort=False
    ):
        counts = [
            f"{'profits ' * (name != 'undecided')}**{_WORDS[str(name)]}** at {count}"
            for name, count in rows["verdict"].value_counts(sort=False).items()
        ]
        span = [f"{row.difference:+.3f}" for row in rows.itertuples()]
        lines.append(
            f"**{network(str(model), str(head))} against {network(str(other), str(other_head))}:** "
            f"{joined(counts)} of {len(rows)} sizes. Its gain less the other's, from the smallest "
            f"training set to the largest: {joined(span)}."
        )
    return Markdown("\n\n".join(lines))


def families_table(table: pd.DataFrame, gain: pd.DataFrame) -> pd.DataFrame:
    """Tabulate differences of gains, a row a pair of networks and a size."""
    records = gain.groupby("size")["records"].first()
    return pd.DataFrame(
        {
            "network": named(table["model"], table["head"]),
            "against": named(table["other_model"], table["other_head"]),
            "records": table["size"].map(records).map("{:,}".format),
            "difference of gains": table["difference"].map("{:+.3f}".format),
            f"{LEVEL:.0%} interval": [
                f"{row.low:+.3f} to {row.high:+.3f}" for row in table.itertuples()
            ],
            "profits": table["verdict"].map(_WORDS),
            "p (Holm)": table["p_holm"].map("{:.3f}".format),
            "seeds": table["seeds"],
        }
    )


def replaced_table(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Tabulate how many parameters each network throws away at transfer."""
    rows = []
    known = dict.fromkeys((run.spec.model, run.spec.head, len(run.classes)) for run in results)
    for model, head, classes in known:
        built = build_model(model, head, classes, study.data.samples, seed=0)
        whole = sum(parameter.numel() for parameter in built.parameters())
        thrown = sum(parameter.numel() for parameter in built.head.parameters())
        rows.append(
            {
                "network": network(model, head),
                "parameters": f"{whole:,}",
                "replaced at transfer": f"{thrown / whole:.2%}",
            }
        )
    return pd.DataFrame(rows)


def limits(study: Study, results: Sequence[Result]) -> Markdown:
    """Say what a comparison of networks cannot tell."""
    names = dict.fromkeys(run.spec.model for run in results)
    kinds = {
        family: joined([MODELS[name].title for name in names if MODELS[name].family == family])
        for family in dict.fromkeys(MODELS[name].family for name in names)
    }
    lines = [
        *common.limits(study, results),
        f"The networks here ({'; '.join(kinds.values())}) stand for their families, and differ in "
        "size and in accuracy as well.",
        "A network that is poor from scratch has more room to gain.",
    ]
    return common.as_list(lines)
