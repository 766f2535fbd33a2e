"""The command line. Only commands that train import PyTorch, which takes long to start."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from ecgnb import __version__
from ecgnb.data.arrays import Options
from ecgnb.data.catalog import CATALOG, JOINT, cache_root, card, data_root, find, own_cards, parts
from ecgnb.data.fetch import describe, fetch, no_home
from ecgnb.data.prepare import prepare, summary
from ecgnb.errors import UserError
from ecgnb.files import plain, put, writable
from ecgnb.models import MODELS
from ecgnb.study.data import (
    fingerprints,
    missing_datasets,
    open_dataset,
    record_dataset,
    say_missing,
)
from ecgnb.study.declare import FASTEST, LONGEST, load_study, study_names
from ecgnb.study.plan import (
    check_recorded,
    duration,
    first_seeds,
    open_progress,
    record_runs,
    write_part,
)
from ecgnb.study.spec import Study, read_shard


def _say(text: object, *, err: bool = False) -> None:
    typer.echo(plain(text), err=err)


class _Commands(TyperGroup):
    """All commands; Ctrl-C ends each with one sentence, which typer would end without any."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("ecgnb: stopped; what is finished is kept, run again to go on", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="When does transfer learning help ECG diagnosis? Run and re-run the study.",
)

StudyName = Annotated[
    str,
    typer.Argument(
        help=f"One of: {', '.join(study_names())}; STUDY:DATASET for another target; a TOML file."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes side by side; by default as many as fit here.")
]
Precision = Annotated[
    str, typer.Option(help="auto (the fastest here), float32, tf32 (NVIDIA GPUs) or bf16.")
]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, help="Only the first seeds; one does all the tuning of the study."),
]


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"ecgnb {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run and re-run the study."""


@app.command()
def datasets() -> None:
    """List the datasets of the catalog, and which of them are here."""
    root = data_root() if os.environ.get("ECGNB_DATA") else None
    for facts in (*CATALOG.values(), *own_cards().values()):
        here = "simulated" if facts.simulated else "-"
        if root and (folder := find(facts, root)):
            here = str(folder)
        count = f"{facts.records:,}" if facts.records else _prepared(facts.name)
        _say(f"{facts.name:18} {count:>8} records  {facts.licence:24} {here}")
    if root is None:
        _say("ECGNB_DATA is not set: set it to the folder that holds your datasets.")


def _prepared(name: str) -> str:
    """Count the records of a dataset as it was last prepared, if it was."""
    written = (cache_root() / "prepared").glob(f"{name}-{'?' * 12}/manifest.json")
    latest = max(written, key=os.path.getmtime, default=Path())
    try:
        return f"{json.loads(latest.read_text(encoding='utf-8'))['counts']['kept']:,}"
    except (OSError, ValueError, KeyError):
        return "?"


@app.command("fetch")
def fetch_datasets(
    names: Annotated[list[str] | None, typer.Argument(help="Datasets, by their names.")] = None,
    study: Annotated[str, typer.Option(help="Fetch the datasets of this study.")] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Also what ecgnb does not read, such as 500 Hz records.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched; download nothing.")
    ] = False,
) -> None:
    """Download public datasets to where ECGNB_DATA points; stop it whenever you like."""
    wanted = [card(name) for name in names or []]
    if study:
        needed = [part for name in load_study(study).datasets for part in parts(card(name))]
        for reason in filter(None, map(no_home, dict.fromkeys(needed))):
            _say(reason)
        wanted += [one for one in needed if one.homes]
    elif not wanted:
        raise UserError("name a dataset, or a study with --study; `ecgnb datasets` lists them")
    for one in dict.fromkeys(wanted):
        if dry_run:
            _say(describe(one, everything=everything))
        else:
            fetch(one, everything=everything, say=_say)


