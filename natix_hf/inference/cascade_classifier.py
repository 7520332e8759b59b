"""Two finished models as one classifier: the second model sees only photos that the first is not certain about."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from natix_hf.decision.calibration import Calibration, decision_rule
from natix_hf.decision.cascade import TwoStages
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.inference.batches import logits_of


class StageProcessors(NamedTuple):
    """The image processors of both models, which may differ in size and in tiles."""

    first: Any
    second: Any


class Answers(NamedTuple):
    """Calibrated logits `(b, classes)` and the stage that gave each, `(b,)`: 1 or 2."""

    logits: Tensor
    stage: Tensor


class CascadeClassifier(nn.Module):
    """A cascade of two models; `config` holds labels and, as in our class, `decision` and the band in `views_exit`.

    Args:
        first, second: models of our class; their own calibration is removed.
        calibration: calibration of the cascade: the band, both stages, and the combined answers.
    """

    def __init__(self, first: nn.Module, second: nn.Module, calibration: CalibrationFile) -> None:
        super().__init__()
        self.first, self.second = first, second
        for model in (first, second):
            model.set_calibration(1.0)
        band = calibration.cascade.exit
        self.stages = TwoStages.from_document(calibration.cascade, calibration.positive)
        self.calibration, self.cost = Calibration.from_document(calibration), band.cost
        self.config = PreTrainedConfig(
            id2label=dict(second.config.id2label),
            decision=decision_rule(calibration),
            views_exit={"low": band.low, "high": band.high, "positive": calibration.positive},
        )

    @property
    def device(self) -> torch.device:
        return self.first.device

    def forward(self, first_pixels: Tensor, second_pixels: Tensor) -> Answers:
        """The answers of the cascade; the second model sees only photos that do not leave early.

        Args:
            first_pixels, second_pixels: the same photos, prepared by the image processor of each model, `(b, ..., H,
                W)`.
        """
        early = logits_of(self.first, first_pixels)
        stays = ~self.stages.leaves_early(early)
        full = np.zeros_like(early)
        if stays.any():
            full[stays] = logits_of(self.second, second_pixels[torch.from_numpy(stays).to(second_pixels.device)])
        composite = self.stages.composite(early, full)
        return Answers(*map(torch.from_numpy, (self.calibration.served(composite.logits), composite.stage)))


def dearest(model: Any, processor: Any) -> tuple[Any, Any]:
    """The model that takes the most time and memory, and its image processor: in a cascade the second one."""
    return (model.second, processor.second) if isinstance(model, CascadeClassifier) else (model, processor)
