"""What a user gets of three small runs is what it was: losses, figures, calibration, probabilities, files.

Values may differ by rounding between processors and releases of torch: `TOLERANCE` allows for it. A change that is
meant is written down by `python tests/golden/write.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.golden_runs import METHODS, differences, environment, golden_run, written
from warm import Warm

TOLERANCE = 2e-3  # absolute, of losses, metrics and probabilities


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_gives_what_it_gave(method: str, tmp_path: Path, warm: Warm) -> None:
    """Typed to a process that has done its imports: `write.py` starts one for each command."""

    def typed(home: Path, verb: str, *words: object) -> None:
        done = warm.run(f"natix_hf.{verb}", words, environment(home), tmp_path)
        assert done.status == 0, done.out + done.err

    found = golden_run(method, tmp_path, typed)
    assert differences(found, written(method), TOLERANCE) == []
