"""Which attention runs on this machine, found out in a moment instead of after loading 3 GB.

transformers and torch are asked, not a table of our own: a DINOv3 of one block with one head of the checkpoint's size
does on the device what a run will do. Reads no weights.
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
# sdpa whose flash kernels are those of FlashAttention 3: a switch of torch, for the whole process.
SDPA_FA3 = "sdpa_fa3"


class Attention(NamedTuple):
    """What runs.

    Attributes:
        name: as a recipe and `run.json` have it.
        told: a line on what was expected to run and does not.
    """

    name: str
    told: str | None = None

    @property
    def loaded(self) -> str:
        """What `from_pretrained` takes."""
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
    """The attention of a run; FlashAttention 3 is switched on where it is chosen.

    `auto` takes FlashAttention 3 where its package is installed, the GPU is one that it was written for and the run is
    in bf16, and sdpa everywhere else: torch's sdpa has FlashAttention 2 and cuDNN's kernels within.

    Args:
        asked: `auto`, or what `check_attention` takes.
        backbone, training, bf16, device, trust_remote_code: as in `check_attention`.

    Raises:
        UserError: the machine lacks what was asked for by name.
    """
    place = {"training": training, "bf16": bf16, "device": device}
    if asked != AUTO:
        check_attention(asked, backbone, trust_remote_code=trust_remote_code, **place)
        return Attention(asked)
    if not (bf16 and _made_for_fa3(device)):
        return Attention(SDPA)
    if fault := _fault(SDPA_FA3, backbone, **place):
        return Attention(SDPA, f"attention: sdpa, since FlashAttention 3 is installed and does not run: {fault}")
    return Attention(SDPA_FA3)


def check_attention(
    attn_implementation: str,
    backbone: Mapping[str, Any] | None = None,
    *,
    training: bool = True,
    bf16: bool = False,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Try an attention implementation on one block.

    Args:
        attn_implementation: `sdpa`, `sdpa_fa3`, `eager`, `flex_attention`, `flash_attention_2` or a kernel of the Hub
            (`owner/name`).
        backbone: configuration of the checkpoint, in transformers' or timm's layout; by default heads of 64.
        training: also try the backward pass; some work forwards only on a CPU.
        bf16: train under bfloat16 autocast, as the run will. Features, maps and figures are computed in float32
            beside it, so that is tried too.
        device: where the run will be; the accelerator where there is one, else the CPU.
        trust_remote_code: also run kernels of the Hub from outside `kernels-community`.

    Raises:
        UserError: transformers or the machine refuses it, with the reason given.
    """
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    device = torch.device(device)
    place = {"training": training, "bf16": bf16, "device": device, "trust_remote_code": trust_remote_code}
    if fault := _fault(attn_implementation, backbone, **place):
        raise UserError(
            f"attn_implementation {attn_implementation!r} doesn't work on this machine ({device.type}"
            f"{', bf16' if bf16 else ''}): {fault}; sdpa works everywhere (--attn_implementation auto takes the best "
            "that runs)"
        )


def attention_of(model: Any) -> str:
    """The `Attention.name` of a model that is loaded."""
    loaded = model.config._attn_implementation
    return SDPA_FA3 if loaded == SDPA and current_flash_attention_impl() == "FA3" else loaded


def _made_for_fa3(device: torch.device) -> bool:
    """Whether FlashAttention 3 is installed beside a GPU of the generation that it was written for (Hopper)."""
    return (
        device.type == "cuda"
        and find_spec("flash_attn_interface") is not None
        and torch.cuda.get_device_capability(device)[0] == 9
    )


def _switch_to_fa3(device: torch.device, bf16: bool) -> None:
    if device.type != "cuda" or not bf16:
        raise ValueError("FlashAttention 3 runs in bf16 on a GPU")
    activate_flash_attention_impl("FA3")
    torch.backends.cuda.enable_cudnn_sdp(False)  # which sdpa may prefer to the flash kernels


def leave_fa3() -> None:
    """Switch FlashAttention 3 off again."""
    if current_flash_attention_impl() is not None:
        restore_flash_attention_impl()
        torch.backends.cuda.enable_cudnn_sdp(True)


def _fault(
    name: str,
    backbone: Mapping[str, Any] | None,
    *,
    training: bool,
    bf16: bool,
    device: torch.device,
    trust_remote_code: bool = False,
) -> str | None:
    """Why an implementation does not run, in one line; None where it does."""
    fa3 = name == SDPA_FA3
    try:
        if fa3:
            _switch_to_fa3(device, bf16)
        with allow_all_hub_kernels() if trust_remote_code else nullcontext():
            _one_step(Attention(name).loaded, backbone or {}, training, bf16, device, flash=fa3)
    except (ImportError, ValueError, TypeError, RuntimeError, OSError) as error:
        if fa3:
            leave_fa3()
        return " ".join(str(error).split())[:400]
    return None


def _one_step(
    loaded: str, backbone: Mapping[str, Any], training: bool, bf16: bool, device: torch.device, *, flash: bool
) -> None:
    """A pass in float32, and where the run trains in bf16 a step of that; `flash`: by sdpa's flash kernels alone."""
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
        for rounded in (False, True) if bf16 else (False,):
            with torch.set_grad_enabled(training), kernels if rounded else nullcontext():
                with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
                    features = model(photo).pooler_output
                if training:
                    features.float().sum().backward()
