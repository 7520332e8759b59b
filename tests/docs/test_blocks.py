"""Every code block of README.md and docs/ is run on tiny data, or says why not; every command's options exist."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest
from code_blocks import INDENTED_COMMAND, PAGES, REPOSITORY, RUN, SHOWN, Block, blocks, commands

from natix_hf.errors import UserError
from natix_hf.recipe.options import Recipe
from natix_hf.recipe.pretrain_recipe import PretrainRecipe
from natix_hf.recipe.yaml_and_command_line import parse
from natix_hf.runs.many_runs.sweep_plan import read_request

# What a page says -> what is run.
SMALLER = {
    # A guarantee that a hundred photos are too few for -> one that they can give.
    "--risk_alpha 0.02": "--risk_alpha 0.6",
    "--max_fpr 0.02 --confidence 0.95": "--max_fpr 0.6 --confidence 0.6",
    "--views_exit_alpha 0.01": "--views_exit_alpha 0.6",
    "--views_exit_alpha 0.02": "--views_exit_alpha 0.6",
    # Fewer pixels, epochs, tiles and runs.
    "--image_size 224": "--image_size 32",
    "--image_size 256 448": "--image_size 32 48",
    "--image_size 384 672": "--image_size 48 64",
    "--num_train_epochs 5": "--num_train_epochs 1",
    "num_train_epochs=5": "num_train_epochs=1",
    "--views_grid 2 4": "--views_grid 1 2",
    '"image_size=224,256 448"': '"image_size=32,32 48"',
}
RUNNING = [page for page in PAGES if any(block.runs for block in blocks(page))]
LONG = [page for page in PAGES if any(block.long for block in blocks(page))]
ids = {"ids": lambda page: page.name}


class Accepted(Exception):
    """Raised in place of a command's work: its words were accepted."""


@pytest.mark.parametrize("page", PAGES, **ids)
def test_every_block_says_its_language_and_none_hides_behind_an_indent(page: Path):
    assert [block.place for block in blocks(page) if block.language not in RUN + SHOWN] == []
    fenced = {line for block in blocks(page) for line in range(block.line, block.line + block.text.count("\n") + 2)}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    assert [number for number, line in lines if number not in fenced and INDENTED_COMMAND.match(line)] == []


@pytest.mark.parametrize("page", PAGES, **ids)
def test_every_block_consists_of_commands_that_are_run_or_says_why_not(page: Path):
    shell = [block for block in blocks(page) if block.language == "bash" and (block.runs or block.long)]
    strange = [(block.place, one.words) for block in shell for one in commands(block.text) if one.module is None]
    assert strange == []


def accepted(module: str, words: list[str]) -> None:
    """Raise unless the command takes these words; does none of its work."""
    if module in ("natix_hf.train", "natix_hf.pretrain", "natix_hf.folds"):
        parse(words, PretrainRecipe if module == "natix_hf.pretrain" else Recipe)
    elif module == "natix_hf.sweep":
        parse(read_request(words).rest)
    else:
        with pytest.raises(Accepted):
            importlib.import_module(module.replace("natix_hf.data", "natix_hf.data.__main__")).main(words)


@pytest.mark.parametrize("page", PAGES, **ids)
def test_the_options_of_every_command_exist(page: Path, monkeypatch: pytest.MonkeyPatch):
    real = argparse.ArgumentParser.parse_args

    def only_parse(self, words):
        real(self, words)
        raise Accepted

    def only_resolve(words, resolve):
        resolve(words)
        raise Accepted

    def only_name(run, file):
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr("natix_hf.runs.pipeline.asked_version.asked_version", only_resolve)
    monkeypatch.setattr("natix_hf.runs.pipeline.explain.explained", only_name)
    monkeypatch.chdir(REPOSITORY)
    for block in blocks(page):
        for module, words in commands(block.text) if block.language == "bash" else ():
            if module is None:
                continue
            if words and words[0].endswith("/recipe.yaml"):  # of a run that is not there
                words = ["recipes/lora.yaml", *words[1:]]
            try:
                accepted(module, words)
            except UserError as error:
                pytest.fail(f"{block.place}: {module} {' '.join(words)}: {error}")


def smaller(text: str) -> str:
    for written, run in SMALLER.items():
        text = text.replace(written, run)
    return text


def run(page_blocks: list[Block], reader) -> None:
    """Run blocks of one page, in their order; a page that trains twice into one folder is refused as for a reader."""
    reader.bring_runs(page_blocks)
    for block in page_blocks:
        if block.language == "python":
            script = reader.folder / "block.py"
            script.write_text(smaller(block.text))
            reader.ran(script, [], block.place)
        else:
            for module, words in commands(smaller(block.text)):
                if not reader.has(module, words):
                    reader.ran(module, words, block.place)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, **ids)
def test_every_block_runs(page: Path, reader):
    run([block for block in blocks(page) if block.runs], reader)


@pytest.mark.long
@pytest.mark.parametrize("page", LONG, **ids)
def test_long_blocks_run_in_their_place_on_the_page(page: Path, reader):
    run([block for block in blocks(page) if block.runs or block.long], reader)
