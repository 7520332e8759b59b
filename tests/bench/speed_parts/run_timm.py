"""Runs timm's training script with everything but the classifier frozen; nothing else is changed.

PYTHONPATH=pytorch-image-models python run_timm.py pytorch-image-models/train.py --data-dir ... (its own arguments)
"""

import runpy
import sys
from typing import Any

import timm.models

create = timm.models.create_model


def frozen(*args: Any, **kwargs: Any) -> Any:
    model = create(*args, **kwargs)
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    return model


if __name__ == "__main__":
    timm.models.create_model = frozen
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
