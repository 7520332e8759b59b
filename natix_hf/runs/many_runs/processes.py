"""Runs as processes of their own, one after the other, so that each gives its memory back when it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from natix_hf.runs.lease import BEAT, Lease, LeaseLost

_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Outcome(NamedTuple):
    """What became of one of several runs, and why it failed if it did."""

    status: Literal["finished", "failed", "waiting"]
    reason: str | None = None


def train(output: Path, name: str, words: list[str], *, resume: bool, lease: Lease) -> str | None:
    """Run `python -m natix_hf.train WORDS`; what it prints goes to `logs/<name>.txt` below `output`.

    The process ends with this one, so that nobody trains in a folder whose lease is nobody's.

    Args:
        output: the folder of all the runs.
        name: of this one.
        words: recipe and keys, `output_dir` among them.
        resume: go on from its last checkpoint.
        lease: of the run; renewed while it trains.

    Returns:
        Why it failed, or None.

    Raises:
        LeaseLost: the lease was taken over; the process was ended.
    """
    log = output / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    more = ["--resume_from_checkpoint", "true"] if resume else []
    command = [sys.executable, "-m", "natix_hf.train", *words, "--overwrite_output_dir", "false", *more]
    tied = partial(_end_with, os.getpid()) if _LIBC else None
    before = signal.signal(signal.SIGTERM, _stop)  # so that the lease is given back, as after Ctrl-C
    try:
        with log.open("a", encoding="utf-8") as file:
            with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=tied) as process:
                try:
                    while (status := _ended(process)) is None:
                        if not lease.renew():
                            raise LeaseLost
                except BaseException:
                    process.kill()
                    raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status == 0:
        return None
    last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
    return f"exit status {status}: {' '.join(last).removeprefix('error: ')} ({log})"


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _ended(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(timeout=BEAT)
    except subprocess.TimeoutExpired:
        return None


def _end_with(parent: int) -> None:
    """In a new process, before its program: have Linux kill it when its parent dies, however that happens."""
    _LIBC.prctl(_DEATH_OF_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this could be asked for
        os._exit(1)
