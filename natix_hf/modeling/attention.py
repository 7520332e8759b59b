"""Whether an attention implementation works here, found out in a moment instead of after loading 3 GB.

transformers is asked, not a table of our own: a one-block DINOv3 is built with the value and takes one training step
on the device. Knows nothing of checkpoints.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.integrations.hub_kernels import allow_all_hub_kernels

from natix_hf.errors import UserError


def check_attention(
    attn_implementation: str,
    *,
    training: bool = True,
    bf16: bool = False,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Try an attention implementation on one block with heads of 64, as all published DINOv3 have.

    Args:
        attn_implementation: what `from_pretrained` will get: `sdpa`, `eager`, `flex_attention`, `flash_attention_2`
            or a kernel of the Hub (`owner/name`).
        training: also try the backward pass; some work forwards only on a CPU.
        bf16: under bfloat16 autocast, as the run will be.
        device: where the run will be; the accelerator where there is one, else the CPU.
        trust_remote_code: also run kernels of the Hub from outside `kernels-community`.

    Raises:
        UserError: transformers or the machine refuses it, with the reason given.
    """
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    device = torch.device(device)
    config = DINOv3ViTConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_register_tokens=4,
        pos_embed_rescale=None,
    )
    try:
        with torch.random.fork_rng(), torch.set_grad_enabled(training):
            with allow_all_hub_kernels() if trust_remote_code else nullcontext():
                model = DINOv3ViTModel._from_config(config, attn_implementation=attn_implementation)
            model.to(device).train(training)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                features = model(torch.zeros(1, 3, 64, 64, device=device)).pooler_output
            if training:
                features.float().sum().backward()
    except (ImportError, ValueError, TypeError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:400]
        raise UserError(
            f"attn_implementation {attn_implementation!r} doesn't work on this machine ({device.type}"
            f"{', bf16' if bf16 else ''}): {reason}; sdpa works everywhere"
        ) from None
