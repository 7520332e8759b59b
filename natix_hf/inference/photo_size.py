"""The size at which a finished model sees photos: that of its training or, if a user insists, another one.

DINOv3 takes any size, but a head that was trained at one and is used at a larger one gets worse, since objects come
larger than those that it learnt from (Touvron et al., 2019, 1906.06423), and its calibration was fitted at the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from natix_hf.documents.cascade import STAGES
from natix_hf.documents.export import Export
from natix_hf.documents.recalibration import Recalibration
from natix_hf.errors import UserError
from natix_hf.files import read_recipe
from natix_hf.inference.cascade_classifier import CascadeClassifier
from natix_hf.inference.graph_classifier import GraphClassifier
from natix_hf.photos.geometry import Geometry
from natix_hf.photos.image_size import image_size_of


def calibrated_size(name_or_path: str | Path) -> int | list[int] | None:
    """The `image_size` that a model's head and calibration belong to; None where its files do not say it.

    Args:
        name_or_path: of a run, a recalibrated copy of one or an export; of the latter also a Hub id.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        from transformers.utils import cached_file

        about = cached_file(str(name_or_path), "export.json", _raise_exceptions_for_missing_entries=False)
        if about is None:
            return None
        folder = Path(about).parent
    if Recalibration.there(folder) and (size := Recalibration.read(folder).image_size):
        return size
    if Export.there(folder):
        about = Export.read(folder)
        return about.calibrated_at or about.image_size
    return read_recipe(folder).get("image_size")


def at_size(processor: Any, geometry: Geometry) -> Any:
    """The same image processor for photos of another geometry."""
    return type(processor).from_dict(processor.to_dict() | geometry.processor_settings())


def patch_size(model: Any) -> int:
    """Pixels of a side of a patch, of our class and of the stock one."""
    if model.config.model_type == "natix_dinov3":
        return model.config.backbone_config.patch_size
    return model.timm_model.patch_embed.patch_size[0]


def processor_at(
    name: str, model: Any, processor: Any, image_size: Sequence[int] | None = None, *, force: bool = False
) -> tuple[Any, str | None]:
    """The image processor for the size that is asked for.

    Args:
        name: of the model, as in `calibrated_size`.
        model, processor: as they were loaded.
        image_size: height and width in pixels; one number is a square, None the size that is saved with the model.
        force: take a size that the model was not trained with.

    Returns:
        The processor, and a line on why the probabilities do not hold at its size; None where they do.

    Raises:
        UserError: a size that the model was not trained with, without force, or that it cannot have.
    """
    if isinstance(model, CascadeClassifier):
        if image_size is not None:
            typed = " ".join(map(str, image_size))
            raise UserError(
                f"--image_size {typed}: {name} holds two models, and each has a size of its own: leave it out"
            )
        for stage, one, seen in zip(STAGES, (model.first, model.second), processor, strict=True):
            processor_at(f"{name}/{stage}", one, seen)
        return processor, None
    saved = Geometry.of(processor)
    trained = saved.at(calibrated_size(name) or saved.image_size)
    asked = saved if image_size is None else saved.at(image_size_of(image_size))
    if asked != trained and not force:
        if image_size is None:
            raise UserError(
                f"{name}: preprocessor_config.json says {saved}, and the model was trained with {trained}: bring the "
                f"file back, or say which: --image_size {_typed(trained)}, or --image_size {_typed(saved)} --force"
            )
        raise UserError(
            f"--image_size {_typed(asked)}: {name} was trained with {trained}: a head that is used at a larger size "
            "than it was trained at gets worse, and its calibration was fitted at that size: train with this "
            "--image_size, or add --force"
        )
    if asked == saved:
        found = processor
    elif isinstance(model, GraphClassifier):
        raise UserError(
            f"--image_size {_typed(asked)}: {name} holds a graph for {saved}: export the run again with this "
            "--image_size"
        )
    else:
        asked.check_patches(patch_size(model))
        found = at_size(processor, asked)
    if asked == trained:
        return found, None
    return found, f"photos are seen at {asked}, the model was trained with {trained}: its calibration does not hold"


def _typed(geometry: Geometry) -> str:
    size = geometry.image_size
    return str(size) if isinstance(size, int) else " ".join(map(str, size))
