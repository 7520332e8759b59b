"""`natix-hf`: what it says by itself, and what a wrong verb is told."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import natix_hf
from natix_hf.__main__ import VERBS, run
from natix_hf.errors import UserError

PACKAGE = Path(natix_hf.__file__).parent


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_alone_it_lists_every_verb_with_a_sentence_and_the_commands_to_begin_with(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run(words)
    told = capsys.readouterr().out
    for verb, does in VERBS.items():
        assert f"  {verb} " in told
        assert does.endswith(".")
        assert does in " ".join(told.split())
    assert "natix-hf train recipes/lora.yaml" in told
    assert len(told.splitlines()) <= 30


def test_every_file_that_is_a_command_is_a_verb():
    files = {path for path in PACKAGE.glob("*.py") if "    command(main)\n" in path.read_text(encoding="utf-8")}
    assert {path.stem for path in files} | {"data"} == set(VERBS)


def test_a_verb_gets_the_words_behind_it(capsys):
    with pytest.raises(SystemExit) as ended:
        run(["compare", "--help"])
    assert ended.value.code == 0
    assert "python -m natix_hf.compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "hint"), [("trian", "did you mean 'train'?"), ("xyzzy", "expected one of train, predict, .*")]
)
def test_an_unknown_verb_is_told_the_nearest_one_or_all(word, hint):
    with pytest.raises(UserError, match=f"^{word}: unknown verb: {hint.replace('?', '[?]')}$"):
        run([word])


def test_it_says_its_version(capsys):
    run(["--version"])
    assert capsys.readouterr().out == f"natix_hf {natix_hf.__version__}\n"


@pytest.mark.parametrize(("no_color", "shown"), [("", "\033[1;31merror:\033[0m trian"), ("1", "error: trian")])
def test_an_error_is_red_on_a_terminal_unless_colours_are_switched_off(no_color, shown):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": no_color}
    subprocess.run([sys.executable, "-m", "natix_hf", "trian"], stderr=theirs, env=environment, cwd=PACKAGE.parent)
    assert os.read(ours, 1000).decode().startswith(shown)
    os.close(ours)
    os.close(theirs)