@app.command("prepare")
def prepare_dataset(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Datasets; without any, all that are here.")
    ] = None,
    study: Annotated[str, typer.Option(help="Prepare the datasets of this study.")] = "",
    rate: Annotated[float, typer.Option(min=1, max=FASTEST, help="Sampling in Hz.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, max=LONGEST, help="Of the window.")] = 10.0,
    short: Annotated[str, typer.Option(help="Shorter records: pad or drop.")] = "pad",
    record: Annotated[
        bool,
        typer.Option("--record", help="Write down in results/records/ which records there are."),
    ] = False,
) -> None:
    """Turn raw records into one array and one table a dataset."""
    options, absent = Options(rate=rate, seconds=seconds, short=short), []
    if study:
        said = {one: ctx.get_parameter_source(one) for one in ("names", "rate", "seconds", "short")}
        if given := [one for one, by in said.items() if by and by.name == "COMMANDLINE"]:
            raise UserError(f"leave out --study, which says all that, or {' and '.join(given)}")
        declared = load_study(study)
        absent = missing_datasets(declared)
        here = [name for name in declared.datasets if name not in absent]
        names = [*dict.fromkeys(part for name in here for part in name.split(JOINT))]
        options = declared.data
    else:
        names = names or _present()
    for name in names:
        if study:
            prepared = open_dataset(declared, name, progress=_shown())
        else:
            prepared = prepare(name, options, progress=_shown())
        _say(summary(prepared))
        for drop in prepared.manifest["dropped"] if not study else ():
            _say(f"  dropped {drop['record']}: {drop['reason']}")
        if record:
            _say(f"  written: {record_dataset(prepared, options)}")
    for name in absent:
        _say(f"not here: {card(name).title}")


def _shown() -> bool:
    return "TQDM_DISABLE" not in os.environ


def _present() -> list[str]:
    root = data_root()
    known = (*CATALOG.values(), *own_cards().values())
    return [facts.name for facts in known if facts.simulated or find(facts, root)]


@app.command()
def plan(
    study: StudyName,
    workers: Workers = None,
    precision: Precision = "auto",
    seeds: Seeds = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="How long a job of a cluster may take, for the shards.")
    ] = 30.0,
) -> None:
    """Say how many runs a study has, how long those left take here and how much memory."""
    from ecgnb.study.cost import groups
    from ecgnb.study.run import check_data, default_workers, worker_bytes

    declared = first_seeds(_load(study), seeds)
    progress = open_progress(declared)
    if progress.missing():
        check_data(declared)
    count = workers or default_workers(declared)
    _say(f"{declared.title}: {declared.description}")
    _say(f"{'stage':9} {'model':12} {'arm':14} {'runs':>5} {'done':>5} {'seconds a run':>14}")
    left = 0.0
    for group in groups(progress, precision):
        model = group.model if group.head == "pooled" else f"{group.model}-{group.head}"
        seconds = "-" if group.seconds is None else f"{group.seconds:.0f}"
        _say(
            f"{group.stage:9} {model:12} {group.arm:14} {group.runs:5} {group.done:5} {seconds:>14}"
        )
        left += group.seconds_left
    _say_how(declared, count, precision)
    _say(
        f"left: about {duration(left / count)} with {count} processes, "
        f"{count * worker_bytes(declared) / 1e9:.1f} GB of memory"
    )
    shards = max(1, math.ceil(left / count / 60 / minutes))
    _say(f"shards of about {minutes:g} min with so many processes each: {shards}")


def _load(name: str) -> Study:
    """Read a study, and say first which of its data or recorded runs are missing."""
    study = load_study(name)
    if missing := say_missing(study):
        _say(missing)
    return study


def _say_how(study: Study, workers: int, precision: str) -> None:
    """Say what was chosen for this machine."""
    from ecgnb.training.device import choose_device, choose_precision, describe_device

    device = choose_device()
    _say(f"{describe_device(device)}, {workers} processes of one thread")
    for model in dict.fromkeys(model for pair in study.pairs for model in pair.models):
        _say(f"{MODELS[model].title}: {choose_precision(model, precision, device)}")


@app.command()
def run(
    study: StudyName,
    workers: Workers = None,
    precision: Precision = "auto",
    seeds: Seeds = None,
    shard: Annotated[
        str, typer.Option(help="Do only a share of the runs: 2/5 is the second of five.")
    ] = "1/1",
    record: Annotated[
        bool, typer.Option("--record", help="Write the finished runs into results/.")
    ] = False,
    part: Annotated[
        Path | None, typer.Option(help="Write them into this folder, for others to add.")
    ] = None,
    origin: Annotated[str, typer.Option(help="Who has made that part, and where.")] = "",
) -> None:
    """Do the runs of a study that are missing; finished runs are never repeated.

    Several of these, on one computer or on several that share ECGNB_CACHE, do each run once.
    """
    from ecgnb.study.run import default_workers, run_study

    whole = _load(study)
    if part and not origin:
        raise UserError("say who has made the part, and where, with --origin")
    if record:
        check_recorded(whole)  # before anything is trained for it
    declared = replace(first_seeds(whole, seeds), shard=read_shard(shard))
    _say_how(declared, workers or default_workers(declared), precision)
    results = run_study(declared, workers=workers, precision=precision, progress=_shown())
    _say(f"{declared.name}: {len(results)} runs are there to compare")
    if record:
        path = record_runs(whole)  # also what other shards did
        size = f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)" if path else ""
        _say(size or "nothing to write: all that is finished was recorded before")
    if part:
        _say(f"written: {write_part(whole, part, origin)}")


