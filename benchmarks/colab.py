"""A rehearsal of Colab: every notebook in an environment like the one it has there.

Run as ``make colab``; most of its time goes into training the demo. It makes a
virtual environment with the versions that Colab has, but for the GPU, and a stand-in for the
package ``google.colab``; executes every notebook from top to bottom in an empty folder, its
set-up cell first, which has to install ecgnb; and sees that this changed no package that was there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
THERE = (
    "torch==2.11.0",
    "numpy==2.1.3",
    "pandas==2.2.3",
    "ipython==7.34.0",
    "scikit-learn==1.6.*",
    *("matplotlib", "scipy", "statsmodels", "pyarrow", "h5py", "safetensors"),
    *("tqdm", "requests", "psutil", "joblib", "ipykernel", "nbclient", "nbconvert"),
)
DRIVE = """def mount(folder):
    print("Mounted at", folder)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rehearse(Path(folder))


def rehearse(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *THERE], check=True)
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    stub = Path(site) / "google" / "colab"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "drive.py").write_text(DRIVE)
    startup = folder / "ipython" / "profile_default" / "startup"  # as a kernel of Colab begins
    startup.mkdir(parents=True)
    (startup / "colab.py").write_text("import google.colab\n")
    before = versions(python)
    environment = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "ECGNB_CACHE": os.environ.get("ECGNB_CACHE", str(folder / "cache")),
        "ECGNB_DATA": str(folder / "ecg"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    environment.pop("PYTHONPATH", None)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        empty = folder / path.stem
        empty.mkdir()
        copy = empty / path.name
        copy.write_text(with_source(path.read_text(), f"git+{ROOT.as_uri()}"))
        command = [str(python), "-m", "nbconvert", "--to", "notebook", "--inplace", "--execute"]
        command += ["--ExecutePreprocessor.timeout=-1", "--log-level", "ERROR", path.name]
        subprocess.run(command, cwd=empty, env=environment, check=True)
        print(path.name)
        for cell in json.loads(copy.read_text())["cells"]:
            if "open_study(" in "".join(cell["source"]):
                for output in cell["outputs"]:
                    print("   ", "".join(output.get("text", [])).strip().replace("\n", "\n    "))
    after = versions(python)
    changed = {name: (old, after.get(name)) for name, old in before.items()}
    changed = {name: both for name, both in changed.items() if both[0] != both[1]}
    added = sorted(f"{name} {after[name]}" for name in after.keys() - before.keys())
    print(f"{len(before)} packages were there, changed: {changed or 'none'}")
    print(f"added: {', '.join(added)}")
    sys.exit(bool(changed))


def with_source(notebook: str, address: str) -> str:
    """Let a notebook's set-up cell install the last commit here; it may not be public yet."""
    parts = json.loads(notebook)
    for cell in parts["cells"]:
        lines = [
            f"{line}{address}\n" if line.startswith("_address = ") else line
            for line in cell["source"]
        ]
        cell["source"] = lines
    return json.dumps(parts)


def versions(python: Path) -> dict[str, str]:
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format=json"], text=True)
    return {one["name"]: one["version"] for one in json.loads(listed)}


if __name__ == "__main__":
    main()
