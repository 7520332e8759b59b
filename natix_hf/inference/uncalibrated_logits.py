"""Logits of a finished model as they were before its calibration, so that another one can be fitted."""

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
    """`(n, classes)` float64, computed on the client's path; of a cascade the logits that its two stages agree on.

    Args:
        model: in eval mode. One of our class loses its calibration; of another one it is taken out of the logits.
        photos: what `client_pixels` takes, readable ones.
        calibration: what the model's own logits went through; what has none went through nothing.
        views: beside the photo itself, over which logits are averaged, see `averaged_views`.
        answer: what a model says of pixels; `logits_by_stage` gives `(n, 2, classes)`.

    Raises:
        UserError: a photo that could be read a moment ago no longer can, or steps that cannot be taken out.
    """
    ours = model.config.model_type == "natix_dinov3"
    if not ours and calibration.isotonic is not None:
        raise UserError("isotonic calibration cannot be taken out of this form: give the run or its merged export")
    if ours:
        model.set_calibration(1.0, 0.0, views_exit=model.config.views_exit)
    parts = []
    with packed_linears(model), tqdm(total=len(photos), desc="logits", unit="photo") as progress:
        speed = {"batch_size": batch_size, "num_workers": num_workers}
        for batch, pixels in view_batches(model, processor, photos, views, **speed):
            if batch.broken:
                number, reason = batch.broken[0]
                raise UserError(f"photo {number}: {reason}: it could be read before; start again")
            parts.append(np.mean([answer(model, one).astype(np.float64) for one in pixels], axis=0))
            progress.update(len(batch.indices))
    logits = np.concatenate(parts)
    return logits if ours else (logits - calibration.logit_bias) * calibration.temperature
