"""`kill`, a scheduler or a closed terminal ends a command as Ctrl-C does: nothing half-written remains."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from natix_hf.errors import PATIENCE, command

START = """
import os, signal, sys, time
from pathlib import Path
from natix_hf.errors import command
from natix_hf.files import new_folder

def wait():
    print("waits", flush=True)
    time.sleep(60)
"""
WAITS = """
def main(words):
    with new_folder(Path(words[0]) / "new") as stage:
        (stage / "half").write_text("half of it")
        wait()

command(main)
"""
ENDS_SLOWLY = """
def main(words):
    try:
        wait()
    finally:
        time.sleep(1)
        print("cleaned", flush=True)

command(main)
"""
ANOTHER_ERROR = """
def main(words):
    try:
        wait()
    except KeyboardInterrupt:
        raise TimeoutError  # as datasets does while processes read photos

command(main)
"""
WORKERS = """
import torch

class Photos(torch.utils.data.Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, number):
        time.sleep(0.01)
        return torch.zeros(10)

def main(words):
    for number, batch in enumerate(torch.utils.data.DataLoader(Photos(), batch_size=2, num_workers=2)):
        if number == 2:
            print("waits", flush=True)

command(main)
"""
POOL = """
import datasets

datasets.disable_progress_bars()

def work(row):
    if row["photo"] == 5:
        print("waits", flush=True)
    time.sleep(0.01)
    return {}

def main(words):
    rows = datasets.Dataset.from_dict({"photo": list(range(100_000))})
    rows.map(work, num_proc=2, keep_in_memory=True)

command(main)
"""
ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def line_of(number: int) -> str:
    return "interrupted\n" if number == signal.SIGINT else f"terminated by {signal.Signals(number).name}\n"


def waiting(code: str, folder: Path, *before: str) -> subprocess.Popen:
    """A process in a group of its own that runs the code with the folder as its argument, and has begun to wait."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", START + code, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert process.stdout.readline() == "waits\n"
    return process


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", ALL)
def test_a_signal_that_ends_a_command_leaves_nothing_half_written(tmp_path, number):
    process = waiting(WAITS, tmp_path)
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    assert ended(process) == (128 + number, "", line_of(number))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ALL)
def test_a_second_signal_does_not_disturb_the_cleaning_up(tmp_path, number):
    process = waiting(ENDS_SLOWLY, tmp_path)
    process.send_signal(number)
    for further in ALL:
        process.send_signal(further)
    status, out, err = ended(process)
    assert (status, err) in [(128 + one, line_of(one)) for one in ALL]  # those that arrive together have no order
    assert out == "cleaned\n"


@pytest.mark.parametrize("number", ALL)
def test_a_library_that_makes_another_error_of_a_signal_is_not_a_fault(tmp_path, number):
    process = waiting(ANOTHER_ERROR, tmp_path)
    process.send_signal(number)
    assert ended(process) == (128 + number, "", line_of(number))


def test_a_signal_some_seconds_later_ends_a_command_that_does_not_come_to_its_end(tmp_path):
    process = waiting(ENDS_SLOWLY.replace("sleep(1)", "sleep(60)"), tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(PATIENCE + 1)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("code", [WORKERS, POOL], ids=["workers of torch", "pool of datasets"])
@pytest.mark.parametrize("number", ALL)
def test_a_signal_to_all_processes_of_a_command_leaves_no_word_of_its_workers_and_no_folder(tmp_path, number, code):
    process = waiting(code, tmp_path)
    os.killpg(process.pid, number)
    assert ended(process) == (128 + number, "", line_of(number))
    assert not list(tmp_path.iterdir())


def test_a_command_under_nohup_outlives_its_terminal(tmp_path):
    process = waiting(WAITS, tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[2].endswith("terminated by SIGTERM\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a launcher that is killed leaves its child")
def test_a_command_ends_when_the_launcher_of_accelerate_is_killed(tmp_path):
    """As `accelerate launch` of one process does it: it waits for a child, to which it passes no signal on."""
    child = [sys.executable, "-c", START + WAITS, str(tmp_path)]
    launcher = "import subprocess, sys; subprocess.run(sys.argv[2:])"
    process = subprocess.Popen(
        [sys.executable, "-c", launcher, "accelerate launch", *child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "waits\n"
    process.kill()
    assert process.communicate(timeout=30) == ("", "terminated by SIGTERM\n")  # the child has ended too
    assert not list(tmp_path.iterdir())


def test_a_forked_worker_ends_silently_when_its_parent_ends_it(capfd):
    def main(words):
        import multiprocessing
        import time

        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
        time.sleep(0.1)
        worker.terminate()
        worker.join(30)
        assert worker.exitcode == -signal.SIGTERM

    before = [signal.getsignal(number) for number in ALL]
    command(main, [])
    assert capfd.readouterr() == ("", "")
    assert [signal.getsignal(number) for number in ALL] == before


def test_debug_shows_where_a_command_was_ended(tmp_path):
    process = waiting(WAITS.replace("command(main)", "command(main, [sys.argv[1], '--debug'])"), tmp_path)
    process.send_signal(signal.SIGTERM)
    err = ended(process)[2]
    assert "Traceback" in err
    assert "in wait" in err


@pytest.mark.parametrize("closed", [1, 2])
def test_a_command_works_with_its_output_closed(closed):
    code = f"import os; os.close({closed}); os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'natix_hf'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: natix-hf VERB" if closed == 2 else "")
