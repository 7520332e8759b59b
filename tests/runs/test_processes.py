"""A run as a process of its own: how it ends, and that it does not outlive whoever holds its lease."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from natix_hf.errors import command
from natix_hf.runs.lease import LeaseLost, holder, take
from natix_hf.runs.many_runs import processes

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a script in the place of `python -m natix_hf.train`; each beat is a tenth of a second."""

    def put(text: str) -> None:
        script = tmp_path / "program"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(processes, "BEAT", 0.1)

    return put


def train(folder: Path, resume: bool = False) -> str | None:
    lease = take(folder / "leases" / "run")
    try:
        return processes.train(folder, "run", ["recipe.yaml"], resume=resume, lease=lease)
    finally:
        lease.release()


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("after", ["", 'echo "UserWarning: leaked semaphore";'])
def test_it_is_called_with_its_words_and_its_error_says_why_it_failed(tmp_path, program, after):
    program(f'echo "$@"; echo "error: no room"; {after} exit 2')
    log = tmp_path / "logs" / "run.txt"
    assert train(tmp_path, resume=True) == f"exit status 2: no room ({log})"
    said = "-m natix_hf.train recipe.yaml --overwrite_output_dir false --resume_from_checkpoint true"
    assert log.read_text().splitlines()[0] == said
    program("exit 0")
    assert train(tmp_path) is None


def test_a_lease_is_renewed_while_it_trains_and_one_that_was_lost_ends_it(tmp_path, program):
    program(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    path = tmp_path / "leases" / "run"
    lease = take(path)
    os.utime(path, (0, 0))

    def lose() -> None:
        wait_for(lambda: path.stat().st_mtime > 1 and (tmp_path / "pid").is_file())  # it was renewed
        path.write_text("another's")

    thief = FORK.Process(target=lose)
    thief.start()
    with pytest.raises(LeaseLost):
        processes.train(tmp_path, "run", [], resume=False, lease=lease)
    thief.join()
    assert thief.exitcode == 0
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that is killed leaves its children")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_parent_which_gives_the_lease_back_where_it_can(tmp_path, program, how):
    program(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    parent = FORK.Process(target=command, args=(lambda words: train(tmp_path), []))
    parent.start()
    wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    os.kill(parent.pid, how)
    parent.join()
    assert parent.exitcode == (143 if how == signal.SIGTERM else -signal.SIGKILL)
    child = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(child))
    assert (tmp_path / "leases" / "run").is_file() == (how == signal.SIGKILL)
    assert holder(tmp_path / "leases" / "run") is None
