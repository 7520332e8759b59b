"""Logits of a finished model before calibration, so that a new calibration can be fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from natix_hf.decision.calibration import Calibration
from natix_hf.errors import UserError
from natix_hf.inference.averaged_views import view_batches
from natix_hf.inference.batches import logits_of
from natix_hf.modeling.packed_linear import packed_linears


def uncalibrated_logits(
    model: Any,
    processor: Any,
    photos: Sequence[Any],
    calibration: Calibration,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    views: Sequence[str] = (),
    answer: Callable[[Any, Tensor], np.ndarray] = logits_of,
) -> np.ndarray:
    """Logits `(n, classes)` float64, computed like a client does; for a cascade the combined logits of its stages.

    Args:
        model: in eval mode. The calibration of our class is removed from the model; that of other classes is undone
            on the logits.
        photos: readable photos as `client_pixels` takes them.
        calibration: the calibration of the model.
        views: test-time views to average over, see `averaged_views`.
        answer: from model and pixels to logits; `logits_by_stage` gives `(n, 2, classes)`.

    Raises:
        UserError: a photo is no longer readable, or the calibration cannot be undone.
    """
    ours = model.config.model_type == "natix_dinov3"
    if not ours and calibration.isotonic is not None:
        raise UserError("an isotonic calibration cannot be undone in this form: give the run or its merged export")
    if ours:
        model.set_calibration(1.0, 0.0, views_exit=model.config.views_exit)
    parts = []
    with packed_linears(model), tqdm(total=len(photos), desc="logits", unit="photo") as progress:
        speed = {"batch_size": batch_size, "num_workers": num_workers}
        for batch, pixels in view_batches(model, processor, photos, views, **speed):
            if batch.broken:
                number, reason = batch.broken[0]
                raise UserError(f"photo {number}: {reason}: it could be read before: start again")
            parts.append(np.mean([answer(model, view).astype(np.float64) for view in pixels], axis=0))
            progress.update(len(batch.indices))
    logits = np.concatenate(parts)
    return logits if ours else (logits - calibration.logit_bias) * calibration.temperature
