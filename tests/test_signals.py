"""`kill`, a scheduler or a closed terminal ends a command as Ctrl-C does: nothing half-written remains."""

import signal
import subprocess
import sys

import pytest

from natix_hf.errors import Terminated, command

WAITS = """
import sys, time
from pathlib import Path
from natix_hf.errors import command
from natix_hf.files import new_folder

def main(words):
    with new_folder(Path(words[0]) / "new") as stage:
        (stage / "half").write_text("half of it")
        print("waits", flush=True)
        time.sleep(60)

command(main)
"""


def waiting(folder, *before) -> subprocess.Popen:
    words = [*before, sys.executable, "-c", WAITS, folder]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waits\n"
    assert list(folder.iterdir())
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_leaves_nothing_half_written(tmp_path, number):
    process = waiting(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + number, "", f"terminated by {number.name}\n")
    assert not list(tmp_path.iterdir())


def test_a_command_under_nohup_outlives_its_terminal(tmp_path):
    process = waiting(tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1].endswith("terminated by SIGTERM\n")


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

    command(main, [])
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_debug_shows_where_a_command_was_ended():
    with pytest.raises(Terminated, match="terminated by SIGTERM"):
        command(lambda words: signal.raise_signal(signal.SIGTERM), ["--debug"])
