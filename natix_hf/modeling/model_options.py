"""Recipe keys for the network: the checkpoint, the features and head on top of it, and the adapters."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from natix_hf.options import AT_LEAST_1, SHARE_BELOW_1, option


@dataclass
class ModelOptions:
    """The checkpoint, the trained parts, the features and the head."""

    _argument_group_name: ClassVar[str] = "model"

    model_name_or_path: str | None = option(
        None,
        "DINOv3 checkpoint: Hub id or folder (transformers or timm layout), a finished run, or builtin:demo-backbone",
    )
    model_revision: str | None = option(None, "branch, tag or commit of the checkpoint on the Hub")
    trust_remote_code: bool = option(False, "run code that comes with the checkpoint or data set")
    attn_implementation: str = option(
        "auto",
        "attention kernel: auto takes the fastest that runs here; sdpa, sdpa_fa3, eager, flex_attention, "
        "flash_attention_2, a Hub kernel, ...",
    )
    method: Literal["lora", "probe", "full"] = option(
        "lora", "what is trained; lora: adapters and head; probe: the head on frozen features; full: every weight"
    )
    pooling: Literal["cls", "mean", "cls_mean"] = option(
        "cls", "what the head reads: the CLS token, the mean of the patch tokens, or both"
    )
    feature_layers: int = option(1, "concatenate the pooled features of this many last layers")
    head: Literal["linear", "mlp", "residual"] = option(
        "linear", "classification head: linear, mlp (with one hidden layer) or residual (x + mlp(x), starts as linear)"
    )
    head_dropout: float = option(0.0, "dropout before the head")
    reuse_head: bool = option(
        False, "start from a run whose classes have other names and keep its head, class by class in their order"
    )


@dataclass
class LoraOptions:
    """Adapters for method lora."""

    _argument_group_name: ClassVar[str] = "lora"

    lora_r: Annotated[int, AT_LEAST_1] = option(16, "rank of the adapters")
    lora_alpha: Annotated[int, AT_LEAST_1] = option(32, "scale of the adapters, which are multiplied by alpha / r")
    lora_dropout: Annotated[float, SHARE_BELOW_1] = option(0.05, "dropout before the adapters")
    lora_target_modules: list[str] = option(["all-linear"], "names of the backbone's layers to adapt, or all-linear")
    lora_modules_to_save: list[str] | None = option(None, "other modules to train in full, besides the head")
    lora_last_blocks: int | None = option(None, "put adapters into this many last blocks only")
    use_rslora: bool = option(False, "rank-stabilised scale, alpha / sqrt(r)")
    use_dora: bool = option(False, "weight-decomposed adapters (DoRA)")
    use_doran: bool = option(
        False, "DoRA with a learned lower bound of its norm (DoRAN, as we read the paper); saved as DoRA"
    )
    doran_share: Literal["none", "block"] = option(
        "none", "matrices that DoRAN shares: none; block: q_proj and v_proj of a block share the first one"
    )
    lora_init: str = option(
        "default", "initial weights of the adapters: default, gaussian, orthogonal, olora or pissa"
    )
    lora_train_norms: bool = option(False, "also train the norms of the adapted blocks and the last norm")
    unfreeze_last_blocks: int = option(
        0, "train this many last blocks in full and adapt those below; lora_last_blocks counts both"
    )
