"""What a user gets of three small runs is what it was: losses, figures, calibration, probabilities, files.

Values may differ by rounding between processors and releases of torch: `TOLERANCE` allows for it. A change that is
meant is written down by `python tests/golden/write.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.golden_runs import METHODS, differences, golden_run, written

TOLERANCE = 2e-3  # absolute, of losses, metrics and probabilities


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_gives_what_it_gave(method: str, tmp_path: Path) -> None:
    assert differences(golden_run(method, tmp_path), written(method), TOLERANCE) == []
