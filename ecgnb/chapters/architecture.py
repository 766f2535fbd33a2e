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
from ecgnb.study.compare import compare_gains
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.study.scores import Scores
from ecgnb.study.statistics import LEVEL, VERDICTS
from ecgnb.wording import at_sizes, interval_texts, joined, p_texts, seeds_of, signed, standing

# A gain that is larger than another's profits more.
_WORDS = {
    "helps": "**more**",
    "harms": "**less**",
    "equivalent": "**as much**",
    "undecided": "**undecided**",
}


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
    convolutional = [model for model in study.models if MODELS[model].family == "CNN"]
    reference = convolutional[0] if convolutional else ""
    pairs = []
    for (model, head, size), cell in cells.items():
        if MODELS[model].family != "RNN":
            continue
        if head == "pooled" and (reference, "pooled", size) in cells:
            pairs.append((cells[reference, "pooled", size], cell))
        if head == "flattened" and (model, "pooled", size) in cells:
            pairs.append((cells[model, "pooled", size], cell))
    table = compare_gains(study, results, pairs)
    same = table["model"] == table["other_model"]
    return table.assign(question=same.map({True: "head", False: "architecture"}))


def families_answer(study: Study, table: pd.DataFrame, gain: pd.DataFrame) -> Markdown:
    """State whether convolutional networks profit more, and what the head has to do with it.

    Parameters
    ----------
    study : Study
    table : DataFrame
        From `families`.
    gain : DataFrame
        From `ecgnb.study.compare.compare_arms`.
    """
    if not len(table):
        return Markdown("This study has no two networks that differ in family or in head alone.")
    records = gain.groupby("size")["records"].first()
    table = table.assign(records=table["size"].map(records))
    lines = []
    for question, asked in table.groupby("question", sort=False):
        groups = asked.groupby(["model", "head", "other_model", "other_head"], sort=False)
        lines.append(_ASKED[str(question)] + _tally(asked))
        for (model, head, other, other_head), rows in groups:
            parts = [
                f"{_WORDS[verdict]} with {joined(at_sizes(rows[rows['verdict'] == verdict]))}"
                for verdict in VERDICTS
                if (rows["verdict"] == verdict).any()
            ]
            lines.append(
                f"- {network(str(model), str(head))} against "
                f"{network(str(other), str(other_head))}: {'; '.join(parts)} training records."
            )
        lines.append("")
    names = [
        f"{network(row['model'], row['head'])} against "
        f"{network(row['other_model'], row['other_head'])} with {row['records']:,}"
        for row in table.to_dict("records")
    ]
    lines.append(
        "In brackets stands the gain of the first network from fine-tuning less that of the "
        f"second, in macro AUROC ({seeds_of(table)}). {standing(table, names)}"
    )
    return Markdown("\n".join(lines))


_ASKED = {
    "architecture": "**Do convolutional networks profit more than recurrent ones?** ",
    "head": "**Does a pooled head profit more than the published, flattened one?** The flattened "
    "head sees every time step, holds most of the weights, and is thrown away at transfer. ",
}


def _tally(rows: pd.DataFrame) -> str:
    """Answer yes or no, from the counts of the verdicts."""
    counts = {name: int((rows["verdict"] == name).sum()) for name in VERDICTS}
    more, less, rest = counts["helps"], counts["harms"], counts["equivalent"] + counts["undecided"]
    if more and not less:
        word = "Yes, where it can be told"
    elif less and not more:
        word = "No, the reverse, where it can be told"
    elif more and less:
        word = "Not in general"
    else:
        word = "It cannot be told"
    return (
        f"{word}: more in {more}, less in {less} of {len(rows)} comparisons, the same or undecided "
        f"in {rest}.\n"
    )


def families_table(table: pd.DataFrame, gain: pd.DataFrame) -> pd.DataFrame:
    """Tabulate differences of gains, a row a pair of networks and a size."""
    records = gain.groupby("size")["records"].first()
    return pd.DataFrame(
        {
            "network": named(table["model"], table["head"]),
            "against": named(table["other_model"], table["other_head"]),
            "records": table["size"].map(records).map("{:,}".format),
            "difference of gains": table["difference"].map(signed),
            f"{LEVEL:.0%} interval": interval_texts(table),
            "profits": table["verdict"].map(lambda verdict: _WORDS[verdict].strip("*")),
            "p (Holm)": p_texts(table),
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
