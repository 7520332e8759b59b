"""What tests of the pipeline and of sweeps put into its process before it starts: quick training, kills, a full disk.

A hook holds for the pipeline and for the training that it starts.
"""

from __future__ import annotations

import errno
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from natix_hf.documents.step_record import StepRecord
from natix_hf.runs import steps
from natix_hf.runs.pipeline.plan import GROUP, Pipeline

PIPELINE = os.getpid()


def train_in_a_fork() -> None:
    """Training is a fork of the pipeline's process, which has done its imports, in place of a process of its own."""

    def launched(self: Pipeline, command: list[str]) -> int:
        number = os.fork()
        if number:
            return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        _become_training(command)

    Pipeline._launched = launched


def runs_in_forks() -> None:
    """The runs of a sweep are forks of its process in the same way: in place of their program they go on here."""
    popen = subprocess.Popen

    def started(command: list[str], preexec_fn: Callable[[], None] | None, **options: Any) -> subprocess.Popen:
        def become() -> None:
            if preexec_fn is not None:
                preexec_fn()
            os.closerange(3, 256)  # as before a program; the parent waits for the end of one of these pipes
            _become_training(command)

        sys.stdout.flush()
        return popen(command, preexec_fn=become, **options)

    subprocess.Popen = started


def _become_training(command: list[str]) -> None:
    """Do the work of a training that was to be started with this command line: never returns."""
    sys.argv = ["natix_hf.train", *command[command.index("natix_hf.train") + 1 :]]
    status = 0
    try:
        runpy.run_module("natix_hf.train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _kill() -> None:
    os.kill(PIPELINE, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _replacing_in(step: str, act: Callable[[str], None]) -> None:
    """Act when a step puts its first file into place."""
    of_others, replace, now = steps._of_others, os.replace, []

    def began(run, one, purpose):
        now[:] = [one.name]
        return of_others(run, one, purpose)

    def replaced(source, target, **more):
        if now == [step]:
            act(str(target))
        replace(source, target, **more)

    steps._of_others, os.replace = began, replaced


def kill(step: str, moment: str) -> None:
    """`kill -9` in a step.

    Args:
        step: its name.
        moment: `halfway`: when its first file is put into place; `unrecorded`: when all of them are, and its record
            is not; `recorded`: when the record is, too.
    """
    if moment == "halfway":
        _replacing_in(step, lambda target: _kill())
        return
    note = StepRecord.note

    def noted(self: StepRecord, run: Path) -> None:
        if self.name == step and moment == "unrecorded":
            _kill()
        note(self, run)
        if self.name == step:
            _kill()

    StepRecord.note = noted


def fill_disk(step: str) -> None:
    """No space is left when a step puts its first file into place."""

    def full(target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    _replacing_in(step, full)


def in_training(store: str, number: int) -> None:
    """Send this process a signal when training has been started."""

    def send() -> None:
        noted = Path(store) / GROUP
        while not (noted.exists() and noted.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
