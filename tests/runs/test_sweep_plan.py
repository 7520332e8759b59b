"""What a sweep's command line makes: its runs, their words, and the ones that one process may do."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import yaml

from natix_hf.errors import UserError
from natix_hf.runs.many_runs.sweep_plan import Grid, read_request


def parse(words: list[str]) -> dict:
    """A command line as a recipe of its keys; `training` as the real one has it."""
    keys = {word[2:]: value for word, value in pairwise(words) if word.startswith("--")}
    training = SimpleNamespace(output_dir=keys.get("output_dir", "runs/lora"))
    return SimpleNamespace(training=training, keys={"recipe": words[0], **keys})


def grid(*words: str) -> Grid:
    return Grid(read_request(["lora.yaml", *words]), parse, lambda recipe: yaml.safe_dump(recipe.keys))


def test_every_combination_has_every_seed_and_the_words_of_all():
    runs = grid("--bf16", "true", "--grid", "lora_r=4,8", "--seeds", "0", "7", "--ema", "false").runs()
    assert [run.name for run in runs] == [f"lora_r={rank},seed={seed}" for rank in (4, 8) for seed in (0, 7)]
    first = runs[0]
    assert first.words == [
        *("lora.yaml", "--bf16", "true", "--ema", "false", "--lora_r", "4", "--seed", "0"),
        *("--output_dir", "runs/lora-sweep/lora_r=4,seed=0", "--sweep", "true"),
    ]
    assert (first.cell, first.seed, first.values) == ("lora_r=4", 0, {"lora_r": "4"})
    assert yaml.safe_load(first.text)["overwrite_output_dir"] == "false"


def test_a_value_may_be_a_list_whose_words_stand_behind_each_other():
    runs = grid("--grid", "image_size=224,256 448").runs()
    assert [run.name for run in runs] == ["image_size=224", "image_size=256_448"]
    assert runs[1].words[:4] == ["lora.yaml", "--image_size", "256", "448"]
    with pytest.raises(UserError, match=r"expected key=value,value, .*; found image_size=224, "):
        grid("--grid", "image_size=224, ")


def test_the_recipe_itself_may_be_trained_with_several_seeds():
    sweep = grid("--seeds", "1", "2", "--output_dir", "runs/mine")
    assert [(run.name, run.cell, run.values) for run in sweep.runs()] == [
        ("seed=1", "the recipe", {}), ("seed=2", "the recipe", {})
    ]  # fmt: skip
    assert str(sweep.output) == "runs/mine"
    assert sweep.left() == ["seed=1", "seed=2"]


def test_a_process_may_do_some_runs_alone_or_none(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("natix_hf.runs.many_runs.sweep_plan.work", lambda output, runs, **more: done.append(runs))
    place = ("--output_dir", str(tmp_path), "--grid", "lora_r=4,8,16")
    some = grid(*place, "--only", "lora_r=16", "lora_r=4")
    some.work(after=lambda: None)
    assert [run.name for run in done[0]] == ["lora_r=4", "lora_r=16"]
    assert len(some.runs()) == 3  # the table has all of them
    none = grid(*place, "--only")
    none.work(after=lambda: None)
    assert done[1] == []
    assert none.done()
    assert not some.done()


def test_a_folder_that_holds_a_search_is_refused(tmp_path):
    (tmp_path / "study.journal").touch()
    with pytest.raises(UserError, match="holds a search"):
        grid("--output_dir", str(tmp_path), "--grid", "lora_r=4,8").begin()
