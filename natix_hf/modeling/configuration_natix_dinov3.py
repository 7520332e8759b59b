"""The configuration of a photo classifier on a DINOv3 vision transformer: backbone, pooling, head, calibration.

This file is saved with the weights (for `trust_remote_code` on the Hub), so it imports only transformers.
"""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

POOLINGS = ("cls", "mean", "cls_mean")
HEADS = ("linear", "mlp", "residual")
AGGREGATES = ("top_k", "mean", "attention")


class NatixDinov3Config(PreTrainedConfig):
    """Configuration of `NatixDinov3ForImageClassification`.

    > Parameters that describe the features

    Args:
        backbone_config: any `DINOv3ViTConfig`, or its dict.
        pooling: `cls` (the class token), `mean` (over the patch tokens) or `cls_mean` (both, concatenated).
        feature_layers: how many of the last layers are pooled and concatenated, each after the backbone's final norm.

    > Parameters that describe the head

        head: `linear`, `mlp` (one hidden layer with GELU) or `residual` (`x + mlp(x)`, then linear).
        head_hidden_size: width of the hidden layer of `mlp` or `residual`; None for the feature dimension.
        head_dropout: dropout on the features, in [0, 1).
        views: None for the whole photo alone. For a model that also uses tiles: `tiles` (their number), `aggregate`
            (`top_k`, `mean` or `attention`) and `top_k` (for each class, the mean of this many largest tile logits is
            taken).
        views_exit: rule for early exits; None to compute all views of every photo. `positive` is a class id. A photo
            needs no tiles if the probability of `positive` from its whole view is at most `low` or at least `high`.
            If `low` is None, the largest probability must be at least `high`; if `high` is None, no photo leaves.
            `stages` holds `temperature`, `bias` and `isotonic` for the whole photo, then for all views. They are
            applied before the `isotonic`, `temperature` and `logit_bias` below.
        temperature: one value per class, by which the logits are divided; None for 1.
        logit_bias: one value per class, added last; None for 0.
        isotonic: knots `[x, y]` for each class, which map the probability from the linear layer; applied before
            temperature and bias. None if temperature and bias are the whole calibration.
        decision: the origin of the biases, to recover the probability before the threshold was moved to 0.5:
            `positive` (class id), `threshold`, `prior_bias` and `threshold_bias` (one value per class) and
            `abstain_band` (`[low, high]` on the calibrated probability of `positive`, inside which a person decides;
            or None).

    > Parameters of adapters

        adapter_base: for an adapter, the fingerprint of the backbone that it was trained on; else None.
        merged_adapter: for a model with a merged adapter, the fingerprint of that adapter; else None.

    Raises:
        ValueError: a value is outside these ranges, or the length of a calibration is not the number of classes.
    """

    model_type = "natix_dinov3"
    keys_to_ignore_at_inference: ClassVar = ["whole_logits"]  # else `Trainer` adds them to the predictions
    sub_configs_defaults: ClassVar = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov3_vit")
    }

    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "cls"
    feature_layers: int = 1
    head: str = "linear"
    head_hidden_size: int | None = None
    head_dropout: float = 0.0
    views: dict | None = None
    views_exit: dict | None = None
    temperature: list[float] | None = None
    logit_bias: list[float] | None = None
    isotonic: list | None = None
    decision: dict | None = None
    adapter_base: str | None = None
    merged_adapter: str | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # JSON sorts keys as strings ("10" before "2"), and label names are read from these dicts in order.
        self.id2label = dict(sorted(self.id2label.items()))
        self.label2id = {name: index for index, name in self.id2label.items()}
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}; found {self.pooling!r}")
        if self.head not in HEADS:
            raise ValueError(f"head: expected one of {', '.join(HEADS)}; found {self.head!r}")
        layers = self.backbone_config.num_hidden_layers
        if not 1 <= self.feature_layers <= layers:
            raise ValueError(
                f"feature_layers: expected 1 to {layers}, the backbone's layers; found {self.feature_layers}"
            )
        if not 0.0 <= self.head_dropout < 1.0:
            raise ValueError(f"head_dropout: expected a number from 0 to below 1, found {self.head_dropout}")
        if self.views is not None:
            if self.views["aggregate"] not in AGGREGATES:
                raise ValueError(
                    f"views: aggregate: expected one of {', '.join(AGGREGATES)}; found {self.views['aggregate']!r}"
                )
            if not 1 <= self.views["top_k"] <= self.views["tiles"]:
                raise ValueError(
                    f"views: top_k: expected 1 to {self.views['tiles']}, the tiles; found {self.views['top_k']}"
                )
        if self.views_exit is not None and self.views is None:
            raise ValueError("views_exit: given, but views is None: early exits need a model with tiles")
        for name in ("temperature", "logit_bias", "isotonic"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                raise ValueError(f"{name}: expected {self.num_labels} values, one for each class; found {len(values)}")

    def to_dict(self) -> dict[str, Any]:
        entries = super().to_dict()
        for name in ("views", "views_exit"):  # so that the file of a model without tiles has no such keys
            if getattr(self, name) is None:
                entries.pop(name, None)
        return entries

    @property
    def feature_size(self) -> int:
        """Dimension of the pooled features, the input of the head."""
        parts = 2 if self.pooling == "cls_mean" else 1
        return self.backbone_config.hidden_size * parts * self.feature_layers
