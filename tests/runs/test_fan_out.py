"""Runs that are shared out: which one is trained, left alone, tried again, or given up to another process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import note_steps

from natix_hf.errors import UserError
from natix_hf.files import write_json, write_text
from natix_hf.runs.lease import LeaseLost, holder, take
from natix_hf.runs.many_runs import fan_out
from natix_hf.runs.many_runs.fan_out import Planned, lease_of, outcomes, work

RUNS = [Planned(name, [name], f"seed: {name}\n") for name in "abc"]


class Trainer:
    """Stands in for `processes.train`: finishes a run, or does what `does` says for its name."""

    def __init__(self, does: dict) -> None:
        self.does, self.trained = does, []

    def __call__(self, output: Path, name: str, words: list[str], *, resume: bool, lease) -> str | None:
        assert holder(lease.path)
        self.trained.append((name, resume))
        done = self.does.get(name)
        if isinstance(done, str):
            return done
        if done is not None:
            raise done
        write_text(output / name / "recipe.yaml", f"seed: {name}\n")
        write_json(output / name / "run.json", {"version": 2, "status": "finished"})
        note_steps(output / name)
        return None


@pytest.fixture
def at_work(tmp_path, monkeypatch, capsys):
    """A function that does the runs; returns what was trained, what was printed, and how often it was told of it."""

    def start(runs=RUNS, **does) -> tuple[list, str, int]:
        trainer, told = Trainer(does), []
        monkeypatch.setattr(fan_out, "train", trainer)
        work(tmp_path, runs, noun="run", whose="sweep", after=lambda: told.append(None))
        said = capsys.readouterr()
        return trainer.trained, said.out + said.err, len(told)

    return start


def statuses(folder: Path) -> list[str]:
    return [outcome.status for outcome in outcomes(folder, RUNS, "sweep").values()]


def test_each_run_is_trained_once_and_a_second_start_finds_all_there(tmp_path, at_work):
    trained, out, told = at_work()
    assert trained == [("a", False), ("b", False), ("c", False)]
    assert out.splitlines() == [f"run {i}/3 {name}: starts" for i, name in enumerate("abc", start=1)]
    assert told == 3
    assert statuses(tmp_path) == ["finished"] * 3
    assert at_work() == ([], "".join(f"run {i}/3 {name}: already finished\n" for i, name in enumerate("abc", 1)), 0)
    assert not list((tmp_path / "leases").iterdir())


def test_a_run_that_another_process_is_training_is_skipped(tmp_path, at_work):
    lease = take(lease_of(tmp_path, "b"))
    trained, out, _ = at_work()
    assert [name for name, _ in trained] == ["a", "c"]
    assert f"run 2/3 b: in use by {holder(lease.path)}\n" in out
    assert statuses(tmp_path) == ["finished", "waiting", "finished"]
    lease.release()
    assert at_work()[0] == [("b", False)]


def test_an_interrupted_run_is_resumed(tmp_path, at_work):
    write_text(tmp_path / "b" / "recipe.yaml", "seed: b\n")
    write_json(tmp_path / "b" / "run.json", {"version": 2, "status": "training"})
    trained, out, _ = at_work()
    assert ("b", True) in trained
    assert "run 2/3 b: resumes" in out


def test_a_failed_run_is_told_by_every_process_and_tried_again_by_the_next_start(tmp_path, at_work):
    trained, out, told = at_work(b="exit status 2: no")
    assert "run 2/3 b: failed: exit status 2: no" in out
    assert (len(trained), told) == (3, 3)
    assert outcomes(tmp_path, RUNS, "sweep")["b"] == ("failed", "exit status 2: no")
    assert at_work()[0] == [("b", False)]
    assert statuses(tmp_path) == ["finished"] * 3


def test_what_failed_since_this_process_began_is_not_tried_again(tmp_path, monkeypatch, at_work):
    monkeypatch.setattr(fan_out, "time_of", lambda folder: folder.mkdir(parents=True, exist_ok=True) or 0)
    write_text(tmp_path / "leases" / ".b.failed", "exit status 2: no")
    trained, out, told = at_work()
    assert [name for name, _ in trained] == ["a", "c"]
    assert "run 2/3 b: just failed in another process" in out
    assert told == 2


def test_a_run_whose_lease_was_lost_is_given_up_and_the_others_are_done(tmp_path, at_work):
    trained, out, told = at_work(b=LeaseLost())
    assert [name for name, _ in trained] == ["a", "b", "c"]
    assert "run 2/3 b: taken over by" in out
    assert told == 2
    assert statuses(tmp_path) == ["finished", "waiting", "finished"]


def test_an_interruption_gives_the_lease_back(tmp_path, at_work):
    with pytest.raises(KeyboardInterrupt):
        at_work(b=KeyboardInterrupt())
    assert holder(lease_of(tmp_path, "b")) is None
    assert statuses(tmp_path) == ["finished", "waiting", "waiting"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    write_text(tmp_path / "b" / "recipe.yaml", "seed: 9\n")
    (tmp_path / "b" / "run.json").write_text(json.dumps({"version": 2, "status": "finished"}))
    with pytest.raises(UserError, match="holds a run whose recipe is not the one of this sweep"):
        outcomes(tmp_path, RUNS, "sweep")
