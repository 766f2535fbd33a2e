"""Fixtures for all tests: a cache of their own, a small simulated hospital, made records."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgnb.data.catalog import card
from ecgnb.data.records import LEADS
from ecgnb.errors import UserError
from ecgnb.simulate.hospital import write_hospital

HOSPITAL_RECORDS = 60

# In the layout of the PhysioNet Challenge, with SNOMED codes.
MADE = replace(card("georgia"), name="made", title="Made", version="1", folders=("made",))

if "PYTEST_XDIST_WORKER" in os.environ:  # every core has tests of its own
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("data") and not os.environ.get("ECGNB_DATA"):
            item.add_marker(pytest.mark.skip(reason="ECGNB_DATA is not set"))
    # The long ones first: none of them is then left alone at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ECGNB_CACHE for every test, which does not exist yet; real data if it asks."""
    if not request.node.get_closest_marker("data"):
        monkeypatch.delenv("ECGNB_DATA", raising=False)
    folder = tmp_path / "cache"
    monkeypatch.setenv("ECGNB_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ECGNB_DATA."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("ECGNB_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is trained once for all tests, also where they run in many processes.

    Who comes second finds what is done, or helps: the store lets many work on the same runs.
    """
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def simulated(cache: Path, common: Path) -> None:
    """Hospitals of the simulator in the test's cache are simulated once for all tests."""
    shared = common / "demo" / "simulated"
    shared.mkdir(parents=True, exist_ok=True)
    cache.mkdir()
    (cache / "simulated").symlink_to(shared)


@pytest.fixture
def lent(cache: Path, common: Path) -> Path:
    """The test's cache, with the data of the tiny study, which are prepared once for all tests."""
    from tiny import lend_data  # which imports torch

    return lend_data(cache, common)


@pytest.fixture(scope="session")
def ran(common: Path) -> tuple[Path, list]:
    """The tiny study, done once by two processes for all tests: its cache and its results."""
    from tiny import lend_data, tiny

    from ecgnb.study.run import run_study

    folder = lend_data(common / "ran", common)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(folder))
        return folder, run_study(tiny(), workers=2, progress=False)


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw records of a simulated hospital: 500 Hz, 10 s, SNOMED codes. Only to read."""
    folder = tmp_path_factory.mktemp("hospital") / "sim-north"
    write_hospital(folder, "sim-north", HOSPITAL_RECORDS, seed=0)
    return folder


def write_record(
    folder: Path,
    name: str = "R0001",
    signals: np.ndarray | None = None,
    *,
    rate: float = 100,
    samples: int = 1000,
    leads: Sequence[str] = LEADS,
    gain: str | Sequence[str] = "1000/mV",
    suffix: str = ".dat",
    codes: str = "426783006",
    comments: Sequence[str] = ("Age: 60", "Sex: Female"),
) -> Path:
    """Write one record as the PhysioNet Challenge does, and return its header.

    `signals` is int16, (samples, leads), and noise by default; `suffix` is ``.dat`` for plain
    16-bit samples or ``.mat`` for a MATLAB level 4 file.
    """
    if signals is None:
        rng = np.random.default_rng(list(name.encode()))
        signals = rng.integers(-2000, 2000, (samples, len(leads)))
    signals = np.asarray(signals, dtype="<i2")
    gains = [gain] * len(leads) if isinstance(gain, str) else gain
    start, format_ = b"", "16"
    if suffix == ".mat":
        facts = np.array([30, len(leads), len(signals), 0, 4], dtype="<i4")
        start, format_ = facts.tobytes() + b"val\0", "16+24"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{suffix}").write_bytes(start + signals.tobytes())
    lines = [f"{name} {len(leads)} {rate:g} {len(signals)}"]
    for index, (lead, one) in enumerate(zip(leads, gains, strict=True)):
        first, checksum = signals[0, index], signals[:, index].sum(dtype="<i2")
        lines.append(f"{name}{suffix} {format_} {one} 16 0 {first} {checksum} 0 {lead}")
    lines += [f"#{comment}" for comment in (*comments, f"Dx: {codes}")]
    header = folder / f"{name}.hea"
    header.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return header


def edit(path: Path, old: str, new: str, count: int = -1) -> Path:
    """Replace text in a file that has it, and return the path."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")
    return path


def mistake(sentence: str, do: Callable[..., object], *given: object, **options: object) -> None:
    """See that a call is a mistake of the user's, and that a sentence says so."""
    with pytest.raises(UserError, match=sentence):
        do(*given, **options)


def as_fifo(path: Path) -> None:
    """Put a pipe in the place of a file."""
    path.unlink()
    os.mkfifo(path)
