"""Files that are whole or not there at all, and locks that do not outlive their program."""

import errno
import functools
import os
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import joblib
from filelock import FileLock, Timeout
from joblib.externals.loky import BrokenProcessPool, get_reusable_executor

from ecgnb.errors import UserError


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name has no suffix that any reader looks for.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # a temporary file is its owner's alone; results are for all
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def plain(text: object) -> str:
    """Write what would steer a terminal, or is no text, in a name from a file as its code."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in str(text))


_HELP = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space")
_HELP |= dict.fromkeys(
    (errno.EACCES, errno.EPERM), "let its owner share it, as the page on clusters says"
)


def reason(error: OSError, folder: Path) -> str:
    """Say of which file or folder the system complains, why, and what helps."""
    # What a temporary file is called tells nobody anything.
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else folder
    place = named.parent if named.name.startswith(".") else named
    help_ = _HELP.get(error.errno or 0, "")
    return f"{place} ({error.strerror or error})" + (f": {help_}" if help_ else "")


@contextmanager
def writable(folder: Path, advice: str) -> Iterator[None]:
    """Turn an OSError, as of a full disk, into a UserError that says what helps."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {reason(error, folder)}; {advice}") from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other programs out; say whether that worked, which it always does for who waits."""
    lock = FileLock(path, mode=0o666)  # what one user's killed program left, another may lock
    with suppress(Timeout):
        lock.acquire(timeout=-1 if wait else 0)
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            with suppress(PermissionError):  # Windows keeps what is open
                path.unlink(missing_ok=True)
            lock.release()


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file that a user wrote; or raise a UserError that says what it is."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"Cannot read the {what} {path}: it is no regular file.")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows begins with a mark
    except OSError as error:
        raise UserError(f"Cannot read the {what} {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # of the format, the encoding, a number's length
        raise UserError(f"The {what} {path} is not valid TOML: {error}.") from error


_WATCH_S = 0.2


def in_processes(
    work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], most: int
) -> Iterator[Any]:
    """Do jobs side by side, and hand out their results in order.

    `work`, a function of a module, is called with the values of each job, in at most so many
    processes as are worth their start, or here if that is one.
    """
    workers = max(1, min(joblib.cpu_count(), most))
    begun = work if workers == 1 else functools.partial(_beside, os.getpid(), work)
    calls = (joblib.delayed(begun)(*job) for job in jobs)
    try:
        yield from joblib.Parallel(workers, return_as="generator")(calls)
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed, as the system does where memory runs out: close other programs, "
            "or do with one process (export LOKY_MAX_CPU_COUNT=1), and run again"
        ) from error
    finally:
        if workers > 1:  # joblib would keep the processes, and a program's end wait for them
            get_reusable_executor().shutdown(wait=True)


def _beside(parent: int, work: Callable[..., Any], *job: Any) -> Any:
    end_with(parent)
    return work(*job)


@functools.cache
def end_with(parent: int) -> None:
    """Let this process end with the one of that number, also where that is killed, or gone already.

    It would else wait for work for ever, or go on writing files that the next start removes. A
    process whose parent is gone gets another one; only Windows does not tell.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
