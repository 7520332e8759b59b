"""An exported ONNX folder as a model: the same call, configuration and outputs as a transformers classifier has.

Runs the graph with onnxruntime on the CPU. Knows the files of `--format onnx` and nothing of how they were made.
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

GRAPH = "model.onnx"


class OnnxClassifier(nn.Module):
    """`model.onnx` with `labels.json` beside it; `config` holds the labels and, as in our class, `decision`.

    Raises:
        UserError: onnxruntime is missing, or the folder is not whole.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{folder}: an ONNX model needs onnxruntime: pip install 'natix_hf[onnx]'") from None
        folder = Path(folder)
        if not (folder / "labels.json").is_file():
            raise UserError(f"{folder}: no labels.json beside {GRAPH}: export the run again with --format onnx")
        labels = read_json(folder / "labels.json")
        self.folder = folder
        decision = read_json(folder / "decision.json") if (folder / "decision.json").is_file() else None
        self.config = PreTrainedConfig(id2label=dict(enumerate(labels)), decision=decision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own that derive from Exception
            raise UserError(f"{folder / GRAPH}: not a graph that onnxruntime reads: {one_line(error)}") from None

    def fingerprint(self) -> str:
        """The blake2b-128 of the graph's files."""
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(self.folder.glob(f"{GRAPH}*")):
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits `(batch, classes)` of normalised photos `(batch, 3, side, side)`."""
        logits = self.session.run(["logits"], {"pixel_values": pixel_values.float().cpu().numpy()})[0]
        return ImageClassifierOutput(logits=torch.from_numpy(logits))
