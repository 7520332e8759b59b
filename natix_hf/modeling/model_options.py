"""The recipe's keys about the network: which checkpoint is trained, what stands on top of it, and its adapters."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from natix_hf.options import AT_LEAST_1, SHARE_BELOW_1, option


@dataclass
class ModelOptions:
    """Which checkpoint is trained, and what stands on top of it."""

    _argument_group_name: ClassVar[str] = "model"

    model_name_or_path: str | None = option(
        None,
        "DINOv3 checkpoint: Hub id or folder (transformers or timm layout), a finished run, or builtin:demo-backbone",
    )
    model_revision: str | None = option(None, "branch, tag or commit of the checkpoint on the Hub")
    trust_remote_code: bool = option(False, "run code that comes with the checkpoint or data set")
    attn_implementation: str = option(
        "auto",
        "auto: the best that runs here; sdpa, sdpa_fa3, eager, flex_attention, flash_attention_2, a Hub kernel, ...",
    )
    method: Literal["lora", "probe", "full"] = option(
        "lora", "lora: adapters and head; probe: head on frozen features; full: every weight"
    )
    pooling: Literal["cls", "mean", "cls_mean"] = option(
        "cls", "what the head reads: the CLS token, the mean of the patch tokens, or both"
    )
    feature_layers: int = option(1, "concatenate the pooled features of this many last layers")
    head: Literal["linear", "mlp", "residual"] = option(
        "linear", "the classification head: linear, mlp (a hidden layer first) or residual (x + mlp(x), starts linear)"
    )
    head_dropout: float = option(0.0, "dropout before the head")
    reuse_head: bool = option(
        False, "start from a run whose classes have other names: its head goes on, its first class as the first, ..."
    )


@dataclass
class LoraOptions:
    """The adapters, for method lora."""

    _argument_group_name: ClassVar[str] = "lora"

    lora_r: Annotated[int, AT_LEAST_1] = option(16, "rank of the adapters")
    lora_alpha: Annotated[int, AT_LEAST_1] = option(32, "scale of the adapters; they are multiplied by alpha / r")
    lora_dropout: Annotated[float, SHARE_BELOW_1] = option(0.05, "dropout before the adapters")
    lora_target_modules: list[str] = option(["all-linear"], "names of the backbone's layers to adapt, or all-linear")
    lora_modules_to_save: list[str] | None = option(None, "further modules trained whole beside the head")
    lora_last_blocks: int | None = option(None, "adapt only this many last blocks")
    use_rslora: bool = option(False, "rank-stabilised scale, alpha / sqrt(r)")
    use_dora: bool = option(False, "weight-decomposed adapters (DoRA)")
    use_doran: bool = option(False, "DoRA with a learnt floor under its norm (DoRAN, our reading); saved as DoRA")
    doran_share: Literal["none", "block"] = option(
        "none", "which matrices of DoRAN are shared: none, or block: the first ones of q_proj and v_proj of a block"
    )
    lora_init: str = option("default", "how adapters start: default, gaussian, orthogonal, olora or pissa")
    lora_train_norms: bool = option(False, "train the norms of the adapted blocks, and the last one, beside adapters")
    unfreeze_last_blocks: int = option(
        0, "train this many last blocks whole; adapters stand in those below (lora_last_blocks counts both)"
    )
