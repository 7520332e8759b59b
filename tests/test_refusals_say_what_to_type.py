"""A recipe's key that does not go with a command line's is refused with the words to type, and these work."""

import re

import pytest

from natix_hf.errors import UserError
from natix_hf.options import off
from natix_hf.recipe.check_recipe import check
from natix_hf.recipe.yaml_and_command_line import parse, resolved
from natix_hf.training.training_arguments import NatixTrainingArguments

RECIPE = """\
model_name_or_path: builtin:demo-backbone
dataset_name: photos/
output_dir: {output}
use_cpu: true
"""
# What stands in the file, and what is typed.
MEETINGS = [
    ("label_smoothing_factor: 0.05", "--loss asymmetric"),
    ("label_smoothing_factor: 0.05", "--loss gatekeeper"),
    ("class_weights: [balanced]", "--loss ce+lcron --class_weights balanced --mixup_alpha 0.2"),
    ("class_weights: [balanced]", "--loss lcron"),
    ("class_weights: [balanced]", "--sampling balanced"),
    ("class_weights: [balanced]", "--loss focal --focal_alpha 0.25"),
    ("logit_adjustment: 1", "--sampling balanced"),
    ("mixup_alpha: 0.2\ncutmix_alpha: 1", "--loss asymmetric"),
    ("mixup_alpha: 0.2\ncutmix_alpha: 1", "--method probe"),
    ("mixup_alpha: 0.2", "--prefix_cache_gb 5 --lora_last_blocks 2"),
    ("loss: ce+0.1*supcon", "--method probe"),
    ("loss: ce+0.1*supcon", "--per_device_train_batch_size 1"),
    ("lcron_top_k: 8\nloss: ce+lcron", "--per_device_train_batch_size 4"),
    ("augment: trivial", "--method probe"),
    ("augment: challenge@2026-04\nchallenge_levels: [0.1, 0.2, 0.3, 0.4]", "--augment basic"),
    ("augment: none\nmethod: probe", "--fixed_views 4"),
    ("decode_copy: true", "--augment challenge@2025"),
    ("decode_copy: true", "--prefix_cache_gb 5 --lora_last_blocks 2"),
    ("prefix_cache_gb: 5\nlora_last_blocks: 2", "--method probe"),
    ("lora_train_norms: true", "--method probe"),
    ("unfreeze_last_blocks: 1", "--method full"),
    ("loraplus_lr_ratio: 16", "--method full"),
    ("use_dora: true", "--use_doran true"),
    ("use_doran: true", "--lora_init olora"),
    ("use_doran: true", "--method full"),
    ("use_doran: true\ndoran_share: block", "--lora_target_modules v_proj"),
    ("doran_share: block", "--method lora"),
    ("probe_heads: grid\nmethod: probe", "--method lora"),
    ("probe_heads: grid\nmethod: probe", "--head mlp"),
    ("probe_heads: grid\nmethod: probe", "--head residual"),
    ("probe_heads: grid\nmethod: probe", "--loss focal"),
    ("probe_heads: grid\nmethod: probe", "--curriculum loss"),
    ("warm_start: probe", "--method probe"),
    ("warm_start: probe", "--head mlp"),
    ("curriculum: loss", "--num_train_epochs 1"),
    ("curriculum: loss", "--num_train_epochs 3 --curriculum_end 0.9"),
    ("optim_args: momentum=0.9\noptim: muon", "--optim lion"),
    ("torch_compile: true\nattn_implementation: eager", "--optim sophia"),
    ("method: lora", "--optim sophia"),
    ("method: probe", "--optim muon"),
    ("activation_checkpointing_kwargs: {use_reentrant: true}\nattn_implementation: eager", "--optim sophia"),
    ("lr_scheduler_type: cosine", "--optim schedule_free_adamw"),
    ("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1.0e-6}", "--lr_scheduler_type linear"),
    ("early_stopping_patience: 2", "--eval_strategy no"),
    ("eval_strategy: epoch", "--save_strategy steps --save_steps 100"),
    ("save_strategy: epoch", "--eval_strategy steps --eval_steps 50"),
    ("eval_strategy: steps\neval_steps: 50\nsave_strategy: steps\nsave_steps: 100", "--eval_steps 40"),
    ("lr_scheduler_type: reduce_lr_on_plateau", "--eval_strategy no"),
    ("dataloader_prefetch_factor: 4", "--dataloader_num_workers 0"),
    ("dataloader_persistent_workers: true", "--dataloader_num_workers 0"),
    ("find_lr: true", "--sweep true"),
    ("trial: 3", "--output_dir runs/b"),
    ("refit_from: runs/a", "--find_lr true"),
    ("refit: all", "--output_dir runs/b"),
    ("push_to_hub: true", "--output_dir runs/b"),
    ("push_to_hub: true\nhub_model_id: me/a", "--sweep true"),
    ("push_to_hub: true\nhub_model_id: me/a", "--hold_out_each city"),
    ("push_to_hub: true\nhub_model_id: me/a\nhub_format: adapter", "--method full"),
    ("push_to_hub: true\nhub_model_id: me/a\nhub_format: stock", "--head mlp"),
    ("push_to_hub: true\nhub_model_id: me/a\nhub_format: stock", "--head residual"),
    ("push_to_hub: true\nhub_model_id: me/a\nhub_format: stock", "--head mlp --pooling cls_mean"),
    ("push_to_hub: true\nhub_model_id: me/a\nhub_format: merged", "--hotkey 5Dx"),
    ("risk_alpha: 0.05", "--risk precision"),
]


