"""The estimate of memory before a start, and the refusal that follows from it."""

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from natix_hf.errors import UserError
from natix_hf.training.accounting import kept_for_backward
from natix_hf.training.pretrain import memory
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.student import free


def huge(**given):
    """A ViT-H/16+ without weights, of which a part is marked as trained."""
    options = PretrainOptions(pretrain_objective="distill", **given)
    config = DINOv3ViTConfig(
        hidden_size=1280,
        num_hidden_layers=32,
        num_attention_heads=20,
        intermediate_size=5120,
        num_register_tokens=4,
        patch_size=16,
        use_gated_mlp=True,
        hidden_act="silu",
    )
    with torch.device("meta"):
        backbone = DINOv3ViTModel(config)
    free(backbone, options)
    return backbone, options


def test_full_training_of_the_largest_backbone_needs_six_words_a_weight():
    backbone, options = huge(pretrain_train="full")
    everything = sum(p.numel() for p in backbone.parameters())
    frozen = sum(p.numel() for p in backbone.embeddings.parameters()) - backbone.embeddings.mask_token.numel()
    assert everything == pytest.approx(840.6e6, rel=1e-3)
    # Weights; gradient, two moments, average, original of what is trained.
    assert memory.least_memory(backbone, options) == 4 * (everything + 5 * (everything - frozen))


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda device: 16 * 2**30)
    backbone, options = huge(pretrain_train="full")
    with pytest.raises(
        UserError,
        match=r"full of 841 M parameters needs at least 18\.8 GiB .* cpu has 16\.0: use --pretrain_train explora",
    ):
        memory.check_memory(backbone, options, torch.device("cpu"))
    memory.check_memory(*huge(), torch.device("cpu"))
    monkeypatch.setattr(memory, "device_memory", lambda device: 2**30)
    with pytest.raises(UserError, match=r"explora of .* use a smaller checkpoint"):
        memory.check_memory(*huge(), torch.device("cpu"))


@pytest.fixture
def small():
    """A backbone of three blocks and 21 tokens, with weights and without, and its options."""
    options = PretrainOptions(pretrain_objective="distill", pretrain_lora_r=4)
    config = DINOv3ViTConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=256, num_register_tokens=4
    )
    with torch.device("meta"):
        sketch = DINOv3ViTModel(config)
    backbone = DINOv3ViTModel(config)
    for one in (sketch, backbone):
        free(one, options)
    return backbone, sketch, options


def test_the_activations_of_a_step_are_those_that_autograd_keeps(small):
    backbone, sketch, options = small
    with kept_for_backward(backbone) as kept:
        backbone(torch.randn(2, 3, 64, 64))
    told = memory.step_memory(sketch, options, photos=2, side=64, checkpointing=False)[1]
    assert told == pytest.approx(sum(kept.values()), rel=0.2)


def test_a_step_with_checkpointing_keeps_the_inputs_of_blocks_and_one_block_beside_what_is_held_anyway(small):
    _, sketch, options = small
    everything, kept = memory.step_memory(sketch, options, photos=2, side=64, checkpointing=False)
    needed, anew = memory.step_memory(sketch, options, photos=2, side=64, checkpointing=True)
    tokens = 2 * (1 + 4 + 16)
    assert anew == 4 * 3 * tokens * 64 + kept // 3
    heads = 2 * (64 * 64 + 64)  # their gradients, two moments and average beside them
    assert needed - anew == everything - kept == memory.least_memory(sketch, options) + 5 * 4 * heads


def test_a_step_that_does_not_fit_is_told_with_what_would_need_less(small, monkeypatch):
    sketch, options = small[1:]
    monkeypatch.setattr(memory, "device_memory", lambda device: 2**20)
    place = {"photos": 2, "side": 64, "checkpointing": False}
    line = memory.memory_line(sketch, options, torch.device("cpu"), **place)
    assert line.endswith("cpu has 0.0: use fewer photos or --activation_checkpointing true")
    monkeypatch.undo()
    assert memory.memory_line(sketch, options, torch.device("cpu"), **place).count(":") == 1


def test_the_memory_of_this_machine_is_a_sensible_number():
    assert 2**30 < memory.device_memory(torch.device("cpu")) < 2**45
