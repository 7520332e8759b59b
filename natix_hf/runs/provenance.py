"""When something was made, and with which versions."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version

from natix_hf import __version__

PACKAGES = ("torch", "torchvision", "transformers", "peft", "accelerate", "datasets")


def now() -> str:
    """The time, as documents hold it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"natix_hf": __version__, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
