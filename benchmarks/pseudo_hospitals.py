"""Hospitals made of PTB-XL by its devices, to ask on more pairs which source to take.

    python benchmarks/pseudo_hospitals.py make ROOT
    export ECGNB_DATA=ROOT
    ecgnb run ROOT/pseudo-hospitals-study.toml
    papermill notebooks/06c_which_source.ipynb ROOT/out.ipynb -k python3 --cwd ROOT \\
        -p study ROOT/pseudo-hospitals-study.toml
    python benchmarks/pseudo_hospitals.py record ROOT

`make` reads PTB-XL, Chapman-Shaoxing and CPSC2018 where ``ECGNB_DATA`` points; a patient seen by
two devices belongs to the one that saw most patients. `record` keeps the chapter's own table
beside the recorded runs, where the chapter reads it. It takes two cores two hours.
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from ecgnb.analysis.hospitals import TRIED
from ecgnb.data.catalog import card, data_root, find
from ecgnb.errors import UserError
from ecgnb.study.data import results_root

DEVICES = {"at6c55": "AT-6 C 5.5", "cs12e": "CS-12   E", "at66": "AT-6     6", "at6c": "AT-6 C"}
STUDY = "pseudo-hospitals-study.toml"

CARD = """[ptb-xl-{name}]
title = "PTB-XL by {device}"
layout = "ptb-xl"
vocabulary = "scp"
sampling_rates = [100]
patients_known = true
licence = "CC BY 4.0"
"""

DECLARED = """# Which source, asked of hospitals that are devices of PTB-XL.
title = "Pseudo-hospitals"
description = "PTB-XL by device as sources and targets; label sets of Chapman-Shaoxing."
protocol = "clean"
tuning_seed = 99
batch_size = 32
evaluations = 3
arms = ["scratch", "finetune", "linear-probe"]
models = ["resnet1d18"]
heads = ["linear"]
# As in the study clinical.
learning_rates = [0.001]
recipe = "one-cycle-average"
min_test_positives = 3
seeds = 3
sizes = [100]

[data]
rate = 100.0
seconds = 10.0
"""
PAIR = """
[[pairs]]
source = {{ dataset = {source}, label_set = "scp-all", min_positives = 20, updates = 300 }}
target = {{ dataset = "{target}", label_set = "{labels}", min_positives = {least}, updates = 300 }}
"""
# Target, its label set, the fewest positives of a class, and sizes if not as above.
TARGETS = (
    ("cpsc2018", "cpsc-9", 10, "sizes = [0]\n"),
    ("chapman-shaoxing", "snomed-all", 15, ""),
    ("chapman-shaoxing", "rhythms", 15, ""),
    ("ptb-xl-at6c55", "scp-all", 15, ""),
    ("ptb-xl-cs12e", "scp-all", 15, ""),
)


def raw(name: str) -> Path:
    """Find the folder of a dataset."""
    folder = find(card(name), data_root())
    if folder is None:
        raise UserError(f"{name} is not in {data_root()}: fetch it")
    return folder.resolve()


def make(root: Path) -> None:
    """Write a data root with a folder and a card a device, and the study."""
    folder = raw("ptb-xl")
    root.mkdir(parents=True)
    table = pd.read_csv(folder / "ptbxl_database.csv")
    here = table["filename_lr"].map(lambda name: (folder / f"{name}.hea").exists())
    table = table[here]
    device = table["device"].where(~table["device"].str.startswith("AT-6 C 5.8"), "AT-6 C")
    order = {name: place for place, name in enumerate(DEVICES.values())}
    place = device.map(order)
    first = place.groupby(table["patient_id"]).transform("min")
    for name, shown in DEVICES.items():
        own = root / f"ptb-xl-{name}"
        own.mkdir()
        kept = table[(place == order[shown]) & (place == first)]
        kept.to_csv(own / "ptbxl_database.csv", index=False)
        shutil.copy(folder / "scp_statements.csv", own)
        (own / "records100").symlink_to(folder / "records100")
        text = CARD.format(name=name, device=" ".join(shown.split()))
        (root / f"ptb-xl-{name}.toml").write_text(text)
        print(name, len(kept), "records of", kept["patient_id"].nunique(), "patients")
    for name in ("chapman-shaoxing", "cpsc2018"):
        (root / name).symlink_to(raw(name))
    text = DECLARED
    for target, labels, least, sizes in TARGETS:
        sources = [f"ptb-xl-{name}" for name in DEVICES if f"ptb-xl-{name}" != target]
        listed = str(sources).replace("'", '"')
        text += PAIR.format(source=listed, target=target, labels=labels, least=least) + sizes
    (root / STUDY).write_text(text)


def record(root: Path) -> None:
    """Keep the chapter's table of what was tried."""
    path = results_root() / "pseudo-hospitals" / TRIED
    path.parent.mkdir(exist_ok=True)
    table = pd.read_csv(root / "files" / "06c-tried.csv").round(5)
    table.to_csv(path, index=False, lineterminator="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("make", "record"))
    parser.add_argument("root", type=Path)
    asked = parser.parse_args()
    {"make": make, "record": record}[asked.what](asked.root)


if __name__ == "__main__":
    main()
