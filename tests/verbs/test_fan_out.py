"""One sweep in several process trees on one disk: each run is trained once, and nobody dies with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, Desk, plain_environment

from natix_hf.documents.several_runs import Sweep

pytestmark = pytest.mark.slow


class Tree:
    """A sweep as a process tree of its own, as on another machine."""

    def __init__(self, desk: Desk, name: str, *words: object) -> None:
        homes = {"NATIX_HF_HOME": str(desk.folder / "home"), "HF_HOME": str(desk.folder / "hf")}
        self.out = desk.folder / f"{name}.txt"
        with self.out.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "natix_hf.sweep", *map(str, words)],
                cwd=REPOSITORY,
                env={**plain_environment(), **homes},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def ended(self) -> str:
        """What it printed, once it has ended well."""
        status, told = self.process.wait(), self.out.read_text()
        assert status == 0, told
        return told

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in listed.split()]


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def trains(number: int) -> bool:
    """Whether a process runs the program and is no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_two_trees_share_the_runs_and_take_over_those_of_a_dead_one(module_desk):
    desk = module_desk
    output = desk.folder / "run-sweep"
    words = (desk.recipe, "--method", "probe", "--grid", "learning_rate=1e-3,3e-3,1e-2,3e-2")
    first = Tree(desk, "first", *words)
    began = output / "learning_rate=1e-3" / "run.json"
    wait_for(lambda: began.is_file() or first.process.poll() is not None)
    (child,) = first.children()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    wait_for(lambda: not trains(child))  # it would have gone on in a folder whose lease is nobody's
    assert [path.name for path in (output / "leases").glob("[!.]*")] == ["learning_rate=1e-3"]

    told = [tree.ended() for tree in (Tree(desk, "second", *words), Tree(desk, "third", *words))]
    document = Sweep.read(output)
    assert {run.status for run in document.runs} == {"finished"}
    for run in document.runs:
        log = (output / "logs" / f"{run.name}.txt").read_text()
        assert log.count(": finished") == 1
        lines = [line for text in told for line in text.splitlines() if line.startswith("run ") and run.name in line]
        assert sum(line.endswith((": begins", ": goes on")) for line in lines) == 1, lines
        kinds = r": (begins|goes on|is there already|in use by \S+ pid \d+)$"
        assert all(re.search(kinds, line) for line in lines), lines
    assert not list((output / "leases").iterdir())
    before = {name: (output / name).read_bytes() for name in ("sweep.json", "SWEEP.md")}
    assert "is there already" in Tree(desk, "fourth", *words, "--only", document.runs[0].name).ended()
    Tree(desk, "fifth", *words, "--only").ended()
    assert {name: (output / name).read_bytes() for name in before} == before


def test_several_seeds_rank_combinations_by_their_mean(module_desk):
    desk = module_desk
    output = desk.folder / "seeds"
    words = (desk.recipe, "--method", "probe", "--output_dir", output, "--grid", "learning_rate=1e-3,3e-2")
    status, out, err = desk.type("sweep", *words, "--seeds", "0", "1")
    assert status == 0, err
    document = Sweep.read(output)
    assert document.seeds == [0, 1]
    assert {run.name for run in document.runs} == {
        f"learning_rate={rate},seed={seed}" for rate in ("1e-3", "3e-2") for seed in (0, 1)
    }
    for cell in document.cells:
        own = [run for run in document.runs if run.cell == cell.name]
        assert cell.scores == [run.score.value for run in own]
        assert cell.mean == pytest.approx(sum(cell.scores) / 2)
        records = [json.loads((output / run.name / "run.json").read_text()) for run in own]
        assert [record["seeds"]["seed"] for record in records] == [0, 1]
        assert len({record["fingerprints"]["splits"] for record in records}) == 1
    assert [cell.rank for cell in document.cells] == [1, 2]
    assert f"{document.cells[0].name},seed=0/recipe.yaml" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--grid", "lora_r=4,8", "--seeds", "0"), "two or more different whole numbers expected"),
        (("--grid", "lora_r=4,8", "--seeds", "0", "0"), "two or more different whole numbers expected"),
        (("--grid", "lora_r=4,8", "--seeds", "0", "x"), "--seeds 0 x: two or more different whole numbers"),
        (("--grid", "lora_r=4,8", "--seeds", "0", "1", "--seed", "3"), "--seed cannot be set"),
        (("--grid", "lora_r=4,8", "--only", "lora_r=5"), "no run of this sweep; its runs are lora_r=4, lora_r=8"),
        (("--grid", "lora_r=4,8", "--grid", "lora_dropout=0,0.1"), "one --grid expected"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(desk, words, said):
    before = sorted(path.name for path in desk.folder.iterdir())
    assert said in desk.refusal("sweep", desk.recipe, *words)
    assert {path.name for path in desk.folder.iterdir()} - set(before) <= {".stdout", ".stderr"}
