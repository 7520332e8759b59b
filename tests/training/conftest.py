"""Trainings in processes of their own, whose imports are done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from warm import Result, Warm, plain_environment


@pytest.fixture(scope="session")
def launched(warm: Warm) -> Callable[..., Result]:
    """A function that runs a script, in one process or in several that train together, with its store in `home`."""

    def launch(script: Path, *words: str, home: Path, processes: int = 1) -> Result:
        home.mkdir(exist_ok=True)
        environment = {**plain_environment(), "OMP_NUM_THREADS": "1", "NATIX_HF_HOME": str(home)}
        return warm.run(script, words, environment, home, processes=processes)

    return launch
