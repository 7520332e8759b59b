"""The recipes of `recipes/ablations/`: each is the base with a method of its own, and parses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from natix_hf.recipe.yaml_and_command_line import parse
from natix_hf.training.losses import LOSSES
from natix_hf.training.losses.check_loss import loss_terms
from natix_hf.training.optimizers import OPTIMIZERS

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
    assert set(LOSSES) == {name for path in RECIPES for name in loss_terms(parse([str(path)]).training.loss)}
    for method in (
        *(f"optim: {name}" for name in OPTIMIZERS),
        *("class_weights", "logit_adjustment", "loraplus_lr_ratio", "layerwise_lr_decay"),
        *("augment: auto", "augment: rand"),
        *("augment: trivial", "augment: augmix", "challenge@2025", "challenge@2026-04", "challenge@2026-05"),
        *("mixup_alpha", "cutmix_alpha", "mix_switch_prob", "use_rslora", "use_dora", "lora_init: pissa"),
        *("use_doran", "doran_share: block"),
        *("lora_init: olora", "lora_last_blocks", "lora_train_norms", "unfreeze_last_blocks", "sampling: balanced"),
        *("curriculum: loss", "curriculum: margin"),
    ):
        assert method in together, method


# One for each way from a recipe into training. Other methods are trained with in `training/`: optimizers and forms of
# LoRA in `test_optimizers_in_training.py`, losses in `test_losses_training.py`.
TRAINED = ("sophia", "asam", "pissa", "unfreeze-last-block", "mixup-cutmix", "augmix", "supcon", "challenge-2026-04")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_backbone, make_photos):
    """A function that trains a recipe for three steps of a sweep on tiny photos, in this process; gives its folder."""
    from natix_hf import load_photos
    from natix_hf import train as verb

    folder = tmp_path_factory.mktemp("ablations")
    photos = make_photos(folder / "photos", {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 24)
    splits = load_photos(photos).dedicate("sweep")
    given = {"model_name_or_path": tiny_backbone, "dataset_name": photos, "image_size": 32, "use_cpu": "true"}
    given |= {"dataloader_num_workers": 0, "disable_tqdm": "true", "lora_r": 4, "per_device_train_batch_size": 8}
    given |= {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    given |= {"gradient_accumulation_steps": 1, "logging_steps": 1, "bf16": "false", "sweep": "true"}

    def train(name: str) -> Path:
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        recipe = parse([str(FOLDER / f"{name}.yaml"), *words, "--output_dir", str(folder / name)])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(verb, "load_data", lambda recipe, say: splits)
            verb.train(recipe)
        return folder / name

    return train


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_an_ablation_trains(tiny, name):
    record = json.loads((tiny(name) / "run.json").read_text())
    losses = [entry["loss"] for entry in record["log_history"] if "loss" in entry]
    assert record["status"] == "finished"
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert any(entry.get("grad_norm") for entry in record["log_history"])
