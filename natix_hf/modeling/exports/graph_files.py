"""What forms that are graphs have in common: what the graph is made of, and what lies beside it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from natix_hf.files import write_json, write_text
from natix_hf.modeling.exports.export_form import FinishedModel, labels_of, write_processor


class LogitsAlone(nn.Module):
    """A model with one tensor in and one out: `(n, [views,] 3, H, W)` to `(n, classes)`.

    A graph looks at all views of every photo. Where photos may leave early it answers like the model, and saves
    nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        model.early_exits = False

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


class FeaturesAlone(nn.Module):
    """What the head of a model reads, from one tensor: `(n, [views,] 3, H, W)` to `(n, [views,] feature_size)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.extract_features(pixel_values)


def write_beside_graph(finished: FinishedModel, folder: Path) -> None:
    """`labels.json`, `decision.json` where the model has a rule, and the image processor.

    Where the graph sees tiles, that processor is of no class that transformers brings: `views.py` stands in for it.
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
