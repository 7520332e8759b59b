"""Trains a grid of probe heads on cached features, and gives the model the one that is best on `val_select`.

The recipe defines the grid; `heads.py` trains the heads. The result is an ordinary model with the pooling and the
layers of the best head. Reads rows of `train` and `val_select` only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from natix_hf.documents.probe import ProbeSearch
from natix_hf.errors import UserError
from natix_hf.inference.features import pooled
from natix_hf.options import off
from natix_hf.report.metrics import LOWER_IS_BETTER, classification_metrics
from natix_hf.threads import one_blas_thread
from natix_hf.training.heads import REFERENCE_BATCH, Head, Setting, best_head, settings, train_heads

LBFGS_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of the logistic regression that the heads are compared with
MOST_STEPS = 10_000  # limit for L-BFGS, which converges long before and warns otherwise


def check_probe(args: Any, method: str, *, head: str = "linear") -> None:
    """Reject options that do not work with a grid of heads, before any data is read.

    Args:
        args: `NatixTrainingArguments`.
        head: `linear`, `mlp` or `residual`.

    Raises:
        UserError: names the first such option.
    """
    if args.probe_heads == "one":
        return
    if method != "probe":
        raise UserError(
            f"probe_heads: grid given, but method is {method}: only a probe trains nothing but heads: "
            f"leave it out with {off(args, 'probe_heads')}, or use --method probe"
        )
    grid(args)  # checks the values
    if head != "linear":
        # A residual head starts as a linear one, so it can start from the best one.
        further = f", or {off(args, 'probe_heads')} --warm_start probe" if head == "residual" else ""
        raise UserError(
            f"probe_heads: grid trains linear heads, but head is {head}: leave it out with "
            f"{off(args, 'probe_heads')}, or use --head linear{further}"
        )
    neutral = {"loss": "ce", "logit_adjustment": 0.0, "sampling": "natural", "curriculum": "none"}
    for key, value in neutral.items():
        if getattr(args, key) != value:
            raise UserError(
                f"{key}: {getattr(args, key)} given, but probe_heads: grid trains with plain cross-entropy over all "
                f"rows: leave it out with {off(args, key)}, or use --probe_heads one"
            )
    if args.world_size > 1:
        raise UserError("probe_heads: grid takes seconds in one process: start it without accelerate's num_processes")


def check_probe_layers(args: Any, layers: int) -> None:
    """Raise `UserError` if the grid uses more last layers than the backbone has."""
    if (most := kept_layers(args)) is not None and most > layers:
        raise UserError(f"probe_layers: expected at most {layers}, the layers of the backbone; found {most}")


def grid(args: Any) -> list[Setting]:
    """The settings of the heads in the recipe."""
    return settings(args.probe_poolings, args.probe_layers, args.probe_learning_rates, args.probe_weight_decays)


def kept_layers(args: Any) -> int | None:
    """Number of last layers to cache for the grid; None for those that the model pools."""
    return max(setting.layers for setting in grid(args)) if args.probe_heads == "grid" else None


def scores(head: Head, labels: np.ndarray, positive: int) -> dict[str, float]:
    """The metrics of a head on the rows used to choose a head; NaN if it diverged."""
    if not np.isfinite(head.logits).all():
        return dict.fromkeys(("accuracy", "mcc", "auroc", "log_loss", "ece"), math.nan)
    return classification_metrics(head.logits, labels, positive)


def choose_head(
    heads: Sequence[Head], labels: np.ndarray, positive: int, metric: str | None
) -> tuple[int, list[dict[str, float | str | None]]]:
    """The number of the best head, and the settings and scores of all heads.

    Args:
        labels: `(rows,)` class ids of the rows used to choose a head.
        positive: id of the positive class.
        metric: `metric_for_best_model`.
    """
    name = (metric or "mcc").removeprefix("eval_")
    name = "log_loss" if name == "loss" else name
    judged = [scores(head, labels, positive) for head in heads]
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0
    losses = [metrics["log_loss"] for metrics in judged]
    chosen = best_head(heads, [sign * metrics[name] for metrics in judged], losses)
    shown = dict.fromkeys((name, "mcc", "accuracy", "log_loss"))
    results = []
    for head, metrics in zip(heads, judged):
        defined = {key: None if math.isnan(metrics[key]) else metrics[key] for key in shown}
        results.append(head.setting._asdict() | defined)
    return chosen, results


def lbfgs_check(
    features: np.ndarray, labels: np.ndarray, judged: np.ndarray, judged_labels: np.ndarray, positive: int
) -> dict[str, float]:
    """Logistic regression by L-BFGS on standardised features, with the strength of lowest loss on the judged rows.

    A reference for the heads: if the best one is far worse, its training failed. With tiles it uses their mean.

    Returns:
        `C`, `log_loss`, `mcc`, `accuracy` on the judged rows.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-6 * spread.max()] = np.inf
    results = []
    for strength in LBFGS_STRENGTHS:
        with one_blas_thread():
            model = LogisticRegression(C=strength, max_iter=MOST_STEPS).fit((features - mean) / spread, labels)
        logits = np.full((len(judged), int(max(labels.max(), judged_labels.max())) + 1), -30.0)
        logits[:, model.classes_] = np.log(model.predict_proba((judged - mean) / spread).clip(np.exp(-30.0)))
        metrics = classification_metrics(logits, judged_labels, positive)
        results.append({"C": strength, **{name: metrics[name] for name in ("log_loss", "mcc", "accuracy")}})
    return min(results, key=lambda result: result["log_loss"])


