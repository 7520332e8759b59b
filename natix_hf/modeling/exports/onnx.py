"""Export format `onnx`: a graph from pixels `(batch, [views,] 3, H, W)` to calibrated logits, by torch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.modeling.exports.export_form import DTYPE_HELP, ExportForm, FinishedModel
from natix_hf.options import option

OPSET = 20  # of ONNX 1.15 (2023), has GELU as one operator; supported by onnxruntime since 1.17
ONE_FILE = 1_800_000_000  # bytes; protobuf messages are limited to 2 GiB, larger weights go into a second file
INSTALL = "pip install 'natix_hf[onnx]'"
USAGE = """\
With onnxruntime, without our code:

```python
import json

import numpy as np
import onnxruntime
from huggingface_hub import snapshot_download
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

folder = snapshot_download("MODEL_ID")
processor = AutoImageProcessor.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
labels = json.load(open(f"{folder}/labels.json"))
pixels = np.asarray(processor(images=load_image("street.jpg"), return_tensors="np")["pixel_values"], dtype=np.float32)
logits = session.run(["logits"], {"pixel_values": pixels})[0][0].astype(np.float64)
scores = np.exp(logits - logits.max())
print(dict(zip(labels, (scores / scores.sum()).tolist())))
```
"""
TILES_USAGE = """\
With onnxruntime and, of our code, only `views.py`, which cuts a photo into its tiles with numpy and Pillow:

```python
import json
import sys

import numpy as np
import onnxruntime
from huggingface_hub import snapshot_download
from PIL import Image

folder = snapshot_download("MODEL_ID")
sys.path.insert(0, folder)
from views import pixel_values

session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
labels = json.load(open(f"{folder}/labels.json"))
logits = session.run(["logits"], {"pixel_values": pixel_values(Image.open("street.jpg"))})[0][0].astype(np.float64)
scores = np.exp(logits - logits.max())
print(dict(zip(labels, (scores / scores.sum()).tolist())))
```
"""


def session(folder: str) -> Callable:
    """A function from pixels to logits; see `ExportForm.session`."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    graph = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda pixels: graph.run(None, {"pixel_values": pixels})[0]


@dataclass(frozen=True)
class Onnx(ExportForm):
    dtype: str = option("fp32", DTYPE_HELP)
    max_changed: float = option(0.02, "int8: highest share of val_select that may be decided differently from fp32")

    elsewhere: ClassVar[dict[str, str]] = {
        "max_changed": "decides as its run does: leave it out",
    }
    summary: ClassVar[str] = "a graph for onnxruntime"
    needs: ClassVar[tuple[str, ...]] = ("onnxruntime>=1.17",)
    library: ClassVar[str] = "onnx"
    usage: ClassVar[str] = USAGE
    tiles_usage: ClassVar[str] = TILES_USAGE
    graph: ClassVar[str] = "model.onnx"
    session: ClassVar[Callable] = staticmethod(session)
    reader: ClassVar[str] = "onnxruntime"
    without: ClassVar[str] = f"an ONNX model needs onnxruntime: {INSTALL}"

    def __post_init__(self) -> None:
        if self.dtype not in ("fp32", "int8"):
            raise UserError(f"--dtype: expected fp32 or int8 with --format onnx, found {self.dtype}")
        if not 0 <= self.max_changed < 1:
            raise UserError(f"--max_changed: expected a share from 0 to below 1, found {self.max_changed:g}")
        if self.dtype == "fp32" and self.max_changed != Onnx.max_changed:
            raise UserError("--max_changed belongs to --dtype int8: leave it out, or add --dtype int8")

    def write(self, finished: FinishedModel, folder: Path) -> int:
        from natix_hf.modeling.exports.graph_files import write_beside_graph

        if self.dtype == "int8":
            raise UserError("--dtype int8 needs photos of the run: use natix-hf export")
        opset = export_onnx(finished.model, folder / self.graph, finished.geometry.input_shape)
        write_beside_graph(finished, folder)
        return opset


def export_onnx(model: Any, path: Path, shape: tuple[int, ...]) -> int:
    """Write the graph with float32 weights; weights over 1.8 GB go into `<path>.data`.

    Args:
        model: merged, calibrated, in eval mode and float32.
        path: output file, ends in `.onnx`.
        shape: `([views,] 3, H, W)` of a prepared photo; the graph takes any batch size.

    Returns:
        The version of ONNX's operators (opset).

    Raises:
        UserError: the exporter's packages are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError(f"--format onnx needs onnx, onnxscript and onnxruntime: {INSTALL}") from None
    from natix_hf.modeling.exports.graph_files import LogitsAlone

    return write_graph(LogitsAlone(model), path, "pixel_values", shape, "logits")


def write_graph(module: Any, path: Path, takes: str, shape: tuple[int, ...], gives: str) -> int:
    """Write a module with one input and one output as a graph; weights over 1.8 GB go into `<path>.data`.

    Args:
        module: in float32.
        path: output file, ends in `.onnx`.
        takes, gives: names of input and output; `takes` must be the name of the argument of `forward`.
        shape: shape of the input without the batch dimension; the graph takes any batch size.

    Returns:
        The version of ONNX's operators (opset).
    """
    import onnx
    import torch

    size = sum(p.numel() * p.element_size() for p in module.parameters())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2, *shape),),
            str(path),
            dynamo=True,
            input_names=[takes],
            output_names=[gives],
            dynamic_shapes={takes: {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            external_data=size > ONE_FILE,
            verbose=False,
        )
    onnx_model = onnx.load(str(path), load_external_data=False)
    for node in onnx_model.graph.node:
        del node.metadata_props[:]  # source lines with their paths on this machine
    onnx.save(onnx_model, str(path))
    return next(entry.version for entry in onnx_model.opset_import if entry.domain in ("", "ai.onnx"))