def words_for(command: list[str], more: list[str]) -> list[str]:
    """A command line with words that take the place of those for the same keys."""
    pairs = list(zip(more[::2], more[1::2], strict=True))
    keys = {key for key, _ in pairs}
    kept, skip = [], False
    for word in command:
        skip = word in keys if word.startswith("--") else skip
        kept += [] if skip else [word]
    return kept + [word for pair in pairs for word in pair]


def advice(message: str) -> list[list[str]]:
    """The words to type that a message holds, one list for each way out; placeholders are filled in."""
    found = re.findall(r"(?:--\w+ [^\s,;)]+(?: |(?=[,;)])|$))+", message + " ")
    return [one.replace("owner/name", "me/model").split() for one in found]


@pytest.mark.parametrize(("file", "typed"), MEETINGS)
def test_what_a_refusal_says_to_type_is_taken(tmp_path, file, typed):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(output=tmp_path / "run") + file + "\n")

    def start(command):
        made = parse([str(recipe), *command])
        if not made.purpose.refits:
            check(made, resolved(made))

    with pytest.raises(UserError) as refused:
        start(typed.split())
    ways = advice(str(refused.value))
    assert ways, str(refused.value)
    for way in ways:
        if "--from" not in way and way[0] != "--refit":
            start(words_for(typed.split(), way))


def test_the_words_of_the_issue_s_own_case(tmp_path):
    with pytest.raises(UserError, match=r"leave it out with --label_smoothing_factor 0$"):
        parse(["recipes/lora.yaml", "--loss", "asymmetric"])


def test_leaving_a_key_out_is_to_type_its_default():
    words = "--mixup_alpha 0 --torch_compile false --class_weights null --loss ce --probe_layers null"
    keys = ("mixup_alpha", "torch_compile", "class_weights", "loss", "probe_layers")
    assert off(NatixTrainingArguments, *keys) == words


@pytest.mark.parametrize("words", [["--class_weights", "null"], ["--class_weights=null"]])
def test_null_on_the_command_line_is_the_default_whatever_the_file_says(tmp_path, words):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(output="run") + "class_weights: [balanced]\n")
    assert parse([str(recipe)]).training.class_weights == ["balanced"]
    made = parse([str(recipe), "--seed", "3", *words, "--lora_r", "2"])
    assert (made.training.class_weights, made.training.seed, made.lora.lora_r) == (None, 3, 2)
    named = parse([str(recipe), "--label_names", "null", "road", *words])
    assert named.data.label_names == ["null", "road"]
