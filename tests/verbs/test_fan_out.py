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
from warm import REPOSITORY, plain_environment

from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.several_runs import Sweep
from natix_hf.runs.many_runs.study import Axis, ask, begin_study, open_study, tell, trial_of
from tests.verbs.conftest import Desk

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
@pytest.mark.long
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
        assert sum(line.endswith((": starts", ": resumes")) for line in lines) == 1, lines
        kinds = r": (starts|resumes|already finished|in use by \S+ pid \d+)$"
        assert all(re.search(kinds, line) for line in lines), lines
    assert not list((output / "leases").iterdir())
    before = {name: (output / name).read_bytes() for name in ("sweep.json", "SWEEP.md")}
    assert "already finished" in Tree(desk, "fourth", *words, "--only", document.runs[0].name).ended()
    Tree(desk, "fifth", *words, "--only").ended()
    assert {name: (output / name).read_bytes() for name in before} == before


@pytest.mark.long
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
    searching = ("--search", "tpe", "--trials", "3", "--space", "lora_r=4..8")
    assert "holds a sweep that is no search" in desk.refusal("sweep", *words[:5], *searching)
    written = {name: (output / name).read_bytes() for name in ("sweep.json", "SWEEP.md")}
    emitted = desk.type("sweep", *words, "--seeds", "0", "1", "--emit", "commands")
    assert emitted.out.startswith("# after these have ended, write the table:\n")  # nothing is left to be trained
    (output / "sweep.json").unlink()
    environment = {**plain_environment(), "NATIX_HF_HOME": str(desk.folder / "home")}
    subprocess.run(["bash", "-e"], input=emitted.out, text=True, check=True, env=environment, capture_output=True)
    assert {name: (output / name).read_bytes() for name in written} == written


@pytest.mark.long
def test_two_trees_work_on_one_search_which_goes_on_and_takes_no_other_options(module_desk):
    desk = module_desk
    output = desk.folder / "search"
    space = ("--space", "learning_rate=1e-4..1e-1:log", "pooling=cls,cls_mean")
    words = (desk.recipe, "--method", "probe", "--output_dir", output, "--search", "tpe", *space)
    told = "".join(tree.ended() for tree in [Tree(desk, f"search-{i}", *words, "--trials", "3") for i in range(2)])
    for number in range(3):
        assert told.count(f"trial {number + 1}/3 trial-{number:03d}: starts") == 1
    document = Sweep.read(output)
    assert document.search.trials == 3
    assert [run.rank for run in document.runs] == [1, 2, 3]
    assert len({run.values["learning_rate"] for run in document.runs}) == 3
    text = (output / "SWEEP.md").read_text()
    assert "3 of 3 trials: 3 finished, 0 pruned, 0 failed" in text
    assert f"{document.runs[0].name}/recipe.yaml" in text
    for run in document.runs:
        assert {entry.split for entry in read_ledger(output / run.name)} == {"train", "val_select"}
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    again = desk.type("sweep", *words, "--trials", "3")
    assert ": starts" not in again.out
    assert {path: path.read_bytes() for path in before} == before
    line = desk.refusal("sweep", *words, "--trials", "3", "--weight_decay", "0.5")
    assert "a study with other options: weight_decay (0.5 here," in line
    line = desk.refusal("sweep", *words[:-1], "pooling=cls,mean", "--trials", "3")
    assert "a study with other options: space" in line
    line = desk.refusal("sweep", *words[:5], "--grid", "lora_r=4,8")
    assert "holds a search: choose another --output_dir" in line
    more = desk.type("sweep", *words, "--trials", "5", "--only", "next")
    assert more.out.count(": starts") == 1
    assert "4 of 5 trials" in more.out
    assert "python -m natix_hf.train" not in more.out  # the search is not over


def test_without_optuna_one_line_says_what_to_install(desk):
    words = ("--search", "tpe", "--trials", "3", "--space", "lora_r=4..8")
    line = desk.refusal("sweep", desk.recipe, *words, prelude="import sys\nsys.modules['optuna'] = None")
    assert line == "--search needs Optuna: pip install 'natix_hf[search]'"
    assert not (desk.folder / "run-sweep").exists()


def test_a_trial_that_falls_behind_ends_early_and_is_told_from_the_others(module_desk):
    desk = module_desk
    output = desk.folder / "pruned"
    output.mkdir()
    begin_study(output, {}, larger_is_better=True)
    space = {"learning_rate": Axis(1e-4, 1e-1, log=True)}
    for number in range(5):
        trial_of(open_study(output), ask(output, space, seed=0).number).report(2.0, 1)  # no MCC comes near
        tell(output, number, 2.0)
    ask(output, space, seed=0)
    own = ("--sweep", "true", "--trial", "5", "--output_dir", output / "trial-005", "--num_train_epochs", "3")
    status, out, err = desk.type("train", desk.recipe, "--method", "probe", *own)
    assert status == 0, err
    assert "pruned: its eval_mcc is worse than the median of the others" in out
    record = json.loads((output / "trial-005" / "run.json").read_text())
    assert (record["status"], record["pruned"]) == ("finished", True)
    assert record["steps"] * 3 == record["max_steps"]
    assert (output / "trial-005" / "predictions" / "val_select.parquet").is_file()
    logged = [entry["eval_mcc"] for entry in record["log_history"] if "eval_mcc" in entry]
    assert list(open_study(output).trials[5].intermediate_values.values()) == logged
    assert "--trial null" in desk.refusal("train", desk.recipe, "--trial", "3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--search", "tpe", "--trials", "0", "--space", "lora_r=4..8"), "a number, such as 40; found 0"),
        (("--search", "cmaes", "--trials", "3", "--space", "lora_r=4..8"), "--search: expected tpe, found cmaes"),
        (("--search", "tpe", "--trials", "3", "--space", "focal_gamma=-1..2"), "expected 0 or a positive"),
        (("--search", "tpe", "--trials", "3", "--space", "lora_r=4.5..8"), "4.5"),
        (("--search", "tpe", "--trials", "3", "--space", "loss=ce,focl"), "did you mean 'focal'?"),
        (("--search", "tpe", "--trials", "3", "--grid", "lora_r=4,8"), "--grid: cannot be combined with --search"),
        (("--search", "tpe", "--trials", "3", "--seeds", "0", "1"), "--seeds: cannot be combined with --search"),
        (
            ("--search", "tpe", "--trials", "3", "--space", "lora_r=4..8", "--only", "x"),
            "next (one trial) or nothing (the table) in a search, found x",
        ),
        (("--search", "tpe", "--trials", "3", "--space", "lora_r=4..8", "--trial", "1"), "--trial cannot be set"),
        (("--grid", "lora_r=4,8", "--trials", "3"), "--trials: only for a search"),
        (("--grid", "lora_r=4,8", "--seeds", "0", "0"), "expected two or more different integers"),
        (("--grid", "lora_r=4,8", "--seeds", "0", "x"), "such as 0 1 2; found 0 x"),
        (("--grid", "lora_r=4,8", "--seeds", "0", "1", "--seed", "3"), "--seed cannot be set"),
        (("--grid", "lora_r=4,8", "--only", "lora_r=5"), "not a run of this sweep: its runs are lora_r=4, lora_r=8"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(module_desk, words, said):
    desk = module_desk
    before = {path.name for path in desk.folder.iterdir()}
    assert said in desk.refusal("sweep", desk.recipe, *words)
    assert {path.name for path in desk.folder.iterdir()} - before <= {".stdout", ".stderr"}
