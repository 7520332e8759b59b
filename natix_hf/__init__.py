"""Fine-tune DINOv3 to classify street photos: locked splits, calibrated probabilities, models that just load.

Importing the package registers its model with transformers' Auto classes and imports nothing heavy itself; the names
below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from natix_hf.modeling.registration import register_with_transformers

__version__ = "0.1.0"

_PUBLIC = {
    "load_photos": "natix_hf.data.load_photos",
    "load_model": "natix_hf.inference.load_model",
    "NatixTrainer": "natix_hf.training.trainer",
    "train_run": "natix_hf.runs.train_run",
    "finish_run": "natix_hf.runs.finish_run",
    "NatixTrainingArguments": "natix_hf.training.training_arguments",
    "NatixDinov3Config": "natix_hf.modeling.configuration_natix_dinov3",
    "NatixDinov3ForImageClassification": "natix_hf.modeling.modeling_natix_dinov3",
    "LeakageError": "natix_hf.errors",
    "UserError": "natix_hf.errors",
}
__all__ = ["__version__", *_PUBLIC]

register_with_transformers()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'natix_hf' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
