"""Files that are whole or not there, locks, and pools whose processes are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from ecgnb import files
from ecgnb.errors import UserError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/c/b/.x-1"), r"/c/b \(Permission denied\): let"),
        (OSError(28, "No space left", "/c/b/x"), r"/c/b/x \(No space left\): free some space; or"),
        (OSError(30, "Read-only file system"), r"/cache \(Read-only file system\); or elsewhere"),
    ],
)
def test_what_cannot_be_written_is_named_with_what_helps(error, message):
    with pytest.raises(UserError, match=message), files.writable(Path("/cache"), "or elsewhere"):
        raise error


def test_a_file_is_whole_and_for_all_and_nothing_is_left(tmp_path):
    def broken(path):
        path.write_text("half")
        raise OSError("full")

    path = tmp_path / "new" / "x"
    files.put(path, lambda place: place.write_text("whole"))
    with pytest.raises(OSError, match="full"):
        files.put(path, broken)
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["x"]


def test_a_lock_that_another_user_left_can_be_taken(tmp_path, monkeypatch):
    path = tmp_path / "x.lock"
    with files.locked(path) as mine, files.locked(path, wait=False) as second:
        assert (mine, second) == (True, False)
        assert path.stat().st_mode & 0o666 == 0o666
        monkeypatch.setattr(Path, "unlink", Mock(side_effect=PermissionError))  # as on Windows
    monkeypatch.undo()
    with files.locked(path, wait=False) as mine:
        assert mine
    assert not path.exists()


def _killed(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_of_a_pool_is_one_sentence(monkeypatch):
    monkeypatch.setattr(files.joblib, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match=r"a process was killed.*run again"):
        list(files.in_processes(_killed, [(number,) for number in range(8)], 2))


def test_stopped_while_it_starts(tmp_path):
    """Ctrl-C in the first second, before the command line is there to hear it."""
    program = "import signal, sys, threading, ecgnb.__main__ as m; sys.argv = ['', 'datasets']; "
    # Where the tests run in the background, their processes would not hear it.
    program += "signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += f"threading.Timer(0.1, open, ({str(tmp_path / 'begun')!r}, 'w')).start(); m.main()"
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == (
        "ecgnb: stopped; what is finished is kept, run again to go on\n"
    )
    assert process.returncode == 130
