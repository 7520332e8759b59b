"""Attention implementations that transformers or this machine refuses are named before anything loads."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from natix_hf.errors import UserError
from natix_hf.modeling import attention
from natix_hf.modeling.attention import Attention, attention_of, choose_attention

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("bf16", [False, True])
def test_an_attention_that_runs_passes_and_does_not_change_the_random_state(name, bf16):
    before = torch.get_rng_state()
    choose_attention(name, bf16=bf16, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "not supported"),
        ("flash_attention_2", "FlashAttention2"),
        ("kernels-community/flash-attn2", "kernel"),
        ("flex_attention", "backward on CPU"),
        ("sdpa_fa3", "FlashAttention 3 runs in bf16 on a GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusals of a machine without a GPU")
def test_an_attention_that_does_not_run_is_refused_in_one_line_with_the_reason(name, reason):
    with pytest.raises(UserError, match=reason) as caught:
        choose_attention(name, device=CPU)
    assert repr(name) in str(caught.value)
    assert "--attn_implementation auto" in str(caught.value)
    assert "\n" not in str(caught.value)


# -- a machine with a GPU, made up ------------------------------------------------------------------------------------


@dataclass
class Machine:
    """What torch would say of a GPU, and what its kernels would do.

    Attributes:
        generation: the GPU's major compute capability.
        packages: that are installed.
        broken: what does not run, with the reason.
        tried: what was run, each as (what `from_pretrained` got, in bf16, by flash kernels alone).
        active: the flash kernels that torch's switch is on, None for its own.
        cudnn: whether sdpa may take cuDNN's.
    """

    generation: int = 9
    packages: tuple[str, ...] = ("flash_attn_interface",)
    broken: dict[str, str] = field(default_factory=dict)
    tried: list[tuple[str, bool, bool]] = field(default_factory=list)
    active: str | None = None
    cudnn: bool = True

    def activate(self, name: str) -> None:
        if "switch" in self.broken:
            raise RuntimeError(self.broken["switch"])
        self.active = name

    def restore(self) -> None:
        self.active = None

    def step(self, loaded, backbone, training, bf16, device, *, flash) -> None:
        self.tried.append((loaded, bf16, flash))
        if reason := self.broken.get(f"{loaded} flash" if flash else loaded):
            raise RuntimeError(reason)


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (made.generation, 0))
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: setattr(made, "cudnn", on))
    monkeypatch.setattr(attention, "find_spec", lambda name: SimpleNamespace() if name in made.packages else None)
    monkeypatch.setattr(attention, "activate_flash_attention_impl", made.activate)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", made.restore)
    monkeypatch.setattr(attention, "current_flash_attention_impl", lambda: made.active)
    monkeypatch.setattr(attention, "_one_step", made.step)
    return made


def test_auto_chooses_flash_attention_3_if_it_runs(machine):
    chosen = choose_attention("auto", bf16=True, device=GPU)
    assert chosen == Attention("sdpa_fa3", None)
    assert chosen.loaded == "sdpa"  # which transformers knows
    assert machine.tried == [("sdpa", True, True)]
    assert (machine.active, machine.cudnn) == ("FA3", False)


@pytest.mark.parametrize(
    ("facts", "bf16", "device"),
    [
        ({"packages": ()}, True, GPU),
        ({"packages": ("flash_attn",)}, True, GPU),
        ({"generation": 8}, True, GPU),
        ({"generation": 10}, True, GPU),
        ({}, False, GPU),
        ({}, True, CPU),
        ({}, False, CPU),
    ],
    ids=["no package", "FA2 alone", "Ampere", "Blackwell", "fp32", "CPU in bf16", "CPU"],
)
def test_auto_chooses_sdpa_silently_if_flash_attention_3_is_not_expected(machine, facts, bf16, device):
    for name, value in facts.items():
        setattr(machine, name, value)
    assert choose_attention("auto", bf16=bf16, device=device) == Attention("sdpa", None)
    assert machine.tried == []
    assert (machine.active, machine.cudnn) == (None, True)


@pytest.mark.parametrize("broken", ["switch", "sdpa flash"])
def test_auto_reports_an_installed_flash_attention_3_that_does_not_run(machine, broken):
    machine.broken[broken] = "no kernel image\nis available"
    chosen = choose_attention("auto", bf16=True, device=GPU)
    assert chosen.name == chosen.loaded == "sdpa"
    assert chosen.note == (
        "attention: sdpa, because FlashAttention 3 is installed but does not run: no kernel image is available"
    )
    assert (machine.active, machine.cudnn) == (None, True)  # the switch is off again


@pytest.mark.parametrize("name", ["sdpa", "eager", "flash_attention_2", "sdpa_fa3"])
def test_an_attention_named_in_the_recipe_is_used_or_refused(machine, name):
    assert choose_attention(name, bf16=True, device=GPU) == Attention(name)
    machine.restore()
    machine.broken[{"sdpa_fa3": "sdpa flash"}.get(name, name)] = "no such kernel"
    with pytest.raises(
        UserError, match=r"on this machine \(cuda, bf16\): no such kernel: use sdpa, which runs everywhere"
    ):
        choose_attention(name, bf16=True, device=GPU)
    assert machine.active is None


def test_sdpa_by_name_leaves_the_switch_off(machine):
    choose_attention("sdpa", bf16=True, device=GPU)
    assert machine.active is None


def test_the_attention_of_a_model_is_what_it_was_loaded_with_and_where_the_switch_is(machine):
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"))
    assert attention_of(model) == "sdpa"
    machine.activate("FA3")
    assert attention_of(model) == "sdpa_fa3"
    model.config._attn_implementation = "eager"
    assert attention_of(model) == "eager"


# -- what is tried ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        (None, 64),
        ({"hidden_size": 384, "num_attention_heads": 6}, 64),
        ({"hidden_size": 4096, "num_attention_heads": 32}, 128),
        ({"architecture": "vit_huge_plus_patch16_dinov3"}, 64),
        ({"architecture": "vit_7b_patch16_dinov3"}, 128),
    ],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_the_head_has_the_checkpoint_s_size_and_both_precisions_are_tried(monkeypatch, backbone, size, bf16):
    seen = []
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def looked_at(query, key, value, **kwargs):
        seen.append((query.shape[-1], torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return sdpa(query, key, value, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", looked_at)
    choose_attention("sdpa", backbone, bf16=bf16, device=CPU)
    assert seen == [(size, False, True)] + [(size, True, True)] * bf16


def test_what_runs_in_bf16_alone_is_refused_since_features_and_maps_are_float32(monkeypatch):
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def half_alone(query, key, value, **kwargs):
        if not torch.is_autocast_enabled("cpu"):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        return sdpa(query, key, value, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", half_alone)
    with pytest.raises(UserError, match="only support fp16 and bf16"):
        choose_attention("sdpa", bf16=True, device=CPU)
