"""The script that measures a GPU (`tests/bench/gpu.py`) works but for the card, which no test has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "bench" / "gpu.py"


def type_bench(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.fixture
def bench(monkeypatch):
    """The script as a module, for its functions."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    return gpu


@pytest.mark.long  # ten parts, each in a process of its own
@pytest.mark.slow
def test_every_part_works_on_a_cpu_with_tiny_models_and_is_compared_with_an_earlier_run(tmp_path):
    first = tmp_path / "first"
    done = type_bench("--tiny", "--cpu", "--budget", 3000, "--output", first)
    assert done.returncode == 0, done.stderr
    found = json.loads((first / "gpu.json").read_text())
    assert {name: part["status"] for name, part in found["parts"].items()} == dict.fromkeys(found["parts"], "measured")
    assert len(found["parts"]) == 10
    lines = [line for part in found["parts"].values() for line in part["lines"]]
    without = {line["what"].partition(": ")[2] for line in lines if line["value"] is None}
    passes = {f"forward and backward by {name} / by sdpa" for name in ("flash_attention_2", "sdpa_fa3")}
    assert without == {*passes, "peak memory / its estimate"}  # what a CPU cannot do or tell
    same = [line["value"] for line in lines if "furthest" in line["what"]]
    assert len(same) == 6
    assert max(same) < 1e-4  # one CPU has the results of one CPU
    assert done.stdout == (first / "gpu.md").read_text()

    words = ("--only", "attention", "--compare", first / "gpu.json", "--output", tmp_path / "second")
    again = type_bench("--tiny", "--cpu", *words)
    row = next(row for row in again.stdout.splitlines() if "32x32" in row and "eager" in row)
    before = next(line["value"] for line in lines if "32x32" in line["what"] and "eager" in line["what"])
    assert row.split(" | ")[3] == f"{before:.2f}"


@pytest.fixture
def typed(bench, monkeypatch, capsys):
    """A function that types the script in this process: its exit status, and what it printed."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words)])
        try:
            bench.main()
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said without a GPU")
def test_what_the_script_cannot_do_is_one_line_and_status_2(typed, tmp_path):
    (tmp_path / "old.json").write_text("[]")
    for words, said in (
        ((), "no GPU that torch can use is here"),
        (("--compare", tmp_path / "old.json", "--cpu"), "not a gpu.json that this script wrote"),
        (("--compare", tmp_path / "none.json", "--cpu"), "not a gpu.json that this script wrote"),
    ):
        status, out, err = typed("--output", tmp_path / "out", *words)
        assert status == 2
        assert said in err
        assert (out, err.count("\n"), (tmp_path / "out").exists()) == ("", 1, False)


def test_parts_for_which_the_budget_has_no_room_are_listed(typed, tmp_path):
    status, out, _ = typed("--tiny", "--cpu", "--budget", 0, "--output", tmp_path)
    assert status == 0
    assert "| heads | not run: 0 s were left of 0 |" in out
    assert out.count("not run:") == 10


def test_a_part_that_fails_keeps_what_it_had_and_its_last_words(bench, tmp_path):
    found, log = tmp_path / "found.jsonl", tmp_path / "log"
    code = f"open({str(found)!r}, 'w').write('{{\"what\": \"a\"}}\\n'); print('one'); raise ValueError('no\\nmemory')"
    part = bench.measure([sys.executable, "-c", code], found, log, 60)
    assert (part["status"], part["lines"], part["fault"]) == ("failed", [{"what": "a"}], "memory")
    code = "import time; time.sleep(60)"
    part = bench.measure([sys.executable, "-c", code], tmp_path / "none", log, 0.2)
    assert (part["status"], part["lines"]) == ("failed", [])
    assert part["fault"] == "stopped after 0 s, when the budget was spent"
    part = bench.measure([sys.executable, "-c", "pass"], found, log, 60)
    assert (part["status"], part["lines"]) == ("measured", [{"what": "a"}])


def test_a_row_has_the_earlier_figure_beside_it_and_says_which_target_was_missed(bench):
    line = {"what": "a | b", "value": 1.25, "unit": "", "target": "<= 1.03", "how": "3 pairs"}
    rows = bench.rows_of_part("x", {"status": "measured", "lines": [line]}, {"lines": [line | {"value": 1.01}]})
    assert rows == ["| a / b | 1.25 | <= 1.03, missed | 1.01 | 3 pairs |"]
    kept = [line | {"target": ">= 0.95"}, line | {"value": None}, line | {"value": 2e-5, "unit": "s", "target": ""}]
    failed = {"status": "failed", "lines": kept, "fault": "no memory"}
    assert bench.rows_of_part("x", failed, None) == [
        "| a / b | 1.25 | >= 0.95 | - | 3 pairs |",
        "| a / b | - | <= 1.03 | - | 3 pairs |",
        "| a / b | 2e-05 s |  | - | 3 pairs |",
        "| x | failed: no memory |  |  |  |",
    ]
