"""The recipes of `recipes/ablations/`: each is the base with a method of its own, and parses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from natix_hf.recipe_file import parse

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "ablations"
RECIPES = sorted(FOLDER.glob("*.yaml"))
BASE = yaml.safe_load((FOLDER / "adamw-ce.yaml").read_text())
# The learning rate of AdamW with adapters does not suit these.
OWN_RATE = {"lion", "full"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_an_ablation_parses_says_its_command_and_changes_its_method_alone(path):
    recipe = parse([str(path)])
    assert recipe.training.output_dir == f"runs/ablations/{path.stem}"
    assert f"#   python -m natix_hf.train recipes/ablations/{path.name}" in path.read_text().splitlines()
    assert parse([f"recipes/ablations/{path.name}"]) == recipe
    own = yaml.safe_load(path.read_text())
    assert own.keys() >= BASE.keys()
    free = {"output_dir", *({"learning_rate"} if path.stem in OWN_RATE else ())}
    changed = {key for key, value in own.items() if BASE.get(key) != value} - free
    assert changed <= {"method"} or not changed & BASE.keys()
    assert len(changed) == 0 if path.stem == "adamw-ce" else 1 <= len(changed) <= 3


def test_there_is_a_recipe_of_each_method_that_training_offers():
    together = "\n".join(path.read_text() for path in RECIPES)
    for method in (
        *("loss: focal", "loss: asymmetric", "loss: gatekeeper", "*supcon", "*koleo", "*lcron", "class_weights"),
        *("logit_adjustment", "optim: sam", "optim: sophia", "optim: muon", "optim: ademamix", "optim: lion"),
        *("optim: schedule_free_adamw", "loraplus_lr_ratio", "layerwise_lr_decay", "augment: auto", "augment: rand"),
        *("augment: trivial", "augment: augmix", "challenge@2025", "challenge@2026-04", "challenge@2026-05"),
        *("mixup_alpha", "cutmix_alpha", "mix_switch_prob", "use_rslora", "use_dora", "lora_init: pissa"),
        *("lora_init: olora", "lora_last_blocks", "lora_train_norms", "unfreeze_last_blocks", "sampling: balanced"),
        *("curriculum: loss", "curriculum: margin"),
    ):
        assert method in together, method
