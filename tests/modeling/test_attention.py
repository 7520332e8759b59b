"""Attention implementations that transformers or this machine refuses are named before anything loads."""

from __future__ import annotations

import pytest
import torch

from natix_hf.errors import UserError
from natix_hf.modeling.attention import check_attention


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("bf16", [False, True])
def test_what_works_passes_and_leaves_the_random_state_alone(name, bf16):
    before = torch.get_rng_state()
    check_attention(name, bf16=bf16, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "not supported"),
        ("flash_attention_2", "FlashAttention2"),
        ("kernels-community/flash-attn2", "kernel"),
        ("flex_attention", "backward on CPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusals of a machine without a GPU")
def test_what_is_refused_is_one_line_with_the_reason(name, reason):
    with pytest.raises(UserError, match=reason) as caught:
        check_attention(name, device="cpu")
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
