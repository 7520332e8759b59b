"""Into a file or a pipe every progress bar writes whole lines, few of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

BARS = {
    "tqdm": "from tqdm.auto import tqdm",
    "datasets": "from datasets.utils import tqdm",
    "huggingface_hub": "from huggingface_hub.utils import tqdm",
    "transformers": "from transformers.utils.logging import tqdm",
}


def _lines(code: str) -> list[str]:
    """What a process writes on stderr, with the bars as lines at most every 0.25 s."""
    code = f"import time\nfrom natix_hf.progress_lines import bars_as_lines\nbars_as_lines(0.25)\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("library", BARS)
def test_a_bar_of_a_thousand_steps_is_a_line_at_each_interval_and_one_at_its_end(library):
    lines = _lines(f"{BARS[library]}\nfor _ in tqdm(range(1000), desc='map', unit='photo'): time.sleep(0.001)")
    assert 2 <= len(lines) <= 20
    assert all(line.startswith("map: ") for line in lines)
    assert "| 1000/1000 [" in lines[-1] or "100% 1000/1000 [" in lines[-1]
    assert "photo/s" in lines[-1]
    assert "█" not in "".join(lines)


def test_a_bar_without_a_known_end_tells_its_count():
    lines = _lines("from tqdm.auto import tqdm\nfor _ in tqdm(iter(range(7)), desc='pairs', unit='pair'): pass")
    assert len(lines) == 1
    assert lines[0].startswith("pairs: 7pair [")


def test_a_short_bar_that_leaves_nothing_writes_nothing():
    assert _lines("from tqdm.auto import tqdm\nfor _ in tqdm(range(9), leave=False): pass") == []
    assert _lines("from tqdm.auto import tqdm\nfor _ in tqdm(range(9), disable=True): pass") == []


def test_bars_within_bars_and_written_lines_stand_below_each_other():
    lines = _lines(
        "import sys\nfrom tqdm.auto import tqdm\n"
        "for i in tqdm(range(2), desc='outer'):\n"
        "    tqdm.write(f'step {i}', file=sys.stderr)\n"
        "    for _ in tqdm(range(3), desc='inner', leave=True): pass"
    )
    assert [line.split()[0].rstrip(":") for line in lines] == ["step", "inner", "step", "inner", "outer"]


def test_a_command_shows_lines_in_a_pipe(tmp_path):
    command = [sys.executable, "-m", "natix_hf.scenes.photos", str(tmp_path / "photos"), "--count", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("scenes: 100% 40/40 [")
    assert len(done.stderr.splitlines()) < 5


def test_a_command_in_a_terminal_keeps_its_bars(tmp_path):
    words = f"stty columns 100 rows 40; {sys.executable} -m natix_hf.scenes.photos {tmp_path / 'photos'} --count 4"
    code = f"import pty; assert pty.spawn(['sh', '-c', {words!r}]) == 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert b"\rscenes: 100%" in done.stdout
