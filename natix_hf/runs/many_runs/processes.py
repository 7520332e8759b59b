"""Trains each run in its own process, so that its memory is freed when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from natix_hf.runs.lease import BEAT, Lease, LeaseLost
from natix_hf.startup import end_with


class Outcome(NamedTuple):
    """The state of a run, and the reason if it failed."""

    status: Literal["finished", "failed", "waiting"]
    reason: str | None = None


def train(output: Path, name: str, words: list[str], *, resume: bool, lease: Lease) -> str | None:
    """Run `python -m natix_hf.train WORDS`; its output goes to `logs/<name>.txt` in `output`.

    The process ends when this process ends, so that no process trains without a lease.

    Args:
        output: folder of all runs.
        name: of this run.
        words: recipe and keys, including `output_dir`.
        resume: resume from the last checkpoint.
        lease: of the run; renewed during training.

    Returns:
        Why the run failed, or None.

    Raises:
        LeaseLost: another process took over the lease; training was stopped.
    """
    log = output / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    more = ["--resume_from_checkpoint", "true"] if resume else []
    command = [sys.executable, "-m", "natix_hf.train", *words, "--overwrite_output_dir", "false", *more]
    tied = partial(end_with, os.getpid(), signal.SIGKILL) if sys.platform == "linux" else None
    with log.open("a", encoding="utf-8") as file:
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=tied) as process:
            try:
                while (status := _ended(process)) is None:
                    if not lease.renew():
                        raise LeaseLost
            except BaseException:
                process.kill()
                raise
    if status == 0:
        return None
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]  # libraries may warn after it, while Python exits
    reason = " ".join((errors or lines)[-1:]).removeprefix("error: ")
    return f"exit status {status}: {reason} ({log})"


def _ended(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(timeout=BEAT)
    except subprocess.TimeoutExpired:
        return None
