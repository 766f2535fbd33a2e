"""Files that are whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def put(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under another name, and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name has no suffix that any reader looks for.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # a temporary file is its owner's alone; results are for all
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