@app.command()
def status(study: StudyName) -> None:
    """Say what is done of a study, and where."""
    declared = _load(study)
    every = open_progress(declared).runs()
    for stage in dict.fromkeys(run.stage for run in every):
        runs = [done for run, done in every.items() if run.stage == stage]
        _say(f"{stage:9} {sum(runs):5} of {len(runs):5} runs done")
    _say(f"cache: {cache_root()}")
    for name, value in fingerprints(declared).items():
        _say(f"data: {name} {value[:12]}")


@app.command("verify")
def verify_runs(
    study: StudyName,
    sample: Annotated[int, typer.Option(min=1, help="How many runs to train again.")] = 5,
    part: Annotated[
        Path | None, typer.Option(help="Of somebody else's runs, as `run --part` writes them.")
    ] = None,
) -> None:
    """Train some recorded runs again, and see whether they come out as recorded."""
    from ecgnb.study.verify import TOLERANCE, verify

    failed = 0
    for check in verify(load_study(study), sample, part=part):
        failed += not check.passed
        _say(check)
    if failed:
        raise UserError(
            f"{failed} runs do not agree with what is recorded: to the bit on the same kind of "
            f"machine, within {TOLERANCE:g} of AUROC elsewhere; was the code of training changed?"
        )


@app.command("advise")
def advise_dataset(
    dataset: Annotated[str, typer.Argument(help="One of your own, or of the catalog.")],
    workers: Workers = None,
) -> None:
    """Say whether to transfer to a dataset: checks, a study of some minutes, evidence, advice."""
    from ecgnb.analysis.advise import advise

    for line in advise(dataset, workers, progress=_shown()):
        _say(line)


@app.command("probe")
def probe_features(
    study: StudyName,
    folder: Annotated[
        Path, typer.Argument(help="With features.npy and records.csv, or a card of an encoder.")
    ],
    part: Annotated[
        Path | None, typer.Option(help="A folder for a part that others can add to their runs.")
    ] = None,
    origin: Annotated[str, typer.Option(help="Whose encoder it is.")] = "",
    finetune: Annotated[
        float, typer.Option(min=0, max=100, help="Fine-tune it too, at this learning rate.")
    ] = 0.0,
) -> None:
    """Hold an encoder of your own beside a study: a linear probe on its features, or fine-tuned."""
    from ecgnb.outside import probe

    for line in probe(load_study(study), folder, part, origin, finetune):
        _say(line)


@app.command("export")
def export_network(
    study: StudyName,
    folder: Annotated[Path, typer.Argument(help="Where model.safetensors and card.json go.")],
    target: Annotated[
        str | None, typer.Option(help="Of the study's targets, or one of your own.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="What it was pre-trained on.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this network.")] = None,
    arm: Annotated[str | None, typer.Option(help="Only this arm, such as finetune.")] = None,
    size: Annotated[int | None, typer.Option(help="Only so many records; 0 is all.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also as model.onnx.")] = False,
) -> None:
    """Take a network home: of the runs that are done, the best on validation, with a card."""
    from ecgnb.export import CARD, describe, export, write_onnx

    declared = load_study(study, target=target, source=source)
    export(declared, folder, model=model, arm=arm, size=size)
    if onnx:
        write_onnx(folder)
    for line in describe(json.loads((folder / CARD).read_text(encoding="utf-8")), folder):
        _say(line)


@app.command("predict")
def predict_csv(
    folder: Annotated[Path, typer.Argument(help="What `ecgnb export` wrote.")],
    names: Annotated[
        list[str], typer.Argument(metavar="RECORDS...", help="WFDB records, folders, .npy arrays.")
    ],
    rate: Annotated[float | None, typer.Option(min=1, help="Of arrays, in Hz.")] = None,
    out: Annotated[Path | None, typer.Option(help="A CSV file; by default the terminal.")] = None,
) -> None:
    """Ask an exported network about records: a CSV of probabilities."""
    from ecgnb.export import predict_records

    table, refused = predict_records(folder, names, rate)
    text = plain(table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    if out is None:
        typer.echo(text, nl=False)
    else:
        with writable(out.parent, "nothing was written; name another file with --out"):
            put(out, lambda path: path.write_text(text, encoding="utf-8"))
    for name, reason in refused.items():
        _say(f"not predicted: {name}: {reason}", err=True)
    if refused:
        raise UserError(f"{len(refused)} of {len(table) + len(refused)} records were not predicted")


def main() -> None:
    """Run the command line; a mistake of the user's is one sentence and exit status 2."""
    try:
        app()
    except UserError as error:
        _say(f"ecgnb: {error}", err=True)
        sys.exit(2)
