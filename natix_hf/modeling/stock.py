"""Converts our classifier to a stock class of transformers: `TimmWrapperForImageClassification` with a timm DINOv3.

Such a checkpoint needs neither this package nor remote code. The calibration is folded into the head, and weights are
renamed and joined; nothing is approximated. The caller writes the files.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from natix_hf.errors import UserError
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.exports.export_form import labels_of
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

# (hidden, layers, heads, intermediate, gated MLP) of the published backbones. timm's names without `_qkvb` are models
# without biases on query, key and value.
PUBLISHED = {
    (384, 12, 6, 1536, False): "vit_small_patch16_dinov3_qkvb",
    (384, 12, 6, 1536, True): "vit_small_plus_patch16_dinov3_qkvb",
    (768, 12, 12, 3072, False): "vit_base_patch16_dinov3_qkvb",
    (1024, 24, 16, 4096, False): "vit_large_patch16_dinov3_qkvb",
    (1280, 32, 20, 5120, True): "vit_huge_plus_patch16_dinov3_qkvb",
}
POOLINGS = {"cls": "token", "mean": "avg"}
WAY_OUT = "export it with --format merged (trust_remote_code or natix_hf at the client) or --format onnx"


def refusal(config: NatixDinov3Config) -> str | None:
    """The reason why the stock class cannot represent a model of this configuration; None if it can."""
    backbone = config.backbone_config
    activation = "silu" if backbone.use_gated_mlp else "gelu"
    if config.views is not None:
        return f"it sees a photo and its {config.views['tiles']} tiles, and timm's classes take one picture per photo"
    if config.pooling not in POOLINGS:
        return f"pooling {config.pooling} concatenates features, and timm pools either the class token or the mean"
    if config.feature_layers > 1:
        return f"feature_layers {config.feature_layers} concatenates features of several layers, timm reads the last"
    if config.head != "linear":
        return f"head {config.head} has a hidden layer, and timm's head is one linear layer"
    if config.isotonic is not None:
        return "an isotonic calibration is not a linear layer: fit a temperature instead (calibrator: [temperature])"
    if backbone.hidden_act != activation:
        return f"hidden_act {backbone.hidden_act} of the backbone, timm's DINOv3 has {activation}"
    if backbone.layer_norm_eps != 1e-5:
        return f"layer_norm_eps {backbone.layer_norm_eps:g} of the backbone, timm's DINOv3 has 1e-05"
    if backbone.key_bias:
        return "the backbone has biases on its keys, timm's DINOv3 has none"
    return None


def architecture(config: NatixDinov3Config) -> tuple[str, dict[str, object]]:
    """timm's name for a backbone, and the arguments that differ from timm's defaults for that name."""
    backbone = config.backbone_config
    gated, hidden, width = backbone.use_gated_mlp, backbone.hidden_size, backbone.intermediate_size
    shape = (hidden, backbone.num_hidden_layers, backbone.num_attention_heads, width, gated)
    arguments: dict[str, object] = {"global_pool": POOLINGS[config.pooling]}
    name = PUBLISHED.get(shape)
    if name is None:
        name = f"vit_small_{'plus_' if gated else ''}patch16_dinov3_qkvb"
        arguments |= {"embed_dim": hidden, "depth": shape[1], "num_heads": shape[2]}
        # timm truncates hidden * mlp_ratio, and rounds a gated width up to a multiple of swiglu_align_to.
        arguments |= {"mlp_ratio": width / hidden if width % hidden == 0 else (width + 0.5) / hidden}
        arguments |= {"swiglu_align_to": 1} if gated else {}
    usual = {"patch_size": 16, "num_reg_tokens": 4, "rope_temperature": 100, "in_chans": 3}
    actual = {
        "patch_size": backbone.patch_size,
        "num_reg_tokens": backbone.num_register_tokens,
        "rope_temperature": backbone.rope_theta,
        "in_chans": backbone.num_channels,
    }
    return name, arguments | {key: value for key, value in actual.items() if value != usual[key]}


def stock_weights(model: NatixDinov3ForImageClassification) -> dict[str, Tensor]:
    """The model's weights under timm's names in float32, with the calibration folded into `head`.

    `logits = (W x + b) / T + c` becomes one linear layer with weight `W / T` and bias `b / T + c`, computed in
    float64.
    """
    backbone, head = model.backbone, model.head
    weights = {
        "cls_token": backbone.embeddings.cls_token,
        "patch_embed.proj.weight": backbone.embeddings.patch_embeddings.weight,
        "patch_embed.proj.bias": backbone.embeddings.patch_embeddings.bias,
        "norm.weight": backbone.norm.weight,
        "norm.bias": backbone.norm.bias,
    }
    if model.config.backbone_config.num_register_tokens:
        weights["reg_token"] = backbone.embeddings.register_tokens
    for number, layer in enumerate(backbone.model.layer):
        attention, mlp, block = layer.attention, layer.mlp, f"blocks.{number}"
        weights |= {
            f"{block}.gamma_1": layer.layer_scale1.lambda1,
            f"{block}.gamma_2": layer.layer_scale2.lambda1,
            f"{block}.attn.qkv.weight": torch.cat(
                [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
            ),
            f"{block}.attn.q_bias": _bias(attention.q_proj),
            f"{block}.attn.v_bias": _bias(attention.v_proj),
            f"{block}.attn.proj.weight": attention.o_proj.weight,
            f"{block}.attn.proj.bias": _bias(attention.o_proj),
        }
        for norm in ("norm1", "norm2"):
            weights |= {f"{block}.{norm}.{name}": value for name, value in getattr(layer, norm).named_parameters()}
        parts = {"fc1": mlp.up_proj, "fc2": mlp.down_proj}
        if model.config.backbone_config.use_gated_mlp:
            parts = {"fc1_g": mlp.gate_proj, "fc1_x": mlp.up_proj, "fc2": mlp.down_proj}
        for name, linear in parts.items():
            weights |= {f"{block}.mlp.{name}.weight": linear.weight, f"{block}.mlp.{name}.bias": _bias(linear)}
    temperature = head.temperature.double()  # (classes,)
    weights["head.weight"] = head.linear.weight.double() / temperature[:, None]
    weights["head.bias"] = head.linear.bias.double() / temperature + head.logit_bias.double()
    return {f"timm_model.{name}": value.detach().float().contiguous() for name, value in weights.items()}


def _bias(linear: torch.nn.Linear) -> Tensor:
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias


def stock_model(model: NatixDinov3ForImageClassification) -> PreTrainedModel:
    """The same classifier as a `TimmWrapperForImageClassification`, in eval mode.

    Args:
        model: merged and calibrated.

    Raises:
        UserError: timm is not installed, or the stock class cannot represent the model; the message gives the reason
            and another format.
    """
    try:
        import timm  # noqa: F401
    except ImportError:
        raise UserError("--format stock needs timm: pip install 'natix_hf[stock]'") from None
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    if reason := refusal(model.config):
        raise UserError(f"--format stock cannot hold this model: {reason}: {WAY_OUT}")
    name, arguments = architecture(model.config)
    labels = labels_of(model)
    # No pretrained_cfg: transformers takes a config that has one for a timm checkpoint and prepares photos like timm.
    config = TimmWrapperConfig(
        architecture=name,
        model_args=arguments,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        decision=model.config.decision,
    )
    stock = TimmWrapperForImageClassification(config)
    missing, unexpected = stock.load_state_dict(stock_weights(model), strict=False)
    # timm keeps a zero bias of the keys as a buffer that is not saved in checkpoints.
    missing = [key for key in missing if not key.endswith("k_bias")]
    if missing or unexpected:
        names = ", ".join([*missing, *unexpected][:4])
        raise UserError(f"--format stock: timm's {name} has other weights than this model ({names}): {WAY_OUT}")
    return stock.eval()
