"""Finds out which attention implementation runs on this machine, before 3 GB of weights are loaded.

There is no table of what works where. A DINOv3 of one block, with one head of the checkpoint's head size, runs on the
device what the run will do, so transformers and torch report any problem themselves. Reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
    sdpa_kernel,
)
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.integrations.hub_kernels import allow_all_hub_kernels

from natix_hf.errors import UserError
from natix_hf.modeling.timm_keys import head_size

AUTO, SDPA = "auto", "sdpa"
# sdpa with the flash kernels of FlashAttention 3; torch switches them on for the whole process.
SDPA_FA3 = "sdpa_fa3"


class Attention(NamedTuple):
    """The chosen implementation.

    Attributes:
        name: name of the implementation in a recipe and in `run.json`.
        note: a line for the user if an installed implementation does not run, else None.
    """

    name: str
    note: str | None = None

    @property
    def loaded(self) -> str:
        """The value of `attn_implementation` for `from_pretrained`."""
        return SDPA if self.name == SDPA_FA3 else self.name


def choose_attention(
    asked: str,
    backbone: Mapping[str, Any] | None = None,
    *,
    training: bool = True,
    bf16: bool = False,
    device: torch.device,
    trust_remote_code: bool = False,
) -> Attention:
    """Choose the attention of a run by trying it on one block, and switch FlashAttention 3 on if it is chosen.

    `auto` takes FlashAttention 3 if its package is installed, the GPU is of the generation that it was written for and
    the run uses bf16. Otherwise it takes sdpa: torch's sdpa includes FlashAttention 2 and cuDNN's kernels.

    Args:
        asked: `auto`, `sdpa`, `sdpa_fa3`, `eager`, `flex_attention`, `flash_attention_2` or a Hub kernel
            (`owner/name`).
        backbone: configuration of the checkpoint, in transformers' or timm's layout; by default the head size is 64.
        training: also try the backward pass; on a CPU some implementations have only a forward pass.
        bf16: also try a step under bfloat16 autocast. float32 is always tried, because features, attention maps and
            figures are computed in it.
        device: device of the run.
        trust_remote_code: also run Hub kernels from outside `kernels-community`.

    Raises:
        UserError: an implementation was requested by name and does not run on this machine; the message says why.
    """
    if asked == AUTO and not (bf16 and _made_for_fa3(device)):
        return Attention(SDPA)
    name = SDPA_FA3 if asked == AUTO else asked
    fault = _fault(name, backbone or {}, training, bf16, device, trust_remote_code)
    if fault is None:
        return Attention(name)
    if asked == AUTO:
        return Attention(SDPA, f"attention: sdpa, because FlashAttention 3 is installed but does not run: {fault}")
    raise UserError(
        f"attn_implementation: {name!r} does not run on this machine ({device.type}{', bf16' if bf16 else ''}): "
        f"{fault}: use sdpa, which runs everywhere, or the fastest that runs with --attn_implementation auto"
    )


def attention_of(model: Any) -> str:
    """The `Attention.name` of a loaded model."""
    loaded = model.config._attn_implementation
    return SDPA_FA3 if loaded == SDPA and current_flash_attention_impl() == "FA3" else loaded


def _made_for_fa3(device: torch.device) -> bool:
    """Whether FlashAttention 3 is installed and the GPU is of the generation that it was written for (Hopper)."""
    return (
        device.type == "cuda"
        and find_spec("flash_attn_interface") is not None
        and torch.cuda.get_device_capability(device)[0] == 9
    )


def _switch_to_fa3(device: torch.device, bf16: bool) -> None:
    if device.type != "cuda" or not bf16:
        raise ValueError("FlashAttention 3 runs in bf16 on a GPU")
    activate_flash_attention_impl("FA3")
    torch.backends.cuda.enable_cudnn_sdp(False)  # sdpa may prefer cuDNN to the flash kernels


def leave_fa3() -> None:
    """Switch FlashAttention 3 off again."""
    if current_flash_attention_impl() is not None:
        restore_flash_attention_impl()
        torch.backends.cuda.enable_cudnn_sdp(True)


def _fault(
    name: str, backbone: Mapping[str, Any], training: bool, bf16: bool, device: torch.device, trust_remote_code: bool
) -> str | None:
    """One line with the reason why an implementation does not run; None if it runs."""
    fa3 = name == SDPA_FA3
    try:
        if fa3:
            _switch_to_fa3(device, bf16)
        with allow_all_hub_kernels() if trust_remote_code else nullcontext():
            _one_step(Attention(name).loaded, backbone, training, bf16, device, flash=fa3)
    except (ImportError, ValueError, TypeError, RuntimeError, OSError) as error:
        if fa3:
            leave_fa3()
        return " ".join(str(error).split())[:400]
    return None


def _one_step(
    loaded: str, backbone: Mapping[str, Any], training: bool, bf16: bool, device: torch.device, *, flash: bool
) -> None:
    """Run one step in float32 and, with `bf16`, one under bfloat16 autocast.

    Args:
        training: include the backward pass.
        flash: allow only sdpa's flash kernels in the bfloat16 step.
    """
    size = head_size(backbone)
    config = DINOv3ViTConfig(
        hidden_size=size,
        intermediate_size=size,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_register_tokens=4,
        attention_dropout=backbone.get("attention_dropout", 0.0),
        pos_embed_rescale=None,
    )
    photo = torch.zeros(1, 3, 64, 64, device=device)
    with torch.random.fork_rng():
        model = DINOv3ViTModel._from_config(config, attn_implementation=loaded).to(device).train(training)
        kernels = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else nullcontext()
        for autocast in (False, True) if bf16 else (False,):
            with torch.set_grad_enabled(training), kernels if autocast else nullcontext():
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    features = model(photo).pooler_output
                if training:
                    features.float().sum().backward()
