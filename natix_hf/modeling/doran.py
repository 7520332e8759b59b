"""DoRAN (arXiv 2510.04331): DoRA with a learned term added to its norm, and matrices computed by small networks.

`W = m V / (||V|| + tau)` with `V = W0 + s B A`, row by row. The paper has no code and states neither the activation
nor the initial tau, so this is our reading: `A = second_a tanh(first_a)`, `B = second_b tanh(first_b)`. The trained
parameter is `log(tau)`, which keeps tau positive. Training starts with `B = 0` and `m = ||W0|| + tau`, so the layer
starts as the frozen one.

Such a layer equals a DoRA layer with `m' = m ||V|| / (||V|| + tau)`. Every state dict holds that layer under DoRA's
names, so a saved adapter loads as DoRA in plain peft. A training checkpoint also holds the trained parameters, under
`lora_doran`. The code is built on peft's `LoraVariant`, which peft declares private.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from torch.nn import functional

from natix_hf.errors import UserError

TRAINED = ".lora_doran."  # part of the name of every trained parameter
SHARES = ("none", "block")
INITS = ("default", "gaussian")  # those with B = 0, which its network keeps at 0
TAU = 0.1  # initial value, as a share of the mean norm of the layer's rows


def check_doran(*, use_doran: bool, doran_share: str, use_dora: bool, lora_init: str) -> None:
    """Raise `UserError` for adapter options that cannot be combined with DoRAN."""
    if doran_share not in SHARES:
        raise UserError(f"doran_share: expected {' or '.join(SHARES)}, found {doran_share}")
    if not use_doran:
        if doran_share != "none":
            raise UserError(
                f"doran_share: {doran_share} given, but only DoRAN has matrices to share: add --use_doran true, or "
                "leave it out with --doran_share none"
            )
        return
    if use_dora:
        raise UserError("use_doran and use_dora are two kinds of adapters: use --use_dora false, or --use_doran false")
    if lora_init not in INITS:
        raise UserError(
            f"lora_init: {lora_init} given, but the networks of DoRAN start from {' or '.join(INITS)}: "
            "use --lora_init default, or --use_doran false"
        )


def is_doran(model: nn.Module) -> bool:
    """Whether a model has DoRAN adapters."""
    return any(isinstance(module, DoranLinear) for module in model.modules())


def share_first_matrices(model: nn.Module) -> None:
    """Let the query and value layers of each block share their first matrices.

    Raises:
        UserError: a block has an adapter on only one of the two, or no block has any.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DoranLinear)}
    blocks = {name.rpartition(".")[0] for name in layers if name.endswith((".q_proj", ".v_proj"))}
    pairs = [(layers.get(f"{block}.q_proj"), layers.get(f"{block}.v_proj")) for block in blocks]
    if not pairs or any(query is None or value is None for query, value in pairs):
        raise UserError(
            "doran_share: block lets q_proj and v_proj share matrices, but lora_target_modules does not name both: "
            "name both, or leave it out with --doran_share none"
        )
    for query, value in pairs:
        for name, networks in query.lora_doran.items():
            value.lora_doran[name].first_a = networks.first_a
            value.lora_doran[name].first_b = networks.first_b


class DoranLinear(Linear):
    """peft's LoRA layer with DoRAN's forward pass."""

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> DoranVariant:
        return DoranVariant()


