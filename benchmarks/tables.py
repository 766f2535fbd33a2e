"""What was measured, as Markdown: for a terminal and for the book."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ecgnb.models import MODELS
from ecgnb.study.data import recorded_runs
from ecgnb.study.declare import load_study
from ecgnb.training.arms import ARMS

Found = dict[str, Any]


def tables(found: Found, last: Found | None = None) -> str:
    """Write all tables; beside training rates those of `last`, if the same machine made them."""
    if last and last["machine"] != found["machine"]:
        last = None
    parts = [
        _answer(found),
        _machine(found),
        _training(found, last),
        _preparing(found["preparing"]),
        _reading(found.get("reading")),
        _demo(found["demo"]),
        _memory(found["memory"]),
    ]
    return "\n\n".join(part for part in parts if part)


def arms() -> str:
    """Tabulate what the recorded runs of the study ``clinical`` cost, arm by arm."""
    columns = ["stage", "model", "arm", "fact_seconds"]
    parts = recorded_runs(load_study("clinical"))
    runs = pd.concat(pd.read_parquet(part, columns=columns) for part in parts)
    runs = runs[runs["stage"] == "final"]
    seconds = runs.groupby(["model", "arm"])["fact_seconds"].median().unstack()
    names = [arm for arm in ARMS if arm in seconds]
    rows = []
    for model, row in seconds.iterrows():
        told = [f"{row[arm]:.1f} s ({row[arm] / row['finetune']:.0%})" for arm in names]
        shares = [one.replace("nan s (nan%)", "–").replace(" (nan%)", "") for one in told]
        rows.append([MODELS[str(model)].title, *shares])
    title = (
        "One run of the study `clinical`, median seconds, and its share of fine-tuning: networks "
        "on a GPU that twenty shared, no network on one core"
    )
    return _table(title, ["model", *(ARMS[arm].title for arm in names)], rows)


def precision(found: Found) -> str:
    """Say what bfloat16 did to the clinical results."""
    every, facts = found["all"], found["machine"]
    low, high = every["interval"]
    sentence = (
        "ResNet1d18 was trained again in float32 on the clinical study, with the same records, "
        f"seeds and learning rates: {every['runs']} runs of {len(found['seeds'])} seeds. Mean test "
        "AUROC is "
        f"{every['bf16']:.4f} in bfloat16 and {every['float32']:.4f} in float32; the difference is "
        f"{every['difference']:+.4f}, over seeds {low:+.4f} to {high:+.4f} (95 %). "
        f"{facts['device']}, torch {facts['torch']}."
    )
    head = ["arm", "training records", "bfloat16", "float32", "difference", "95 % over seeds"]
    rows = []
    for row in found["by_arm_and_size"]:
        low, high = row["interval"]
        cells = [ARMS[row["arm"]].title, row["records"]]
        cells += [f"{row['bf16']:.3f}", f"{row['float32']:.3f}", f"{row['difference']:+.3f}"]
        rows.append([*cells, f"{low:+.3f} to {high:+.3f}"])
    return f"{sentence}\n\n{_table('Mean test AUROC', head, rows)}"


def write_pages(folder: Path, speed: Found, precisions: Found) -> None:
    """Write ``speed.md`` and ``precision.md`` for the book."""
    (folder / "speed.md").write_text(f"{tables(speed)}\n\n{arms()}\n")
    (folder / "precision.md").write_text(precision(precisions) + "\n")


def _answer(found: Found) -> str:
    by_family: dict[str, list[float]] = {}
    for row in found["training"]:
        by_family.setdefault(MODELS[row["model"]].family, []).append(row["times"])
    parts = []
    for name, family in (("ResNets train", "CNN"), ("recurrent networks", "RNN")):
        ends = dict.fromkeys(f"{end(by_family[family]):.1f}" for end in (min, max))
        parts.append(f"{name} {' to '.join(ends)} times")
    limit = max(found["limits"]["bf16"], found["limits"]["float32"])  # not all CPUs have bfloat16
    shares = [
        row["gflop_per_second"] / limit for row in found["training"] if row["gflop_per_second"]
    ]
    return (
        f"On two cores, {' and '.join(parts)} as fast as in the plain loop, and records are "
        f"prepared {found['preparing']['times_faster']:.0f} times as fast. ResNets reach "
        f"{min(shares):.0%} to {max(shares):.0%} of the rate at which the same cores multiply "
        "matrices, and no more: the rest of their time is [bound by memory](log.md)."
    )


def _table(title: str, head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [f"**{title}**", "", _line(names), _line(["---"] + ["---:"] * (len(names) - 1))]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _machine(found: Found) -> str:
    facts, limits = found["machine"], found["limits"]
    return (
        f"Measured on {found['when']} with {facts['cores_used']} cores of an {facts['cpu']} "
        f"({facts['device']}), torch {facts['torch']}, Python {facts['python']}, numpy "
        f"{facts['numpy']}; medians of {found['repeats']} timings, both sides of a ratio in turns. "
        f"The same cores multiply matrices at {limits['bf16']:,.0f} GFLOP/s in bf16 and "
        f"{limits['float32']:,.0f} in float32, and copy memory at {limits['copy']:.0f} GB/s."
    )


def _training(found: Found, last: Found | None) -> str:
    before = {row["model"]: row["ours"] for row in last["training"]} if last else {}
    limit = max(found["limits"]["bf16"], found["limits"]["float32"])  # not all CPUs have bfloat16
    head = ["model", "plain loop, records/s", "ecgnb, records/s", "times faster", "share of limit"]
    head += ["last time"] if before else []
    rows = []
    for row in found["training"]:
        low, high = row["least_and_most"]
        share = f"{row['gflop_per_second'] / limit:.2f}" if row["gflop_per_second"] else ""
        cells = [row["title"], f"{row['plain']:,.0f}", f"{row['ours']:,.0f}"]
        cells += [f"{row['times']:.1f} ({low:.1f} to {high:.1f})", share]
        rows.append(cells + ([f"{before.get(row['model'], 0):,.0f}"] if before else []))
    return _table("Training, 12 leads x 1,000 samples, batches of 64", head, rows)


def _preparing(row: Found) -> str:
    return _table(
        f"Preparing {row['records']:,} records of 12 leads x 5,000 samples to 100 Hz",
        ["", "wfdb and scipy in a loop", "ecgnb", "times faster", "peak memory"],
        [
            [
                "records/s",
                f"{row['plain_records_per_second']:,.0f}",
                f"{row['records_per_second']:,.0f}",
                f"{row['times_faster']:.1f}",
                f"{row['peak_mb']:,.0f} MB",
            ]
        ],
    )


def _reading(rows: list[Found] | None) -> str:
    names = {"wfdb_rdsamp": "wfdb.rdsamp", "ours_microvolts": "ecgnb"}
    wanted = [row for row in rows or [] if row["reader"] in names]
    if not wanted:
        return ""
    cells = []
    for row in wanted:
        rate, times = f"{row['records_per_second']:,}", f"{row['times_faster']:.0f}"
        cells.append([row["dataset"], names[row["reader"]], rate, times])
    head = ["records of", "read by", "records/s", "times faster"]
    return _table("Reading a record into microvolts, one core", head, cells)


def _demo(row: Found) -> str:
    def share(name: str) -> str:
        return f"{100 * row[name]:.1f} %"

    return _table(
        f"`ecgnb run demo` from nothing: {row['runs']} runs in {row['wall_seconds']:.0f} s with "
        f"{row['processes']} processes",
        ["where the time of the processes went", "share"],
        [
            ["training", share("share_training")],
            ["validation, test, reading and storing in runs", share("share_validation_and_test")],
            ["starting, simulating and preparing, waiting", share("share_outside_runs")],
        ],
    )


def _memory(row: Found) -> str:
    return _table(
        f"Memory while training ResNet1d18 on {row['records']:,} prepared records, one process",
        ["", "MB"],
        [
            ["after importing torch", f"{row['before_mb']:,}"],
            ["peak, pages of the mapped array among it", f"{row['peak_mb']:,}"],
        ],
    )
