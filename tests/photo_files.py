"""A photo as the bytes of its file."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file that Pillow writes; `options` are those of its `save`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
