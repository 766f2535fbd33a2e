"""Sentences and tables of the chapter on architectures.

No number in them is typed; whoever changes the runs changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from ecgnb.analysis.compare import Scores, compare_gains
from ecgnb.analysis.statistics import LEVEL
from ecgnb.chapters import common
from ecgnb.models import MODELS
from ecgnb.models.build import build_model
from ecgnb.report.wording import (
    at_sizes,
    interval_texts,
    joined,
    named,
    network,
    p_texts,
    seeds_of,
    signed,
    standing,
)
from ecgnb.study.spec import Study
from ecgnb.study.store import Result

# A gain that is larger than another's profits more.
_WORDS = {
    "helps": "**more**",
    "harms": "**less**",
    "equivalent": "**as much**",
    "undecided": "**undecided**",
}


def networks(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Compare gains network by network, and head by head.

    Returns
    -------
    DataFrame
        See `compare_gains`; ``question`` is ``architecture`` (a convolutional
        against a recurrent network, both pooled) or ``head`` (the same recurrent network pooled
        against flattened).
    """
    cells = {(c.model, c.head, c.size): c for c in Scores(study, results).cells if c.source}
    convolutional = [model for model in MODELS if MODELS[model].family == "CNN"]
    pairs = []
    for (model, head, size), cell in cells.items():
        if MODELS[model].family == "RNN":
            others = convolutional if head == "pooled" else [model]
            pairs += [
                (cells[other, "pooled", size], cell)
                for other in others
                if (other, "pooled", size) in cells
            ]
    table = compare_gains(study, results, pairs)
    same = table["model"] == table["other_model"]
    return table.assign(question=same.map({True: "head", False: "architecture"}))


def _left_out(families: pd.DataFrame, table: pd.DataFrame) -> str:
    """Name the networks that stand for no family: they were not tested on as many patients."""
    counted = set().union(*families["networks"], *families["others"])
    known = dict.fromkeys([*table["model"], *table["other_model"]])
    names = [MODELS[model].title for model in known if model not in counted]
    if not names:
        return ""
    were, stand = ("was", "stands") if len(names) == 1 else ("were", "stand")
    return f"{joined(names)} {were} tested on fewer patients, and {stand} in the table only."


def families_answer(families: pd.DataFrame, table: pd.DataFrame) -> Markdown:
    """State whether convolutional networks profit more, and what the head has to do with it.

    Parameters
    ----------
    families : DataFrame
        From `ecgnb.analysis.compare.compare_families`.
    table : DataFrame
        From `networks`.
    """
    if not len(table):
        return Markdown("This study has no two networks that differ in family or in head alone.")
    lines = []
    heads = table["question"] == "head"
    if len(families):
        lines.append(
            f"**Do convolutional networks profit more than recurrent ones?** {_tally(families)} "
            "On average over the networks of each family:"
        )
        groups = families.groupby(
            [families[side].map(_titles) for side in ("networks", "others")], sort=False
        )
        lines.append("\n".join(_line(str(one), str(two), rows) for (one, two), rows in groups))
        stand = standing(families, [f"{records:,} records" for records in families["records"]])
        each = f"Network by network: {_counts(table[~heads])}."
        lines.append(" ".join(filter(None, [_left_out(families, table[~heads]), stand, each])))
    if heads.any():
        lines.append(
            "**Does a pooled head profit more than the published, flattened one?** The flattened "
            "head sees every time step, holds most of the weights, and is thrown away at transfer. "
            f"{_tally(table[heads])}"
        )
        lines.append(
            "\n".join(
                _line(network(str(model), "pooled"), network(str(model), "flattened"), rows)
                for model, rows in table[heads].groupby("model", sort=False)
            )
        )
    names = [
        f"{network(row['model'], row['head'])} against "
        f"{network(row['other_model'], row['other_head'])} with {row['records']:,}"
        for row in table.to_dict("records")
    ]
    lines.append(
        "In brackets stands the gain of the first from fine-tuning less that of the second, in "
        f"macro AUROC ({seeds_of(pd.concat([families, table]))}). {standing(table, names)}"
    )
    return Markdown("\n\n".join(line for line in lines if line))


def _titles(models: Sequence[str]) -> str:
    return joined([MODELS[model].title for model in models])


def _line(first: str, second: str, rows: pd.DataFrame) -> str:
    """Say at which sizes the first profits more than the second."""
    parts = [
        f"{word} with {joined(at_sizes(rows[rows['verdict'] == verdict]))}"
        for verdict, word in _WORDS.items()
        if (rows["verdict"] == verdict).any()
    ]
    return f"- {first} against {second}: {'; '.join(parts)} training records."


def _tally(rows: pd.DataFrame) -> str:
    """Answer yes or no, from the counts of the verdicts."""
    verdicts = set(rows["verdict"])
    words = {
        (True, False): "Yes, where it can be told",
        (False, True): "No, the reverse, where it can be told",
        (True, True): "Not in general",
        (False, False): "It cannot be told",
    }
    return f"{words['helps' in verdicts, 'harms' in verdicts]}: {_counts(rows)}."


def _counts(rows: pd.DataFrame) -> str:
    more, less = ((rows["verdict"] == name).sum() for name in ("helps", "harms"))
    return (
        f"more in {more}, less in {less} of {len(rows)} comparisons, the same or undecided in "
        f"{len(rows) - more - less}"
    )


def families_table(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate differences of gains, of families or of networks, a row a comparison."""
    if "networks" in table:
        sides = [[*map(_titles, table[side])] for side in ("networks", "others")]
    else:
        sides = [named(table[f"{side}model"], table[f"{side}head"]) for side in ("", "other_")]
    return pd.DataFrame(
        {
            "network": sides[0],
            "against": sides[1],
            "records": table["records"].map("{:,}".format),
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
