"""How far sources' ECGs lie from targets', measured and written beside the recorded runs.

    python benchmarks/distances.py clinical clinical-sources

It takes minutes on one core; the chapter on sources reads the table.
"""

import argparse

import torch

from ecgnb.analysis.hospitals import DISTANCES, distances
from ecgnb.study.data import results_root
from ecgnb.study.declare import load_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+")
    torch.set_num_threads(1)
    for name in parser.parse_args().studies:
        path = results_root() / name / DISTANCES
        path.unlink(missing_ok=True)
        table = distances(load_study(name)).round(4)
        table.to_csv(path, index=False, lineterminator="\n")
        print(table.groupby(["source", "source_size", "target"])["distance"].mean())


if __name__ == "__main__":
    main()
