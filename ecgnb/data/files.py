"""Files that are whole or not there at all, and locks that do not outlive their program."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ecgnb.errors import UserError


def put(path: Path, write: Callable[[Path], object]) -> None:
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


@contextmanager
def writable(folder: Path, advice: str) -> Iterator[None]:
    """Say in one sentence that a folder cannot be written, as on a full disk, and what helps.

    Raises
    ------
    UserError
        In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {folder} ({reason}); {advice}") from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other programs out; say whether that worked, which it always does for who waits.

    A program that dies lets go of its locks. The file at `path` is there only while it is locked,
    or where its program was killed.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(timeout=-1 if wait else 0)
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file that a user wrote.

    Raises
    ------
    UserError
        If it cannot be read; `what` says what it is.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the {what} {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"The {what} {path} is not valid TOML: {error}.") from error
