"""The input size of a finished model: the size of its training, or another one with `--force`.

DINOv3 takes any size. But a head gets worse at a larger size than it was trained at, because objects appear larger
than in training (Touvron et al., 2019, arXiv 1906.06423), and its calibration was fitted at the training size.
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
from natix_hf.photos.geometry import Geometry, image_size_of


def calibrated_size(name_or_path: str | Path) -> int | list[int] | None:
    """The `image_size` that a model's head and calibration were fitted at; None if its files do not say.

    Args:
        name_or_path: folder of a run, of a recalibrated copy or of an export, or the Hub id of an export.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        from transformers.utils import cached_file

        file = cached_file(str(name_or_path), "export.json", _raise_exceptions_for_missing_entries=False)
        if file is None:
            return None
        folder = Path(file).parent
    if Recalibration.there(folder) and (size := Recalibration.read(folder).image_size):
        return size
    if Export.there(folder):
        export = Export.read(folder)
        return export.calibrated_at or export.image_size
    return read_recipe(folder).get("image_size")


def at_size(processor: Any, geometry: Geometry) -> Any:
    """The same image processor with another geometry."""
    return type(processor).from_dict(processor.to_dict() | geometry.processor_settings())


def patch_size(model: Any) -> int:
    """Side of a patch in pixels, for our class and for the stock class."""
    if model.config.model_type == "natix_dinov3":
        return model.config.backbone_config.patch_size
    return model.timm_model.patch_embed.patch_size[0]


def processor_at(
    name: str, model: Any, processor: Any, image_size: Sequence[int] | None = None, *, force: bool = False
) -> tuple[Any, str | None]:
    """The image processor for a requested size.

    Args:
        name: name of the model, as in `calibrated_size`.
        model, processor: as loaded.
        image_size: height and width in pixels; one number for a square, None for the size saved with the model.
        force: allow a size that the model was not trained with.

    Returns:
        The processor, and one line if the calibration is not valid at this size, else None.

    Raises:
        UserError: the model was not trained with this size and `force` is not set, or it does not support the size.
    """
    if isinstance(model, CascadeClassifier):
        if image_size is not None:
            typed = " ".join(map(str, image_size))
            raise UserError(
                f"--image_size {typed}: {name} holds two models, and each has its own size: remove this option"
            )
        for stage, part, part_processor in zip(STAGES, (model.first, model.second), processor, strict=True):
            processor_at(f"{name}/{stage}", part, part_processor)
        return processor, None
    saved = Geometry.of(processor)
    trained = saved.at(calibrated_size(name) or saved.image_size)
    requested = saved if image_size is None else saved.at(image_size_of(image_size))
    if requested != trained and not force:
        if image_size is None:
            raise UserError(
                f"{name}: preprocessor_config.json says {saved}, but the model was trained with {trained}: restore "
                f"the file, or choose: --image_size {_typed(trained)}, or --image_size {_typed(saved)} --force"
            )
        raise UserError(
            f"--image_size {_typed(requested)}: {name} was trained with {trained}: a head gets worse at a larger size "
            "than it was trained at, and its calibration was fitted at that size: train with this --image_size, or "
            "add --force"
        )
    if requested == saved:
        chosen = processor
    elif isinstance(model, GraphClassifier):
        raise UserError(
            f"--image_size {_typed(requested)}: {name} is a graph for {saved}: export the run again with this "
            "--image_size"
        )
    else:
        requested.check_patches(patch_size(model))
        chosen = at_size(processor, requested)
    if requested == trained:
        return chosen, None
    return chosen, (
        f"photos are prepared at {requested}, but the model was trained with {trained}: its calibration is not valid "
        "here"
    )


def _typed(geometry: Geometry) -> str:
    size = geometry.image_size
    return str(size) if isinstance(size, int) else " ".join(map(str, size))
