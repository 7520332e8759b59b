"""Our classifier as an ONNX graph: photos `(batch, 3, H, W)` to calibrated logits, by torch's own exporter.

Knows our model and ONNX; what reads the graph is in `inference/onnx_model.py`.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from natix_hf.errors import UserError
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

OPSET = 20  # of ONNX 1.15 (2023), with GELU as one operator; onnxruntime has it since 1.17
NEEDS = "--format onnx needs onnx, onnxscript and onnxruntime: pip install 'natix_hf[onnx]'"
ONE_FILE = 1_800_000_000  # bytes; a protobuf message ends at 2 GiB, what is larger lies in a second file


class _Logits(nn.Module):
    """The model with one tensor in and one out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


def export_onnx(model: NatixDinov3ForImageClassification, path: Path, shape: tuple[int, int, int]) -> int:
    """Write the graph, float32 weights inside; over 1.8 GB they lie in `<path>.data` beside it.

    Args:
        model: merged, calibrated, in eval mode and float32.
        path: ends in `.onnx`.
        shape: `(3, H, W)` of what a photo becomes; the size of the batch is left open.

    Returns:
        The version of ONNX's operators (opset) that the graph is written in.

    Raises:
        UserError: the exporter's packages are missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError(NEEDS) from None
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    photos = torch.zeros(2, *shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model).eval(),
            (photos,),
            str(path),
            dynamo=True,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            external_data=size > ONE_FILE,
            verbose=False,
        )
    opsets = onnx.load(str(path), load_external_data=False).opset_import
    return next(entry.version for entry in opsets if entry.domain in ("", "ai.onnx"))
