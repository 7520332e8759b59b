"""Shared by the graph formats: the modules that are exported as graphs, and the files beside a graph."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from natix_hf.files import write_json, write_text
from natix_hf.modeling.exports.export_form import FinishedModel, labels_of, write_processor


class LogitsAlone(nn.Module):
    """Pixels `(n, [views,] 3, H, W)` to logits `(n, classes)`: a model with one input and one output tensor.

    A graph computes all views of every photo. For a model with early exits it gives the same answers but saves no
    time.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        model.early_exits = False

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


class FeaturesAlone(nn.Module):
    """Pixels `(n, [views,] 3, H, W)` to the features `(n, [views,] feature_size)` that the head takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.extract_features(pixel_values)


def write_beside_graph(finished: FinishedModel, folder: Path) -> None:
    """Write `labels.json`, `decision.json` if the model has a decision rule, and the image processor.

    The image processor for tiles is not a class of transformers, so a graph with tiles also gets `views.py`, which
    prepares photos in the same way.
    """
    write_json(folder / "labels.json", labels_of(finished.model))
    if finished.model.config.decision is not None:
        write_json(folder / "decision.json", finished.model.config.decision)
    if finished.model.config.views is None:
        write_processor(finished.processor, folder)
        return
    from natix_hf.modeling.exports.views_script import views_script

    finished.processor.save_pretrained(folder)
    write_text(folder / "views.py", views_script())
