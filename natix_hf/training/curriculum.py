"""Easy photos first: how hard each row of train is, and how many of them each epoch may draw from.

Difficulty comes from a probe on frozen features (transfer scoring: Hacohen and Weinshall, "On the Power of Curriculum
Learning in Training Deep Networks", 2019), cross-fitted over whole groups, so that no row is judged by a model that
saw its group. The share of rows that are in grows by one of the pacing functions of Wu, Dyer and Neyshabur ("When Do
Curricula Work?", 2021), from epoch to epoch and in every class alike, so that class shares stay what they are. An
epoch keeps its length: while few rows are in, they repeat, and the schedule of the learning rate is that of the run
without curriculum. Rows of train are all that this module is ever given.
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
    """The number of epochs of a run over `rows` rows, after a last look at what the curriculum would do with them.

    Raises:
        UserError: as `epoch_kinds.check_epochs`; or the first epoch has fewer photos than one step takes.
    """
    batch = args.train_batch_size * args.world_size
    steps = math.ceil(math.ceil(rows / batch) / args.gradient_accumulation_steps)
    epochs = args.max_steps / steps if args.max_steps > 0 else args.num_train_epochs
    if args.curriculum != "none":
        check_epochs(args, epochs)
        batch *= args.gradient_accumulation_steps
        if args.curriculum_start * rows < batch:
            raise UserError(
                f"curriculum_start: {args.curriculum_start} of {rows} photos is {args.curriculum_start * rows:.0f}, "
                f"less than the {batch} of one step: at least {math.ceil(1000 * batch / rows) / 1000:g} expected"
            )
    return epochs


def pacing(time: float, name: str, start: float, end: float) -> float:
    """Share of the rows that are in.

    Args:
        time: share of the training that is over.
        name: one of `PACINGS`.
        start: the share at the beginning.
        end: the time from which all are in.
    """
    if time >= end - 1e-9:
        return 1.0
    return start + (1 - start) * PACINGS[name](time / end)


def cross_fitted(features: np.ndarray, labels: np.ndarray, groups: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Log probabilities `(n, classes)` of each row by a logistic regression that saw no row of its group.

    Args:
        features: `(n, dim)` of the frozen backbone.
        labels: `(n,)` class ids.
        groups: `(n,)`.
        names: `(classes,)`, for messages.

    Raises:
        UserError: a class stands in a single group: without that one, nobody knows it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    group_of = np.unique(np.asarray(groups), return_inverse=True)[1]
    there = np.unique(labels)
    groups_with = {label: len(np.unique(group_of[labels == label])) for label in there}
    rarest = min(groups_with, key=groups_with.get)
    folds = min(FOLDS, int(np.bincount(labels)[there].min()), groups_with[rarest])
    few = UserError(
        f"curriculum: class {names[rarest]} stands in {groups_with[rarest]} group(s) of train, too few to judge its "
        "photos by a probe that has not seen their group: leave it out with --curriculum none"
    )
    if folds < 2 or len(there) < 2:
        raise few
    found = np.full((len(labels), len(names)), -np.inf)
    # Whole groups, as GroupKFold has them, with the classes spread over the folds.
    for fit, judge in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(features, labels, group_of):
        if len(np.unique(labels[fit])) < len(there):
            raise few
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
        with one_blas_thread():
            probe.fit(features[fit], labels[fit])
        # No loss is infinite: the figure could not show it.
        found[np.ix_(judge, there)] = np.log(probe.predict_proba(features[judge]).clip(1e-12))
    return found


def difficulty(log_probabilities: np.ndarray, labels: np.ndarray, measure: str) -> np.ndarray:
    """How hard each row is, `(n,)`, harder ones larger.

    Args:
        log_probabilities: `(n, classes)`.
        labels: `(n,)`.
        measure: one of `CURRICULA`.
    """
    # Rounded, so that the last bits of another machine's arithmetic do not change the order.
    return np.round(CURRICULA[measure].hard(log_probabilities, labels), 6)


def entries(hard: np.ndarray, cells: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """From which share on each row is in, `(n,)`: its rank among the `m` rows of its cell, over `m`.

    Args:
        hard: `(n,)` difficulty.
        cells: `(n,)` the class, or the class and source, within which rows are ranked.
        ids: `(n,)` row ids; they order rows that are equally hard.
    """
    entry = np.empty(len(hard))
    order = np.lexsort((np.asarray(ids), hard))
    for cell in np.unique(cells):
        ranked = order[cells[order] == cell]
        entry[ranked] = np.arange(len(ranked)) / len(ranked)
    return entry


@dataclass(frozen=True)
class Curriculum:
    """Which rows each epoch may hold.

    Args:
        entry: `(n,)` see `entries`.
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
        """Which rows are in, `(n,)` bool."""
        return self.entry < self.shares[min(epoch, len(self.shares) - 1)]

    def told(self) -> str:
        """One line of what it does."""
        return (
            f"curriculum: {self.shares[0]:.0%} of each class in the first epoch, those with the least {self.measure} "
            f"of a cross-fitted probe; all {len(self.labels)} from epoch {self.shares.index(1.0) + 1}"
        )

    def draw(self, path: Path, names: Sequence[str]) -> None:
        """Write the picture of the schedule."""
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

    The probe's judgement is kept in `cache_dir`, so that all processes of a run, and one that resumes it, have the
    same.

    Args:
        args: `NatixTrainingArguments`.
        model: as it is before training, wrapped for LoRA or not.
        rows: those of `train`, with `id`, `image`, `label`, `group`, `fingerprint`.
        processor: the image processor.
        names: `(classes,)`.
        cells: `(n,)` within which rows are ranked.
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
    if features.ndim == 3:  # a photo with tiles is judged by the whole of it
        features = features[:, 0]
    labels, groups = np.array(kept.labels), rows["group"][:]
    digest = hashlib.blake2b("\0".join(groups).encode(), digest_size=16)
    digest.update(features.tobytes() + labels.tobytes())
    file = cache_dir / "curriculum" / f"{digest.hexdigest()}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        judged = cross_fitted(features, labels, groups, names)
        with replacing(file) as temporary:
            np.save(temporary, judged)
    hard = difficulty(np.load(file, allow_pickle=False), labels, args.curriculum)
    times = [epoch / epochs for epoch in range(math.ceil(epochs))]
    shares = [pacing(time, args.curriculum_pacing, args.curriculum_start, args.curriculum_end) for time in times]
    return Curriculum(entries(hard, cells, rows["id"][:]), hard, labels, shares, args.curriculum)
