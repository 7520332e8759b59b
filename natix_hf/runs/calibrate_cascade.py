"""Combines the logits of two stages into those of one classifier, which `calibrate_run` treats like any model.

The stages may be the whole photo and the photo with its tiles, of one run, or a small and a large model, of two runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from natix_hf.decision.cascade import StageRows, TwoStages, fit_cascade
from natix_hf.decision.exit_options import exit_of
from natix_hf.decision.prior_shift import offset_to
from natix_hf.documents.cascade import Cascade, TwoModels
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.files import read_recipe
from natix_hf.photos.geometry import geometry_of
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.saved_logits import answered


class Stages(NamedTuple):
    """Costs and training shares of the two stages of a run.

    Attributes:
        cost: cost of the first stage, and what the second adds, in the unit `cost_in`.
        trained: class shares to which the logits of each stage belong; None: those of the rows.
    """

    cost: tuple[float, float]
    cost_in: str
    trained: tuple[np.ndarray | None, np.ndarray | None]


def stages_of(run: Path, trained: np.ndarray | None) -> Stages:
    """The stages of a run: its two models, or the whole photo and its tiles in one model.

    Args:
        run: the run folder.
        trained: class shares to which the logits of a single model belong.
    """
    if TwoModels.there(run):
        both = TwoModels.read(run)
        shares = (both.first.training_shares, both.second.training_shares)
        return Stages(both.gigaflop, "GFLOP", tuple(None if one is None else np.array(one) for one in shares))
    recipe = read_recipe(run)
    views = {key: recipe[key] for key in ("views", "views_grid", "views_overlap")}
    tiles = geometry_of(recipe["resize"], recipe["image_size"], **views).tiles
    return Stages((1, tiles), "views", (trained, trained))


class CascadeRows(NamedTuple):
    """The arguments of `decide` and `guaranteed` (in `calibrate_run`) for a cascade.

    Attributes:
        cascade: the fitted cascade, for `guaranteed` and for `calibration.json`.
        fit, control: rows with the composite logits.
        trained: for `decide`: class shares to which the composite logits belong; None: those of the rows.
    """

    cascade: Cascade
    fit: SavedLogits
    control: SavedLogits
    trained: np.ndarray | None


def cascade_rows(
    fit: SavedLogits,
    control: SavedLogits,
    options: DecisionOptions,
    names: Sequence[str],
    positive: int,
    trained: Sequence[np.ndarray | None] = (None, None),
    *,
    cost: Sequence[float],
    cost_in: str = "views",
) -> CascadeRows:
    """Calibrate both stages, choose which photos leave early, and answer the rows with the cascade.

    Args:
        fit, control: the parts of val_calib, with the logits of both stages.
        options: the `views_exit`, the calibrators of the stages, and whether abstention is guaranteed too.
        names: class names.
        positive: id of the positive class.
        trained: class shares `(classes,)` to which the logits of each stage belong; None: those of the rows.
        cost: cost of the first stage, and what the second adds; `cost_in` is the unit.

    Raises:
        UserError: as `fit_cascade`.
    """
    counts = np.bincount(fit.label, minlength=len(names))
    offsets = [offset_to(counts / counts.sum(), shares, options.calibrator) for shares in trained]
    cascade = fit_cascade(
        stage_rows(fit),
        stage_rows(control),
        exit_of(options),
        alpha=options.views_exit_alpha,
        delta=options.views_exit_delta,
        calibrators=options.calibrator,
        positive=positive,
        class_names=names,
        offsets=offsets,
        other_promise=options.risk != "none",
        cost=cost,
        cost_in=cost_in,
        fitted_on="val_calib/control",
    )
    stages = TwoStages.from_document(cascade, positive)
    held = None if np.any(offsets) else trained[1]
    return CascadeRows(cascade, answered(fit, stages), answered(control, stages), held)


def stage_rows(rows: SavedLogits) -> StageRows:
    """The logits of both stages: of the whole photo and of all its views, or of two models."""
    return StageRows(rows.whole, rows.logits, rows.label, rows.group)