def search_heads(
    train: Any,
    select: Any | None,
    wanted: Sequence[Setting],
    args: Any,
    *,
    classes: int,
    positive: int,
    class_weights: Sequence[float] | None,
    top_k: int | None = None,
) -> tuple[Head, ProbeSearch]:
    """Train the grid of heads and evaluate them.

    Args:
        train: cached features of `train`, of enough layers.
        select: cached features of `val_select`; None in a refit, which trains one head and chooses none.
        wanted: the settings, one head each.
        args: `NatixTrainingArguments`.
        classes: number of classes.
        positive: id of the positive class.
        class_weights: `(classes,)` weights of the loss, or None.
        top_k: see `train_heads`.

    Returns:
        The best head, and the results of all heads.
    """
    layers = max(setting.layers for setting in wanted)
    labels = np.array(train.labels)
    views = train.parts(layers)
    judged = views[0][:1] if select is None else select.parts(layers)[0]
    with tqdm(total=0, desc=f"{len(wanted)} heads", unit="step", disable=args.disable_tqdm) as bar:

        def after_step(done: int, steps: int) -> None:
            bar.total = steps
            bar.update(done - bar.n)

        heads = train_heads(
            views,
            labels,
            judged,
            wanted,
            classes=classes,
            epochs=args.num_train_epochs,
            steps=args.max_steps if args.max_steps > 0 else None,
            batch_size=args.train_batch_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            class_weights=class_weights,
            label_smoothing=args.label_smoothing_factor,
            device=args.device,
            top_k=top_k,
            after_step=after_step,
        )
        steps = bar.total
    chosen, compared = 0, {}
    if select is not None:
        chosen, results = choose_head(heads, np.array(select.labels), positive, args.metric_for_best_model)
        fitted_on, judged_on = (one_vector(pooled(p, *heads[chosen].setting[:2])) for p in (views[0], judged))
        check = lbfgs_check(fitted_on, labels, judged_on, np.array(select.labels), positive)
        compared = {"judged": len(select.labels), "heads": results, "lbfgs": check}
    return heads[chosen], ProbeSearch(
        rows=len(labels),
        steps=steps,
        batch=args.train_batch_size,
        **compared,
        chosen=heads[chosen].setting._asdict(),
        reference_batch=REFERENCE_BATCH,
    )


def one_vector(features: np.ndarray) -> np.ndarray:
    """Features `(rows, dim)`; with tiles, those of the whole photo and the mean over its tiles, `(rows, 2 * dim)`."""
    if features.ndim == 2:
        return features
    return np.concatenate([features[:, 0], features[:, 1:].mean(axis=1)], axis=1)


def _linear(weight: torch.Tensor, bias: torch.Tensor, device: torch.device) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], device=device)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear


@torch.no_grad()
def adopt_head(model: Any, head: Head, features: Sequence[Any]) -> None:
    """Set the head of a model and its pooling, and the same pooling on cached features (skipping None)."""
    model.config.pooling, model.config.feature_layers = head.setting.pooling, head.setting.layers
    model.head.linear = _linear(head.weight, head.bias, model.device)
    if head.tiles is not None:
        model.head.tiles.linear = _linear(*head.tiles, model.device)
    for data in features:
        if data is not None:
            data.pooling, data.layers = head.setting.pooling, head.setting.layers
