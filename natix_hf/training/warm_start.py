"""Starts fine-tuning from a probe, and predicts with that probe for comparison.

If the head is trained on frozen features first, the backbone is not distorted by a random head (linear probing, then
fine-tuning: Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022). The features come from the cache of
`inference.features`, so after a probe run this costs nothing. At the end the unchanged probe is the baseline for LoRA
(`runs.over_probe`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peft import PeftModel

from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.errors import UserError
from natix_hf.inference.features import weights_fingerprint
from natix_hf.modeling.adapters import plain_model
from natix_hf.options import off
from natix_hf.training.batch_source import BatchSource
from natix_hf.training.heads import Head, settings, train_heads
from natix_hf.training.probe import choose_head
from natix_hf.training.tiles import tiles_top_k


def check_warm_start(args: Any, method: str, head: str) -> None:
    """Raise `UserError` if the model cannot start from a linear probe."""
    if args.warm_start == "none":
        return
    if method == "probe" and head != "residual":
        raise UserError(
            f"warm_start: probe given, but the method is already probe: leave it out with {off(args, 'warm_start')}, "
            "or use --method lora"
        )
    if head == "mlp":
        raise UserError(
            f"warm_start: a probe has a linear head, but head is {head}: leave it out with {off(args, 'warm_start')}, "
            "or use --head linear (or residual, which starts as one)"
        )


class WarmStart:
    """The probe of a run; the constructor trains it and copies its head into the model.

    Args:
        model: before training, wrapped for LoRA or not.
        source: of cached features.
        splits: of the run.
        args: `NatixTrainingArguments`.
        positive: id of the positive class.
        class_weights: `(classes,)` weights of the loss, or None.
    """

    def __init__(
        self,
        model: Any,
        source: BatchSource,
        splits: LockedSplits,
        args: Any,
        positive: int,
        class_weights: torch.Tensor | None,
    ) -> None:
        self.source, self.splits = source, splits
        plain = plain_model(model)
        plain.to(args.device)
        # The cache key of the features; taken now, before training changes the weights.
        self.weights = weights_fingerprint(plain.backbone)
        self.comparable = _untouched(model)
        train = self.features(plain, splits.rows("training", step="frozen features"))
        select = self.features(plain, splits.rows("selection", step="choose checkpoint"))
        config, layers = plain.config, plain.config.feature_layers
        wanted = settings([config.pooling], [layers], args.probe_learning_rates, args.probe_weight_decays)
        heads = train_heads(
            train.parts(layers),
            np.array(train.labels),
            select.parts(layers)[0],
            wanted,
            classes=len(splits.label_names),
            epochs=args.probe_epochs,
            batch_size=min(64, len(train)),
            seed=args.seed,
            class_weights=None if class_weights is None else class_weights.tolist(),
            label_smoothing=args.label_smoothing_factor,
            device=args.device,
            top_k=tiles_top_k(plain),
        )
        chosen, scores = choose_head(heads, np.array(select.labels), positive, args.metric_for_best_model)
        self.head: Head = heads[chosen]
        _copy(self.head, plain.head)
        if args.should_log:
            print(
                f"warm start: the best of {len(heads)} heads on frozen features (learning rate "
                f"{self.head.setting.learning_rate:g}; val_select: MCC {scores[chosen]['mcc']:.3f}, "
                f"NLL {scores[chosen]['log_loss']:.4f})"
            )

    def features(self, plain: Any, rows: Any) -> Any:
        """Cached features of rows, by the backbone before training."""
        return self.source.features(rows, plain, weights=self.weights)

    def predictions(self, model: Any) -> dict[str, tuple[str | None, Any, np.ndarray]]:
        """Part, rows and logits `(n, classes)` of the probe on `val_calib/fit` and `val_test`.

        Empty if training changed the backbone itself, because the probe needs the original one.

        Args:
            model: after training, before its adapters are merged.
        """
        if not self.comparable:
            return {}
        predictions = {}
        with self.source.times.timed("warm_start"), model.disable_adapter():
            for name, role, part in (("val_calib", "policy", "fit"), ("val_test", "final_evaluation", None)):
                rows = self.splits.rows(role, step="predictions", part=part)
                features = self.features(model.get_base_model(), rows)
                logits = self.head.logits_of(features.table())
                predictions[name] = part, rows, logits.astype(np.float32)
        return predictions


def _untouched(model: Any) -> bool:
    """Whether the model without its adapters is the backbone as it was loaded."""
    if not isinstance(model, PeftModel):
        return False
    if str(model.peft_config["default"].init_lora_weights).lower().startswith(("pissa", "olora")):
        return False  # these move part of the weights into the adapters
    backbone = model.get_base_model().backbone
    return all(".lora_" in name for name, parameter in backbone.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _copy(head: Head, target: Any) -> None:
    target = target.modules_to_save["default"] if hasattr(target, "modules_to_save") else target
    linears = [(target.linear, head.weight, head.bias)]
    if head.tiles is not None:
        linears.append((target.tiles.linear, *head.tiles))
    for linear, weight, bias in linears:
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
