"""Test-time views: a photo is also shown mirrored or at other sizes, and the logits are averaged.

An average is less certain than a single view, so a calibration belongs to the views that it was fitted with; they
stand in `decision` of the model's config. What is averaged are calibrated logits, which for temperature and bias is
the same as calibrating the average.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from natix_hf.decision.calibration import DecisionRule
from natix_hf.errors import UserError
from natix_hf.inference.batches import PhotoBatch, photo_batches
from natix_hf.inference.cascade_classifier import CascadeClassifier, StageProcessors
from natix_hf.inference.graph_classifier import GraphClassifier
from natix_hf.inference.photo_size import at_size, patch_size
from natix_hf.photos.geometry import Geometry

SCALES = (0.75, 1.25)  # of height and width, rounded to whole patches


def asked_views(name: str, rule: DecisionRule | None, tta: Sequence[str] | None) -> tuple[tuple[str, ...], str | None]:
    """The views that a model is to be asked with.

    Args:
        name: of the model, for messages.
        rule: `decision` of its config.
        tta: names of `view_options.TEST_VIEWS`; None where the user did not say.

    Returns:
        The views beside the photo itself, and a line on why the probabilities do not hold; None where they do.

    Raises:
        UserError: the calibration belongs to views, and the user did not say.
    """
    fitted = tuple((rule or {}).get("views", ()))
    if tta is None and fitted:
        raise UserError(
            f"{name}: its calibration was fitted on averages over views: add --tta {','.join(fitted)}, or --tta none "
            "to predict without them, uncalibrated"
        )
    views = tuple(tta or ())
    if views == fitted:
        return views, None
    if not views:
        return views, f"--tta none: the calibration was fitted with --tta {','.join(fitted)} and does not hold"
    typed = ",".join(views)
    return views, (
        f"--tta {typed}: the calibration was not fitted on such averages and does not hold: natix_hf.recalibrate "
        f"{name} --tta {typed} --output FOLDER fits one"
    )


def check_views(model: Any, views: Sequence[str]) -> None:
    """Raise `UserError` where a model cannot be shown photos in these views."""
    if views and isinstance(model, CascadeClassifier):
        raise UserError(
            f"--tta {','.join(views)}: photos leave this cascade early by what its first model says of one view, and "
            "an average over views has no band: leave --tta out, or give one of its two runs"
        )
    if views and getattr(model.config, "views_exit", None):
        raise UserError(
            f"--tta {','.join(views)}: photos leave this model early by what their own whole view says, and an "
            "average over views has no band: leave --tta out, or take the exits off with natix_hf.calibrate RUN "
            "--views_exit none"
        )
    if "scales" in views and isinstance(model, GraphClassifier):
        raise UserError(
            "--tta scales: an exported graph sees photos at one size: leave scales out, or give the run or its merged "
            "export"
        )


def view_batches(
    model: Any, processor: Any, photos: Sequence[Any], views: Sequence[str], **speed: int
) -> Iterator[tuple[PhotoBatch, list[Tensor]]]:
    """Batches of photos with the pixels of all their views, those of the photo itself first.

    Args:
        model: which will see them.
        processor: of the photo itself; of a cascade those of both models, whose pixels come in their order.
        photos: what `client_pixels` takes, by index.
        views: names of `view_options.TEST_VIEWS`.
        speed: `batch_size` and `num_workers` of `photo_batches`.
    """
    processors = list(processor) if isinstance(processor, StageProcessors) else [processor]
    if "scales" in views:
        geometry, patch = Geometry.of(processor), patch_size(model)
        for scale in SCALES:
            size = [max(1, round(scale * side / patch)) * patch for side in geometry.shape[-2:]]
            processors.append(at_size(processor, geometry.at(size)))
    for batch in photo_batches(photos, *processors, **speed):
        pixels = [batch.pixels, *batch.beside]
        yield batch, pixels + [one.flip(-1) for one in pixels if "flip" in views]
