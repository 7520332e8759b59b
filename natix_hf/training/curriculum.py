"""Trains on easy photos first: the difficulty of each row of train, and the rows that each epoch may use.

Difficulty comes from a probe on frozen features (transfer scoring: Hacohen and Weinshall, "On the Power of Curriculum
Learning in Training Deep Networks", 2019). The probe is cross-fitted over whole groups, so no row is scored by a model
that saw its group. The share of admitted rows grows from epoch to epoch by a pacing function of Wu, Dyer and Neyshabur
("When Do Curricula Work?", 2021), equally in every class, so class shares do not change. Epochs keep their length: few
admitted rows repeat, and the learning-rate schedule is the same as without a curriculum. This module reads rows of
train only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.errors import UserError
from natix_hf.files import replacing
from natix_hf.inference.features import frozen_features
from natix_hf.inference.pass_costs import Passes
from natix_hf.modeling.adapters import plain_model
from natix_hf.threads import one_blas_thread
from natix_hf.training.epoch_kinds import CURRICULA, PACINGS, check_epochs

FOLDS = 5


def check_start(args: Any, rows: int) -> float:
    """Check the curriculum now that the number of rows is known; returns the number of epochs.

    Raises:
        UserError: as `epoch_kinds.check_epochs`, or the first epoch has fewer photos than one step.
    """
    batch = args.train_batch_size * args.world_size
    steps = math.ceil(math.ceil(rows / batch) / args.gradient_accumulation_steps)
    epochs = args.max_steps / steps if args.max_steps > 0 else args.num_train_epochs
    if args.curriculum != "none":
        check_epochs(args, epochs)
        batch *= args.gradient_accumulation_steps
        if args.curriculum_start * rows < batch:
            raise UserError(
                f"curriculum_start: expected at least {math.ceil(1000 * batch / rows) / 1000:g}, found "
                f"{args.curriculum_start}: of {rows} photos that is {args.curriculum_start * rows:.0f}, less than the "
                f"{batch} of one step"
            )
    return epochs


def pacing(time: float, name: str, start: float, end: float) -> float:
    """Share of the rows that are admitted.

    Args:
        time: share of the training that is over.
        name: one of `PACINGS`.
        start: the share at the beginning.
        end: the time from which all rows are admitted.
    """
    if time >= end - 1e-9:
        return 1.0
    return start + (1 - start) * PACINGS[name](time / end)


def cross_fitted(features: np.ndarray, labels: np.ndarray, groups: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Log probabilities `(n, classes)` of each row by a logistic regression that saw no row of its group.

    Args:
        features: `(n, dim)` features of the frozen backbone.
        labels: `(n,)` class ids.
        groups: `(n,)` group names.
        names: `(classes,)`, for messages.

    Raises:
        UserError: a class is in a single group, so a probe without that group cannot learn it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    group_of = np.unique(np.asarray(groups), return_inverse=True)[1]
    classes = np.unique(labels)
    groups_with = {label: len(np.unique(group_of[labels == label])) for label in classes}
    rarest = min(groups_with, key=groups_with.get)
    folds = min(FOLDS, int(np.bincount(labels)[classes].min()), groups_with[rarest])
    few = UserError(
        f"curriculum: class {names[rarest]} is in {groups_with[rarest]} group(s) of train, too few to score its "
        "photos by a probe that has not seen their group: leave it out with --curriculum none"
    )
    if folds < 2 or len(classes) < 2:
        raise few
    log_probabilities = np.full((len(labels), len(names)), -np.inf)
    # Folds of whole groups, with the classes spread over the folds.
    for fit, scored in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(features, labels, group_of):
        if len(np.unique(labels[fit])) < len(classes):
            raise few
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
        with one_blas_thread():
            probe.fit(features[fit], labels[fit])
        # Clipped, because the figure cannot show an infinite loss.
        log_probabilities[np.ix_(scored, classes)] = np.log(probe.predict_proba(features[scored]).clip(1e-12))
    return log_probabilities


def difficulty(log_probabilities: np.ndarray, labels: np.ndarray, measure: str) -> np.ndarray:
    """Difficulty of each row, `(n,)`, larger is harder.

    Args:
        log_probabilities: `(n, classes)`.
        labels: `(n,)` class ids.
        measure: one of `CURRICULA`.
    """
    # Rounded, so that floating-point differences between machines do not change the order.
    return np.round(CURRICULA[measure].hard(log_probabilities, labels), 6)


def entries(hard: np.ndarray, cells: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """The share above which each row is admitted, `(n,)`: its rank among the `m` rows of its cell, divided by `m`.

    Args:
        hard: `(n,)` difficulty.
        cells: `(n,)` class, or class and source; rows are ranked within a cell.
        ids: `(n,)` row ids, which break ties.
    """
    entry = np.empty(len(hard))
    order = np.lexsort((np.asarray(ids), hard))
    for cell in np.unique(cells):
        ranked = order[cells[order] == cell]
        entry[ranked] = np.arange(len(ranked)) / len(ranked)
    return entry


@dataclass(frozen=True)
class Curriculum:
    """The rows that each epoch may use.

    Args:
        entry: `(n,)`, see `entries`.
        difficulty: `(n,)`.
        labels: `(n,)`.
        shares: share admitted in each epoch.
        measure: `loss` or `margin`.
    """

    entry: np.ndarray
    difficulty: np.ndarray
    labels: np.ndarray
    shares: list[float]
    measure: str

    def admitted(self, epoch: int) -> np.ndarray:
        """The admitted rows, `(n,)` bool."""
        return self.entry < self.shares[min(epoch, len(self.shares) - 1)]

    def line(self) -> str:
        """One line on the schedule."""
        return (
            f"curriculum: the first epoch uses {self.shares[0]:.0%} of each class, those with the lowest "
            f"{self.measure} under a cross-fitted probe; all {len(self.labels)} photos from epoch "
            f"{self.shares.index(1.0) + 1}"
        )

    def draw(self, path: Path, names: Sequence[str]) -> None:
        """Write the figure of the schedule."""
        from natix_hf.report.figures import curriculum

        path.parent.mkdir(exist_ok=True)
        curriculum(self.shares, self.difficulty, self.labels, names, self.measure, path)


def plan_curriculum(
    args: Any,
    model: Any,
    rows: Any,
    processor: Any,
    *,
    names: Sequence[str],
    cells: np.ndarray,
    cache_dir: Path,
    passes: Passes | None = None,
) -> Curriculum | None:
    """The curriculum that a recipe asks for; None for `none`.

    The scores of the probe are cached in `cache_dir`, so that all processes of a run, and a resumed run, use the same.

    Args:
        args: `NatixTrainingArguments`.
        model: before training, wrapped for LoRA or not.
        rows: rows of `train`, with `id`, `image`, `label`, `group`, `fingerprint`.
        processor: the image processor.
        names: `(classes,)`.
        cells: `(n,)`, see `entries`.
        cache_dir: folder of cached features and scores.
        passes: of the run, see `frozen_features`.

    Raises:
        UserError: see `check_start`, `cross_fitted` and `frozen_features`.
    """
    epochs = check_start(args, len(rows))
    if args.curriculum == "none":
        return None
    plain = plain_model(model).to(args.device)
    kept = frozen_features(
        plain,
        rows,
        processor,
        cache_dir=cache_dir,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        passes=passes,
    )
    features = kept.table()
    if features.ndim == 3:  # a photo with tiles is scored by its whole view
        features = features[:, 0]
    labels, groups = np.array(kept.labels), rows["group"][:]
    digest = hashlib.blake2b("\0".join(groups).encode(), digest_size=16)
    digest.update(features.tobytes() + labels.tobytes())
    file = cache_dir / "curriculum" / f"{digest.hexdigest()}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        scores = cross_fitted(features, labels, groups, names)
        with replacing(file) as temporary:
            np.save(temporary, scores)
    hard = difficulty(np.load(file, allow_pickle=False), labels, args.curriculum)
    times = [epoch / epochs for epoch in range(math.ceil(epochs))]
    shares = [pacing(time, args.curriculum_pacing, args.curriculum_start, args.curriculum_end) for time in times]
    return Curriculum(entries(hard, cells, rows["id"][:]), hard, labels, shares, args.curriculum)
