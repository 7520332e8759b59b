"""Checks that a classifier gets the views of a photo that it was trained for."""

from __future__ import annotations

from typing import Any

from natix_hf.errors import UserError
from natix_hf.modeling.checkpoints import views_text
from natix_hf.photos.geometry import Geometry


def check_same_views(views: dict[str, Any] | None, processor: Any) -> None:
    """Raise `UserError` if an image processor makes other views than the model was trained for.

    Args:
        views: `views` of the model's configuration.
    """
    trained, made = 0 if views is None else views["tiles"], Geometry.of(processor).shape[0] - 1
    if trained != made:
        raise UserError(
            f"the model was trained on {views_text(views)}, but its image processor makes {made or 'no'} tiles: copy "
            "preprocessor_config.json from the run of these weights, or train for tiles (--views tiles)"
        )
