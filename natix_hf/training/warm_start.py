"""The probe as the start of fine-tuning, and what fine-tuning added over it.

A head that is trained on frozen features first keeps the backbone from being bent towards a random head (linear
probing, then fine-tuning: Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022). The features come from
the cache of `inference.features`, so that a probe run before makes this free, and the same head, left as it is, is
what LoRA is measured against at the end: on the same photos, each with its own temperature.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.calibrators import fit_calibrator
from natix_hf.documents.probe import OverProbe
from natix_hf.errors import UserError
from natix_hf.files import read_json
from natix_hf.inference.features import frozen_features, weights_fingerprint
from natix_hf.options import off
from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.report.summary import LABELS, figure_text
from natix_hf.training.heads import Head, settings, train_heads
from natix_hf.training.probe import choose_head

if TYPE_CHECKING:
    from natix_hf.training.trainer import NatixTrainer

COMPARED = ("accuracy", "mcc", "auroc", "log_loss")


def check_warm_start(args: Any, method: str, head: str) -> None:
    """Raise `UserError` where there is no head to start from."""
    if args.warm_start == "none":
        return
    if method == "probe":
        raise UserError(
            f"warm_start: probe given, but method is probe itself: leave it out with {off(args, 'warm_start')}, or "
            "use --method lora"
        )
    if head != "linear":
        raise UserError(
            f"warm_start: a probe has a linear head, head is {head}: leave it out with {off(args, 'warm_start')}, or "
            "use --head linear"
        )


class WarmStart:
    """The probe of one run.

    Args:
        trainer: with its model as it is before training.
    """

    def __init__(self, trainer: NatixTrainer, model: Any, processor: Any, args: Any) -> None:
        self.trainer, self.processor, self.args = trainer, processor, args
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        plain.to(args.device)
        # What is trained later must not be asked for the name of the features that it had.
        self.weights = weights_fingerprint(plain.backbone)
        self.comparable = _untouched(model)
        splits = trainer.splits
        train = self._features(plain, splits.rows("training", step="frozen features"))
        select = self._features(plain, splits.rows("selection", step="choose checkpoint"))
        config, layers = plain.config, plain.config.feature_layers
        wanted = settings([config.pooling], [layers], args.probe_learning_rates, args.probe_weight_decays)
        weights = trainer.criterion.weights
        heads = train_heads(
            train.parts(layers),
            np.array(train.labels),
            select.parts(layers)[0],
            wanted,
            classes=len(trainer.label_list),
            epochs=args.probe_epochs,
            batch_size=min(64, len(train)),
            seed=args.seed,
            class_weights=None if weights is None else weights.tolist(),
            label_smoothing=args.label_smoothing_factor,
            device=args.device,
        )
        chosen, found = choose_head(heads, np.array(select.labels), trainer.positive, args.metric_for_best_model)
        self.head: Head = heads[chosen]
        _copy(self.head, plain.head)
        if args.should_log:
            print(
                f"warm start: the best of {len(heads)} heads on frozen features (learning rate "
                f"{self.head.setting.learning_rate:g}; val_select: MCC {found[chosen]['mcc']:.3f}, "
                f"NLL {found[chosen]['log_loss']:.4f})"
            )

    def _features(self, plain: Any, rows: Any) -> Any:
        trainer = self.trainer
        return frozen_features(
            plain,
            rows,
            self.processor,
            cache_dir=trainer.cache_dir,
            weights=self.weights,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=trainer.decode_workers,
            budget_gb=trainer.cache_gb,
            passes=trainer.passes["features"],
        )

    def predictions(self) -> dict[str, tuple[np.ndarray, ...]] | None:
        """Logits, labels and groups of the probe on `val_calib/fit` and `val_test`, before the adapters are merged.

        None where the backbone itself was trained, so that what the probe read is gone.
        """
        if not self.comparable:
            return None
        splits, model = self.trainer.splits, self.trainer.accelerator.unwrap_model(self.trainer.model)
        found = {}
        with self.trainer.timed("warm_start"), model.disable_adapter():
            for name, role, part in (("fit", "policy", "fit"), ("test", "final_evaluation", None)):
                rows = splits.rows(role, step="predictions", part=part)
                features = self._features(model.get_base_model(), rows)
                logits = features.table() @ self.head.weight.numpy().T + self.head.bias.numpy()
                found[name] = (logits.astype(np.float64), np.array(features.labels), np.array(rows["group"]))
        return found


def _untouched(model: Any) -> bool:
    """Whether switching the adapters off gives back the backbone as it was loaded."""
    if not isinstance(model, PeftModel):
        return False
    config = model.peft_config["default"]
    if str(config.init_lora_weights).lower() in ("pissa", "olora") or str(config.init_lora_weights).startswith(
        "pissa"
    ):
        return False  # these move part of the weights into the adapters
    backbone = model.get_base_model().backbone
    return all(".lora_" in name for name, parameter in backbone.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _copy(head: Head, target: Any) -> None:
    target = target.modules_to_save["default"] if hasattr(target, "modules_to_save") else target
    target.linear.weight.copy_(head.weight)
    target.linear.bias.copy_(head.bias)


def over_probe(
    run: Path,
    probe: dict[str, tuple[np.ndarray, ...]],
    rows: dict[str, Any],
    positive: int,
    seed: int = 0,
) -> OverProbe:
    """What fine-tuning added over the probe on `val_test`, written to `over_probe.json`.

    Args:
        run: folder with `calibration.json`.
        probe: from `WarmStart.predictions`.
        rows: `logits, label, group` of `val_test` as `read_predictions` gives them.
        positive: id of the positive class.

    Returns:
        For each metric the probe's value and the tuned model's with intervals, and the difference
        (tuned minus probe) with that of pairs of photos, resampled by group.
    """
    before = fit_calibrator(*probe["fit"]).calibration.calibrated(probe["test"][0])
    after = Calibration.from_document(read_json(run / "calibration.json")).served(rows["logits"])
    labels, groups = rows["label"], rows["group"]
    if not np.array_equal(labels, probe["test"][1]):
        raise ValueError("the probe's rows are not those of predictions/val_test.parquet")
    intervals = [bootstrap_intervals(one, labels, groups, positive=positive, seed=seed) for one in (before, after)]
    changes = paired_differences(after, before, labels, groups, positive=positive, seed=seed)
    metrics = {
        name: {"probe": intervals[0][name], "tuned": intervals[1][name], "difference": changes[name]}
        for name in COMPARED
    }
    for one in metrics.values():
        for values in one.values():
            values |= {key: None for key, value in values.items() if value != value}
    found = OverProbe(split="val_test", n=len(labels), groups=group_count(groups, len(labels)), metrics=metrics)
    found.write(run)
    return found


def over_probe_lines(found: OverProbe) -> list[str]:
    """What a run prints of it."""
    lines = [f"over the probe on the same {found.n} photos of {found.split}, tuned minus probe:"]
    for name, one in found.metrics.items():
        change, ends = one.difference, "-"
        if change.low is not None:
            ends = f"{change.low:+.3f} to {change.high:+.3f}"
        told = "-" if change.difference is None else f"{change.difference:+.3f}"
        lines.append(f"  {LABELS[name]}: {figure_text(one.probe.value)} {told} ({ends})")
    return lines
