"""Commands start and end quickly, and leave a user's own settings alone."""

from __future__ import annotations

import gc
import multiprocessing
import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from natix_hf.startup import SPINS, quick_imports
from natix_hf.threads import one_blas_thread

LARGE = {"torch", "transformers", "datasets", "pandas", "scipy", "sklearn", "matplotlib"}  # a second each, or more


def test_keeping_freed_memory_leaves_a_users_own_settings_alone():
    code = "from natix_hf.startup import keep_freed_memory as keep; print(keep())"

    def told(**more: str) -> str:
        words = [sys.executable, "-c", code]
        return subprocess.run(words, capture_output=True, text=True, env={**more}, check=True).stdout.strip()

    assert told(MALLOC_ARENA_MAX="2") == "False"
    assert told(NATIX_HF_WITHOUT="memory") == "False"
    if platform.libc_ver()[0] == "glibc":
        assert told() == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot fork safely")
@pytest.mark.parametrize(
    ("chosen", "without", "expected"),
    [
        ("pass", "", "fork"),
        ("multiprocessing.set_start_method('spawn')", "", "spawn"),
        ("pass", "forking", multiprocessing.get_all_start_methods()[0]),
    ],
)
def test_a_command_forks_its_workers_unless_the_user_chose_how_they_start(chosen, without, expected):
    code = (
        "import multiprocessing\n"
        "from natix_hf.errors import command\n"
        f"{chosen}\n"
        "command(lambda words: print(multiprocessing.get_start_method()), [])"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env={"NATIX_HF_WITHOUT": without}, check=True)
    assert done.stdout.strip() == expected


def test_a_command_lets_waiting_threads_sleep_before_torch_is_imported_unless_the_user_says_how_they_wait():
    code = (
        "import os, sys\n"
        "from natix_hf.errors import command\n"
        "command(lambda words: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules), [])"
    )

    def told(**more: str) -> str:
        words = [sys.executable, "-c", code]
        return subprocess.run(words, capture_output=True, text=True, env={**more}, check=True).stdout.strip()

    assert told() == f"{SPINS} False"
    assert told(GOMP_SPINCOUNT="5") == "5 False"
    assert told(NATIX_HF_WITHOUT="memory sleeping") == "None False"
    assert told(OMP_WAIT_POLICY="ACTIVE") == "None False"


def test_no_garbage_is_looked_for_while_modules_are_imported_and_what_they_made_is_left_alone_later():
    assert gc.isenabled()
    gc.unfreeze()
    try:
        with quick_imports():
            assert not gc.isenabled()
            made = [{"a": []} for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > len(made)
        with pytest.raises(ImportError), quick_imports():
            import natix_hf.no_such_module  # noqa: F401
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_a_user_who_has_turned_the_collector_off_keeps_it_off():
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_each_trick_has_a_switch_and_a_word_that_is_none_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("NATIX_HF_WITHOUT", "imports threads")
    with quick_imports():
        assert gc.isenabled()
    assert isinstance(one_blas_thread(), nullcontext)
    done = subprocess.run(
        [sys.executable, "-c", "from natix_hf.errors import command; command(print, [])"],
        capture_output=True,
        text=True,
        env={"NATIX_HF_WITHOUT": "imports speed", "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: NATIX_HF_WITHOUT: expected packing, memory, sleeping, imports, forking, threads or all, found speed\n",
    )


def test_a_command_ends_without_looking_through_every_object():
    code = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"  # runs after what is registered later
        "from natix_hf.errors import command\n"
        "command(lambda words: None, [])\n"
        "print(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        ("natix_hf.train", ["--help"], ""),
        ("natix_hf.train", ["recipes/lora.yaml", "--learning_rte", "1"], "did you mean 'learning_rate'?"),
        ("natix_hf.train", ["recipes/lora.yaml", "--learning_rate", "fast"], "learning_rate"),
        (
            "natix_hf.train",
            ["recipes/lora.yaml", "--focal_gamma", "-1"],
            "focal_gamma: expected 0 or a positive number, found -1.0",
        ),
        ("natix_hf.train", ["nothing.yaml"], "no such file"),
        ("natix_hf.train", ["recipes/lora.yaml", "--push_to_hub", "true"], "push_to_hub: no repository given"),
        ("natix_hf.pretrain", ["--help", "all"], ""),
        (
            "natix_hf.pretrain",
            ["recipes/explora.yaml", "--pretrain_momentum", "2"],
            "pretrain_momentum: expected a number from 0 to below 1, found 2.0",
        ),
        ("natix_hf.folds", ["--help"], ""),
        ("natix_hf.predict", ["--help"], ""),
        ("natix_hf.recalibrate", ["--help"], ""),
        ("natix_hf.data.__main__", ["--help"], ""),
        ("natix_hf.sweep", ["--help", "loss"], ""),
        (
            "natix_hf.sweep",
            ["recipes/lora.yaml", "--gird", "lora_r=4,8"],
            "--seeds and --search; found none",
        ),
        ("natix_hf.sweep", ["nothing", "--grid", "lora_r=4,8"], "recipe nothing: no such file"),
        ("natix_hf.folds", ["nothing"], "recipe nothing: no such file"),
        ("natix_hf.predict", ["me/model", "nothing", "--output", "o.csv"], "nothing: no such file or folder"),
        ("natix_hf.predict", ["./nothing", "natix_hf", "--output", "o.csv"], "./nothing: no such folder"),
        ("natix_hf.recalibrate", ["nothing", "--output", "out"], "nothing: no such folder"),
        ("natix_hf.recalibrate", ["natix_hf", "nothing", "--output", "out"], "nothing: no such file or folder"),
        ("natix_hf.data.__main__", ["split", "a=./nothing", "--output", "out"], "./nothing: no such file or folder"),
        ("natix_hf.data.__main__", ["check", "nothing"], "nothing: no such file or folder"),
        ("natix_hf.data.__main__", ["push", "nothing", "me/streets"], "nothing: no such folder"),
        ("natix_hf.compare", ["nothing"], "nothing: no such folder"),
        ("natix_hf.evaluate", ["nothing"], "nothing: no such folder"),
        ("natix_hf.calibrate", ["nothing"], "nothing: no such folder"),
        ("natix_hf.publish", ["nothing", "me/model"], "nothing: no such folder"),
        ("natix_hf.export", ["nothing", "--format", "stock", "--output", "out"], "nothing: no such folder"),
        ("natix_hf.pipeline", ["--help"], ""),
        ("natix_hf.pipeline", ["nothing"], "no such file"),
    ],
)
def test_help_and_what_is_wrong_with_arguments_are_told_before_large_libraries_are_imported(module, words, told):
    code = (
        "import atexit, importlib, sys\n"
        f"atexit.register(lambda: print(*{LARGE} & set(sys.modules), file=sys.stderr))\n"
        "from natix_hf.errors import command\n"
        f"command(importlib.import_module({module!r}).main, {words!r})"
    )
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == (2 if told else 0), done.stderr
    *message, imported = done.stderr.split("\n")[:-1]
    assert told in "".join(message)
    assert imported == ""
