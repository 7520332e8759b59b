"""Runs as processes of their own, one after the other, so that each gives its memory back when it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def train(output: Path, name: str, words: list[str], *, resume: bool) -> str | None:
    """Run `python -m natix_hf.train WORDS`; what it prints goes to `logs/<name>.txt` below `output`.

    Args:
        output: the folder of all the runs.
        name: of this one.
        words: recipe and keys, `output_dir` among them.
        resume: go on from its last checkpoint.

    Returns:
        Why it failed, or None.
    """
    log = output / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    more = ["--resume_from_checkpoint", "true"] if resume else []
    command = [sys.executable, "-m", "natix_hf.train", *words, "--overwrite_output_dir", "false", *more]
    with log.open("a", encoding="utf-8") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if status == 0:
        return None
    last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
    return f"exit status {status}: {' '.join(last).removeprefix('error: ')} ({log})"
