"""An exported graph with the call, configuration and outputs of a transformers classifier.

The export form provides the session that runs the graph.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutput

from natix_hf.errors import UserError, one_line
from natix_hf.files import read_json
from natix_hf.modeling.exports import FORMS, ExportForm

GRAPHS = {name: form for name, form in FORMS.items() if form.graph is not None}


def graph_form(folder: Path) -> str | None:
    """Name of the export form of the graph in a folder; None if there is no graph."""
    return next((name for name, form in GRAPHS.items() if (folder / form.graph).is_file()), None)


class GraphClassifier(nn.Module):
    """A graph and its `labels.json`; `config` holds the labels and, as in our class, `decision`.

    Args:
        folder: folder of an export.
        form: name of its form.

    Raises:
        UserError: the runtime for the graph is not installed, or a file is missing.
    """

    def __init__(self, folder: str | Path, form: str) -> None:
        super().__init__()
        kind: type[ExportForm] = GRAPHS[form]
        self.folder, self.graph = Path(folder), kind.graph
        path = self.folder / kind.graph
        if not (self.folder / "labels.json").is_file():
            raise UserError(f"{folder}: no labels.json beside {kind.graph}: export the run again with --format {form}")
        labels = read_json(self.folder / "labels.json")
        decision = self.folder / "decision.json"
        decision = read_json(decision) if decision.is_file() else None
        self.config = PreTrainedConfig(id2label=dict(enumerate(labels)), decision=decision)
        try:
            self.session = kind.session(str(folder))
        except ImportError:
            raise UserError(f"{folder}: {kind.without}") from None
        except Exception as error:  # runtimes raise their own classes, derived from Exception
            raise UserError(f"{path}: {kind.reader} cannot read this graph: {one_line(error)}") from None

    def fingerprint(self) -> str:
        """The blake2b-128 of the graph's files."""
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(self.folder.glob(f"{self.graph}*")):
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits `(batch, classes)` of normalised photos `(batch, 3, H, W)`."""
        logits = self.session(pixel_values.float().cpu().numpy())
        return ImageClassifierOutput(logits=torch.from_numpy(logits))
