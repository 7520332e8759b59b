"""The estimate of memory before a start, and the refusal that follows from it."""

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from natix_hf.errors import UserError
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


def test_the_memory_of_this_machine_is_a_sensible_number():
    assert 2**30 < memory.device_memory(torch.device("cpu")) < 2**45
