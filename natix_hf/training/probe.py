"""A probe by many heads: all are trained together on cached features, the best on `val_select` becomes the model.

Which heads there are is the recipe's grid; how they are trained is `heads.py`'s business. What is left is an ordinary
model with the pooling and the last layers of the winner. Only rows of `train` and `val_select` come here.
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

LBFGS_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of the logistic regression that is set beside the heads
MOST_STEPS = 10_000  # of L-BFGS; it stops by itself long before, and warns where it is stopped


def check_probe(args: Any, method: str, *, head: str = "linear") -> None:
    """Refuse what a grid of heads cannot do, before anything is read.

    Args:
        args: `NatixTrainingArguments`.
        head: `linear`, `mlp` or `residual`.

    Raises:
        UserError: one line on the first of them.
    """
    if args.probe_heads == "one":
        return
    if method != "probe":
        raise UserError(
            f"probe_heads: grid given, but method is {method}: only a probe trains heads alone: "
            f"leave it out with {off(args, 'probe_heads')}, or use --method probe"
        )
    grid(args)  # which refuses values that no head can have
    if head != "linear":
        # A residual head starts as a linear one, so it can go on from the best of them.
        further = f", or {off(args, 'probe_heads')} --warm_start probe" if head == "residual" else ""
        raise UserError(
            f"probe_heads: grid trains linear heads, head is {head}: leave it out with {off(args, 'probe_heads')}, or "
            f"use --head linear{further}"
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
    """Raise `UserError` where a grid of heads wants more last layers than the backbone has."""
    if (most := kept_layers(args)) is not None and most > layers:
        raise UserError(f"probe_layers: {most} given, the backbone has {layers} layers")


def grid(args: Any) -> list[Setting]:
    """The heads that a recipe asks for."""
    return settings(args.probe_poolings, args.probe_layers, args.probe_learning_rates, args.probe_weight_decays)


def kept_layers(args: Any) -> int | None:
    """How many last layers the cached features have to hold for the grid; None for those that the model pools."""
    return max(setting.layers for setting in grid(args)) if args.probe_heads == "grid" else None


def scores(head: Head, labels: np.ndarray, positive: int) -> dict[str, float]:
    """The metrics of a head on the rows by which heads are chosen; NaN where it diverged."""
    if not np.isfinite(head.logits).all():
        return dict.fromkeys(("accuracy", "mcc", "auroc", "log_loss", "ece"), math.nan)
    return classification_metrics(head.logits, labels, positive)


def choose_head(
    heads: Sequence[Head], labels: np.ndarray, positive: int, metric: str | None
) -> tuple[int, list[dict[str, float | str | None]]]:
    """The number of the head that is best on the rows by which heads are chosen, and setting and scores of each.

    Args:
        labels: `(rows,)` of these rows.
        metric: `metric_for_best_model`.
    """
    name = (metric or "mcc").removeprefix("eval_")
    name = "log_loss" if name == "loss" else name
    judged = [scores(head, labels, positive) for head in heads]
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0
    chosen = best_head(heads, [sign * one[name] for one in judged], [one["log_loss"] for one in judged])
    shown = dict.fromkeys((name, "mcc", "accuracy", "log_loss"))
    found = [
        {**head.setting._asdict(), **{n: None if math.isnan(one[n]) else one[n] for n in shown}}
        for head, one in zip(heads, judged)
    ]
    return chosen, found


def lbfgs_check(
    features: np.ndarray, labels: np.ndarray, judged: np.ndarray, judged_labels: np.ndarray, positive: int
) -> dict[str, float]:
    """Logistic regression by L-BFGS on standardised features, the strength with the least loss on the judged rows.

    A head found by gradient descent that falls far behind it was trained badly. With tiles it reads the mean of them.

    Returns:
        `C`, `log_loss`, `mcc`, `accuracy` on the judged rows.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-6 * spread.max()] = np.inf
    found = []
    for strength in LBFGS_STRENGTHS:
        with one_blas_thread():
            model = LogisticRegression(C=strength, max_iter=MOST_STEPS).fit((features - mean) / spread, labels)
        logits = np.full((len(judged), int(max(labels.max(), judged_labels.max())) + 1), -30.0)
        logits[:, model.classes_] = np.log(model.predict_proba((judged - mean) / spread).clip(np.exp(-30.0)))
        metrics = classification_metrics(logits, judged_labels, positive)
        found.append({"C": strength, **{name: metrics[name] for name in ("log_loss", "mcc", "accuracy")}})
    return min(found, key=lambda one: one["log_loss"])


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
    """Train the grid of heads and judge them.

    Args:
        train: cached features of `train`, of enough layers.
        select: those of `val_select`; without (a refit) there is nothing to choose by, and one head is wanted.
        args: `NatixTrainingArguments`.
        class_weights: `(classes,)` of the loss, where it has any.
        top_k: see `train_heads`.

    Returns:
        The best head, and how all of them did.
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
        chosen, found = choose_head(heads, np.array(select.labels), positive, args.metric_for_best_model)
        feature_of = [one_vector(pooled(p, *heads[chosen].setting[:2])) for p in (views[0], judged)]
        check = lbfgs_check(feature_of[0], labels, feature_of[1], np.array(select.labels), positive)
        compared = {"judged": len(select.labels), "heads": found, "lbfgs": check}
    return heads[chosen], ProbeSearch(
        rows=len(labels),
        steps=steps,
        batch=args.train_batch_size,
        **compared,
        chosen=heads[chosen].setting._asdict(),
        reference_batch=REFERENCE_BATCH,
    )


def one_vector(features: np.ndarray) -> np.ndarray:
    """Features `(rows, dim)`; with views those of the whole photo and the mean of its tiles', `(rows, 2 * dim)`."""
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
    """Give a model a head and the pooling that it reads, and the same pooling to cached features (None is passed
    over)."""
    model.config.pooling, model.config.feature_layers = head.setting.pooling, head.setting.layers
    model.head.linear = _linear(head.weight, head.bias, model.device)
    if head.tiles is not None:
        model.head.tiles.linear = _linear(*head.tiles, model.device)
    for data in features:
        if data is not None:
            data.pooling, data.layers = head.setting.pooling, head.setting.layers