class DoranNetworks(nn.Module):
    """All trained parameters of one layer.

    Args:
        lora_a: `(r, inputs)`, initial value of A's first matrix.
        lora_b: `(outputs, r)`, zeros, initial value of B's second matrix.
        weight: `(outputs, inputs)`, the frozen W0.
    """

    def __init__(self, lora_a: Tensor, lora_b: Tensor, weight: Tensor) -> None:
        super().__init__()
        eye = torch.eye(len(lora_a), dtype=lora_a.dtype, device=lora_a.device)
        self.first_a = nn.Parameter(lora_a.clone())  # (r, inputs)
        self.second_a = nn.Parameter(eye.clone())  # (r, r)
        self.first_b = nn.Parameter(eye.clone())  # (r, r)
        self.second_b = nn.Parameter(lora_b.clone())  # (outputs, r)
        norms = row_norms(weight, lora_a, lora_b)
        self.log_tau = nn.Parameter((TAU * norms.mean()).log().reshape(1))
        self.magnitude = nn.Parameter(norms + self.log_tau.detach().exp())  # (outputs,)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """A `(r, inputs)` and B `(outputs, r)`."""
        return self.second_a @ self.first_a.tanh(), self.second_b @ self.first_b.tanh()

    def forward(self, weight: Tensor, scaling: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, B, the norms of V's rows `(outputs,)` and the factors of V's rows `(outputs,)`."""
        # Norms are computed in fp32 even if the step runs in bf16, which would round them by a percent.
        with torch.autocast(weight.device.type, enabled=False):
            a, b = self.matrices()
            norms = row_norms(weight, a, b * scaling)
            return a, b, norms, self.magnitude / (norms + self.log_tau.exp())


def row_norms(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The norms `(outputs,)` of the rows of `weight + b @ a`, without computing that matrix.

    Autograd would keep that matrix for every layer at the same time, 6 GB for a ViT-H/16+. Here it keeps only matrices
    of rank r.
    """
    change = b * (2 * (weight @ a.T) + b @ (a @ a.T))  # (outputs, r)
    squares = weight.square().sum(dim=1) + change.sum(dim=1)
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()  # the gradient of a row of zeros is 0, not NaN


class DoranVariant(DoraLinearVariant):
    """Merges and saves like DoRA, with matrices computed by the networks; the forward pass is DoRAN's."""

    @staticmethod
    def init(module: DoranLinear, adapter_name: str, **kwargs: Any) -> None:
        DoraLinearVariant.init(module, adapter_name, **kwargs)
        if not hasattr(module, "lora_doran"):
            module.lora_doran = nn.ModuleDict()
            module.adapter_layer_names = ("lora_doran",)  # peft trains only these; the others are computed from them
            module.register_state_dict_pre_hook(_derive)
            module.register_load_state_dict_pre_hook(_refuse_others)
        derived = module.lora_A[adapter_name], module.lora_B[adapter_name], module.lora_magnitude_vector[adapter_name]
        for part in derived:
            part.requires_grad_(False)
        weight = module.get_base_layer().weight.detach()
        module.lora_doran[adapter_name] = DoranNetworks(derived[0].weight, derived[1].weight, weight)

    @staticmethod
    def merge_safe(module: DoranLinear, active_adapter: str, orig_weight: Tensor) -> Tensor:
        _derive(module)
        return DoraLinearVariant.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def merge_unsafe(module: DoranLinear, active_adapter: str, orig_weight: Tensor) -> None:
        _derive(module)
        DoraLinearVariant.merge_unsafe(module, active_adapter, orig_weight)

    @staticmethod
    def forward(module: DoranLinear, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        base, scaling = module.get_base_layer(), module.scaling[active_adapter]
        a, b, _, factors = module.lora_doran[active_adapter](base.weight, scaling)
        x = module.lora_dropout[active_adapter](x)
        whole = result + functional.linear(functional.linear(x, a), b) * scaling
        return whole * factors if base.bias is None else (whole - base.bias) * factors + base.bias


@torch.no_grad()
def _derive(module: DoranLinear, *_: Any) -> None:
    """Update DoRA's matrices and magnitude from the current networks."""
    weight = module.get_base_layer().weight
    for name, networks in module.lora_doran.items():
        a, b, norms, factors = networks(weight, module.scaling[name])
        module.lora_A[name].weight.copy_(a)
        module.lora_B[name].weight.copy_(b)
        module.lora_magnitude_vector[name].weight.copy_(factors * norms)


def _refuse_others(module: DoranLinear, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Refuse DoRA weights without networks: the networks would keep their values and overwrite the loaded weights."""
    for name in module.lora_doran:
        if f"{prefix}lora_A.{name}.weight" in state_dict and f"{prefix}lora_doran.{name}.log_tau" not in state_dict:
            raise UserError(
                "this adapter has no networks of DoRAN, but the model trains with use_doran: load it onto a model "
                "without adapters, or continue from a checkpoint that was trained with use_doran"
            )
