"""Test-time augmentation: logits are averaged over a photo, its mirror image and other sizes.

An average is less confident than a single view, so a calibration is valid only for the views that it was fitted with.
`decision` of the model's config names them. The calibrated logits are averaged; for a temperature and a bias this
equals calibrating the average.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from natix_hf.decision.calibration import DecisionRule
from natix_hf.decision.exit_options import without_exits
from natix_hf.errors import UserError
from natix_hf.inference.batches import PhotoBatch, photo_batches
from natix_hf.inference.cascade_classifier import CascadeClassifier, StageProcessors
from natix_hf.inference.graph_classifier import GraphClassifier
from natix_hf.inference.photo_size import at_size, patch_size
from natix_hf.photos.geometry import Geometry

SCALES = (0.75, 1.25)  # factors on height and width; sizes are rounded to whole patches


def asked_views(name: str, rule: DecisionRule | None, tta: Sequence[str] | None) -> tuple[tuple[str, ...], str | None]:
    """The test-time views to use with a model.

    Args:
        name: name of the model, for messages.
        rule: `decision` of its config.
        tta: names from `view_options.TEST_VIEWS`, or None if the user gave no `--tta`.

    Returns:
        The views besides the photo itself, and one line if the calibration was not fitted with these views, else None.

    Raises:
        UserError: the calibration was fitted with views and the user gave no `--tta`.
    """
    fitted = tuple((rule or {}).get("views", ()))
    if tta is None and fitted:
        raise UserError(
            f"{name}: its calibration was fitted on logits averaged over views: add --tta {','.join(fitted)}, or "
            "--tta none to predict without them, uncalibrated"
        )
    views = tuple(tta or ())
    if views == fitted:
        return views, None
    if not views:
        return views, f"--tta none: the calibration was fitted with --tta {','.join(fitted)} and is not valid here"
    typed = ",".join(views)
    return views, (
        f"--tta {typed}: the calibration was not fitted with these views and is not valid here: fit one with "
        f"natix_hf.recalibrate {name} --tta {typed} --output FOLDER"
    )


def check_views(model: Any, views: Sequence[str]) -> None:
    """Raise `UserError` if a model does not support these views."""
    if views and isinstance(model, CascadeClassifier):
        raise UserError(
            f"--tta {','.join(views)}: the band of this cascade was fitted on one view of a photo and does not apply "
            "to an average over views: remove --tta, or give one of its two runs"
        )
    if views and getattr(model.config, "views_exit", None):
        raise UserError(
            f"--tta {','.join(views)}: the band of this model's early exits was fitted on one view of a photo and "
            f"does not apply to an average over views: remove --tta, or {without_exits('RUN')}"
        )
    if "scales" in views and isinstance(model, GraphClassifier):
        raise UserError(
            "--tta scales: an exported graph takes photos of one size only: remove scales, or give the run or its "
            "merged export"
        )


def view_batches(
    model: Any, processor: Any, photos: Sequence[Any], views: Sequence[str], **speed: int
) -> Iterator[tuple[PhotoBatch, list[Tensor]]]:
    """Batches of photos with the pixels of all their views, the photo itself first.

    Args:
        model: the model that will get the pixels.
        processor: image processor; for a cascade those of both models, and pixels come in that order.
        photos: photos as `client_pixels` takes them.
        views: names from `view_options.TEST_VIEWS`.
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
        yield batch, pixels + [view.flip(-1) for view in pixels if "flip" in views]
