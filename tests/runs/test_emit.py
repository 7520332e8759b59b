"""The commands that `--emit` prints: one a run, quoted, and what Slurm and Hugging Face Jobs are told."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit

from natix_hf.documents.ledger import LedgerEntry, note_reads
from natix_hf.documents.run_speed import RunSpeed, Speed
from natix_hf.errors import UserError
from natix_hf.runs.many_runs import emit
from natix_hf.runs.many_runs.sweep_plan import Member, read_request

NAMES = ["lora_r=4", "lora_r=8"]
RECIPE = {"num_train_epochs": 3, "max_steps": -1, "per_device_train_batch_size": 8}


def sweep(folder: Path, left: list[str], **recipe) -> SimpleNamespace:
    known = {"dataset_name": "me/streets", "model_name_or_path": "facebook/dinov3", **recipe}
    text = "\n".join(f"{key}: {value}" for key, value in RECIPE.items())
    runs = [Member(name, [], text, {}, name) for name in NAMES]
    return SimpleNamespace(output=folder / "a sweep", recipe=known, left=lambda: left, runs=lambda: runs)


def request(*words: str):
    return read_request(
        ["recipe.yaml", "--output_dir", "runs/x", "--label_names", "a b", *words, "--grid", "lora_r=4,8"]
    )


@pytest.fixture
def recorder(tmp_path, monkeypatch) -> Path:
    """What the commands are called with: each line the words of one call, in place of Python."""
    calls = tmp_path / "calls.txt"
    script = tmp_path / "my python"
    script.write_text(f'#!/bin/bash\nprintf "%s\\n" "$(printf "%q " "$PWD" "$@")" >> {shlex.quote(str(calls))}\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return calls


def called(calls: Path) -> list[list[str]]:
    return [shlex.split(line) for line in calls.read_text().splitlines()]


def test_each_command_is_whole_in_any_folder_and_the_last_one_ranks(tmp_path, recorder):
    lines = emit.emit(sweep(tmp_path, NAMES), request("--emit", "commands"), Path("recipes/lora.yaml"))
    subprocess.run(["bash", "-e"], input="\n".join(lines), text=True, check=True, cwd="/")
    common = [os.getcwd(), "-m", "natix_hf.sweep", str(Path("recipes/lora.yaml").resolve()), "--label_names", "a b"]
    common += ["--output_dir", str(tmp_path / "a sweep"), "--grid", "lora_r=4,8", "--only"]
    assert called(recorder) == [[*common, name] for name in NAMES] + [common]


def test_a_search_is_as_many_commands_as_trials_are_left(tmp_path, recorder):
    words = ["recipe.yaml", "--emit", "commands", "--search", "tpe", "--trials", "9", "--space", "lora_r=4..64:log"]
    lines = emit.emit(sweep(tmp_path, ["next"] * 3), read_request(words), Path("recipe.yaml"))
    subprocess.run(["bash", "-e"], input="\n".join(lines), text=True, check=True)
    ends = [call[call.index("--only") :] for call in called(recorder)]
    assert ends == [["--only", "next"]] * 3 + [["--only"]]
    assert all(call.count("--search") == 1 and "lora_r=4..64:log" in call for call in called(recorder))


@pytest.mark.parametrize("executor", [submitit.LocalExecutor, submitit.DebugExecutor])
def test_a_job_array_trains_each_run_by_its_index(tmp_path, monkeypatch, recorder, executor):
    with monkeypatch.context() as patch:
        patch.setattr(emit.shutil, "which", lambda name: None)
        lines = emit.emit(sweep(tmp_path, NAMES), request("--emit", "slurm"), Path("recipe.yaml"))
    monkeypatch.undo()  # submitit starts the real Python
    script = tmp_path / "a sweep" / "sweep.sbatch"
    assert "#SBATCH --array=0-1\n" in script.read_text()
    assert lines[0].startswith("# sbatch was not found here")
    assert f"job=$(sbatch --parsable '{script}')" in lines
    jobs = executor(tmp_path / "submitit")
    commands = [
        submitit.helpers.CommandFunction(["env", f"SLURM_ARRAY_TASK_ID={i}", "bash", str(script)]) for i in range(2)
    ]
    for job in [jobs.submit(command) for command in commands]:
        job.result()
    assert sorted(call[-2:] for call in called(recorder)) == [["--only", name] for name in NAMES]
    wrapped = shlex.split(lines[-1])
    assert wrapped[:2] == ["sbatch", "--dependency=afterany:$job"]
    subprocess.run(wrapped[wrapped.index("--wrap") + 1], shell=True, check=True)
    assert called(recorder)[-1][-1] == "--only"


def finished(folder: Path, name: str, rate: float) -> None:
    """A run that saw 600 photos (3 epochs of 200) in training, and took 10 seconds beside."""
    run = folder / "a sweep" / name
    time = {"photos": 4.0, "train": 600 / rate, "predict": 6.0}
    speed = Speed(photos=600, photos_per_second=rate, peak_memory_mib=1.0, bottleneck="the model itself")
    RunSpeed(time=time, speed=speed).write(run)
    note_reads(run, [LedgerEntry(step="train", role="training", split="train", rows=200, fingerprint="ab")])


JOBS = ("--emit", "hf-jobs", "--flavor", "a10g-large", "--bucket", "me/sweeps")


def test_jobs_name_hardware_time_and_bucket_and_show_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "photos").mkdir()
    (tmp_path / "recipe.yaml").touch()
    made = sweep(tmp_path, NAMES, dataset_name=str(tmp_path / "photos"))
    lines = emit.emit(made, request(*JOBS, "--dataset_name", "photos"), tmp_path / "recipe.yaml")
    assert "hf_secret" not in "\n".join(lines)
    assert lines[0].startswith("# no cost estimate: no run of this sweep is finished, so no speed was measured")
    words = shlex.split(lines[1])
    head, tail = words[: words.index("--")], words[words.index("--") + 1 :]
    assert head[:9] == ["hf", "jobs", "uv", "run", "--detach", "--flavor", "a10g-large", "--timeout", "6h"]
    assert head[head.index("-s") + 1] == "HF_TOKEN"
    assert [head[i + 1] for i, word in enumerate(head) if word == "-v"] == [
        f"{tmp_path}/photos:/inputs/dataset_name", "hf://buckets/me/sweeps:/runs"
    ]  # fmt: skip
    assert tail[:4] == ["python", "-m", "natix_hf.sweep", str(tmp_path / "recipe.yaml")]
    assert tail.count("--dataset_name") == 1
    assert tail[tail.index("--dataset_name") + 1] == "/inputs/dataset_name"
    assert tail[tail.index("--output_dir") + 1] == "/runs/a sweep"
    assert tail[-2:] == ["--only", NAMES[0]]
    assert shlex.split(lines[-2])[-1] == "--only"
    assert shlex.split(lines[-1])[:3] == ["hf", "buckets", "sync"]


def test_jobs_are_taken_by_the_command_line_of_today(tmp_path):
    (tmp_path / "recipe.yaml").touch()
    lines = emit.emit(sweep(tmp_path, NAMES), request(*JOBS), tmp_path / "recipe.yaml")
    for line in (lines[1], lines[-2]):
        words = shlex.split(line)
        dry = [*words[: words.index("--detach")], "--dry-run", "--namespace", "me", *words[words.index("--detach") :]]
        dry[dry.index("-s") : dry.index("-s") + 2] = ["-s", "HF_TOKEN=x"]
        start = [sys.executable, "-m", "huggingface_hub.cli.hf", *dry[1:]]
        done = subprocess.run(start, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "natix_hf.sweep" in done.stdout


def test_the_cost_is_estimated_from_measured_photos_a_second(tmp_path):
    finished(tmp_path, NAMES[0], 5.0)
    made = sweep(tmp_path, NAMES[1:])
    pace = emit.measured_pace(made.output, made.runs())
    assert pace == (5.0, pytest.approx(10), 200, 1)
    assert pace.seconds(RECIPE) == pytest.approx(600 / 5 + 10)
    assert pace.seconds(RECIPE | {"max_steps": 50}) == pytest.approx(50 * 8 / 5 + 10)
    lines = emit.emit(made, request(*JOBS), Path("recipe.yaml"))
    cost = (130 + 600) / 3600 * 1.5
    assert (
        f"longest run about 3m; ${cost:.2f} for 1 runs, including 10 minutes each to start; based on 5.0 photos/s"
        in lines[0]
    )
    assert "--timeout 17m" in lines[1]  # three times as long, and the start
    assert [line.split()[-1] for line in lines if " --only l" in line] == NAMES[1:]
    assert "--timeout 2h" in emit.emit(made, request(*JOBS, "--timeout", "2h"), Path("recipe.yaml"))[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--emit", "pbs"), "--emit: expected one of commands, slurm, hf-jobs; found pbs"),
        (("--emit",), "--emit: expected one of commands, slurm, hf-jobs; found nothing"),
        (("--emit", "slurm", "--only", "lora_r=4"), "--only: cannot be combined with --emit"),
        (("--emit", "slurm", "--flavor", "a10g-large"), "--flavor: only for --emit hf-jobs"),
        (("--flavor", "a10g-large"), "--flavor: only for --emit hf-jobs"),
        (("--emit", "hf-jobs", "--bucket", "me/x"), "hardware of Hugging Face Jobs, found nothing"),
        (("--emit", "hf-jobs", "--flavor", "h100", "--bucket", "me/x"), "hardware of Hugging Face Jobs, found h100"),
        (("--emit", "hf-jobs", "--flavor", "h200"), "where the jobs save their runs; found nothing"),
        (("--emit", "hf-jobs", "--flavor", "h200", "--bucket", "x"), "where the jobs save their runs; found x"),
        ((*JOBS, "--search", "tpe"), "the trials of a search need a disk"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(words, said):
    with pytest.raises(UserError) as caught:
        emit.check(request(*words))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
