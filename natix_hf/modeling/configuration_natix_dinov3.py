"""The configuration of a photo classifier on a DINOv3 vision transformer.

It travels with the weights (Hub, `trust_remote_code`), so it imports transformers only. It describes the network:
backbone, pooling, head, calibration. It knows nothing of data, training or where a backbone comes from.
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

        head: `linear`, `mlp` (one hidden layer, GELU) or `residual` (such a layer beside the features, then linear).
        head_hidden_size: width of the hidden layer of `mlp` or `residual`; the feature dimension where it is None.
        head_dropout: dropout on the features, in [0, 1).
        views: of a model that sees a photo's tiles beside the whole: `tiles` (how many), `aggregate` (`top_k`, `mean`
            or `attention`) and `top_k` (of so many tiles the logits are averaged, class by class); None for the whole
            photo alone.
        views_exit: which photos need no tiles, and the calibration of both stages, applied before `isotonic`,
            `temperature` and `logit_bias`: `low` and `high` (a photo leaves where the probability of `positive` from
            its whole view is at most the one or at least the other; without a `low`, where the largest probability is
            at least `high`; without a `high`, never), `positive` (class id) and `stages` (of the whole photo, then of
            all views: `temperature`, `bias` and `isotonic`); None where every photo is seen in all its views.
        temperature: one value per class that the logits are divided by; None is 1 for every class.
        logit_bias: one value per class that is added last; None is 0 for every class.
        isotonic: for each class its knots `[x, y]` on the probability from the linear layer, applied before
            temperature and bias; None for calibrators that these two can hold.
        decision: how the biases came about, for who wants the probability before the threshold was moved to 0.5:
            `positive` (class id), `threshold`, `prior_bias` and `threshold_bias` (one value per class),
            `abstain_band` (`[low, high]` on the calibrated probability of `positive`, between which a person
            decides; or None).

    > Parameters of adapters

        adapter_base: of an adapter: fingerprint of the backbone that it was trained on; else None.
        merged_adapter: of a model with its adapter in the weights: fingerprint of that adapter; else None.

    Raises:
        ValueError: a value outside these ranges, or a calibration whose length is not the number of classes.
    """

    model_type = "natix_dinov3"
    keys_to_ignore_at_inference: ClassVar = ["whole_logits"]  # which `Trainer` would take for further predictions
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
        # JSON sorts keys as strings ("10" before "2"), and label_names is read off these dicts in order.
        self.id2label = dict(sorted(self.id2label.items()))
        self.label2id = {name: index for index, name in self.id2label.items()}
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}, expected one of {', '.join(POOLINGS)}")
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}, expected one of {', '.join(HEADS)}")
        layers = self.backbone_config.num_hidden_layers
        if not 1 <= self.feature_layers <= layers:
            raise ValueError(f"feature_layers is {self.feature_layers}, expected 1 to {layers}, the backbone's layers")
        if not 0.0 <= self.head_dropout < 1.0:
            raise ValueError(f"head_dropout is {self.head_dropout}, expected a value in [0, 1)")
        if self.views is not None:
            if self.views["aggregate"] not in AGGREGATES:
                raise ValueError(f"views: aggregate is {self.views['aggregate']!r}, expected {', '.join(AGGREGATES)}")
            if not 1 <= self.views["top_k"] <= self.views["tiles"]:
                raise ValueError(
                    f"views: top_k is {self.views['top_k']}, expected 1 to {self.views['tiles']}, the tiles"
                )
        if self.views_exit is not None and self.views is None:
            raise ValueError("views_exit: photos leave before their tiles are looked at, and views is None")
        for name in ("temperature", "logit_bias", "isotonic"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                raise ValueError(
                    f"{name} has {len(values)} values, expected one for each of {self.num_labels} classes"
                )

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        for name in ("views", "views_exit"):  # a model of the whole photo keeps the file that it always had
            if getattr(self, name) is None:
                found.pop(name, None)
        return found

    @property
    def feature_size(self) -> int:
        """Dimension of the pooled features that the head reads."""
        parts = 2 if self.pooling == "cls_mean" else 1
        return self.backbone_config.hidden_size * parts * self.feature_layers
