"""What forms that are graphs have in common: what the graph is made of, and what lies beside it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from natix_hf.files import write_json
from natix_hf.modeling.exports.export_form import FinishedModel, labels_of, write_processor


class LogitsAlone(nn.Module):
    """A model with one tensor in and one out: `(n, 3, H, W)` to `(n, classes)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


def write_beside_graph(finished: FinishedModel, folder: Path) -> None:
    """`labels.json`, `decision.json` where the model has a rule, and the image processor."""
    write_json(folder / "labels.json", labels_of(finished.model))
    if finished.model.config.decision is not None:
        write_json(folder / "decision.json", finished.model.config.decision)
    write_processor(finished.processor, folder)
