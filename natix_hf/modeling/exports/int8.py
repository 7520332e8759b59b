"""A backbone in int8 with a head in fp32, as one ONNX graph: static quantisation by onnxruntime.

The matrices of the backbone's linear layers are rounded to 8 bits, with a scale for each output channel. So are the
activations that are multiplied with them, whose ranges come from photos. Norms, softmax, the products of attention,
the patch embedding and all sums stay in fp32. So does the head, which is calibrated after the backbone was rounded.
docs/quick_answers.md has the figures behind these choices. The caller chooses the photos, and judges what the graph
decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.errors import UserError
from natix_hf.modeling.exports.graph_files import FeaturesAlone
from natix_hf.modeling.exports.onnx import INSTALL, ONE_FILE, OPSET, Onnx, session, write_graph

LAYERS = ("MatMul", "Gemm")


def quantised_backbone(model: Any, shape: tuple[int, ...], batches: Iterable[np.ndarray], folder: Path) -> None:
    """Write `model.onnx`, the graph from `pixel_values` to what the head reads.

    It takes `(n, [views,] 3, H, W)` and gives `features` `(n, [views,] feature_size)`.

    Args:
        model: merged, in eval mode and float32.
        shape: `([views,] 3, H, W)` of what a photo becomes.
        batches: `(b, [views,] 3, H, W)` float32 of the photos that give the ranges of activations.
        folder: to write it in.

    Raises:
        UserError: the packages that quantise are missing.
    """
    try:
        import onnxruntime.quantization  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError(f"--dtype int8 needs onnx, onnxscript and onnxruntime: {INSTALL}") from None
    with tempfile.TemporaryDirectory(prefix="natix_hf-int8-") as work:
        whole = Path(work) / "fp32.onnx"
        write_graph(FeaturesAlone(model), whole, "pixel_values", shape, "features")
        round_graph(whole, batches, folder / Onnx.graph)


def round_graph(whole: Path, batches: Iterable[np.ndarray], path: Path) -> None:
    """Write a graph in fp32 as one in int8.

    Args:
        whole: that `write_graph` wrote; it is marked as prepared.
        batches: as in `quantised_backbone`.
        path: ends in `.onnx`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch}

    made = onnx.load(str(whole), load_external_data=False)
    # Folded and with shapes, as torch's exporter leaves it: onnxruntime need not advise to do that first.
    made.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    onnx.save(made, str(whole))
    weights = {tensor.name for tensor in made.graph.initializer}
    quantize_static(
        whole,
        path,
        Photos(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(LAYERS),
        nodes_to_quantize=[n.name for n in made.graph.node if n.op_type in LAYERS and n.input[1] in weights],
        use_external_data_format=sum(file.stat().st_size for file in whole.parent.glob(f"{whole.name}*")) > ONE_FILE,
        # What a layer gives is not rounded: it goes into a sum, a norm or a softmax, which are fp32.
        extra_options={"OpTypesToExcludeOutputQuantization": list(LAYERS)},
    )


def logits_by(backbone: Path) -> Callable[[Any, Any], np.ndarray]:
    """As `batches.logits_of`, with features from the graph in a folder that `quantised_backbone` filled."""
    import torch

    features_of = session(str(backbone))

    @torch.inference_mode()
    def logits(model: Any, pixel_values: torch.Tensor) -> np.ndarray:
        return model.head(torch.from_numpy(features_of(pixel_values.numpy()))).numpy()

    return logits


def add_head(model: Any, backbone: Path, path: Path) -> int:
    """Write the whole graph: the backbone in int8, then the head of the model with its calibration in fp32.

    Args:
        model: calibrated for what `logits_by` gives.
        backbone: the folder that `quantised_backbone` filled.
        path: ends in `.onnx`.

    Returns:
        The version of ONNX's operators.
    """
    import onnx
    from onnx.compose import add_prefix, merge_models

    first = onnx.load(str(backbone / Onnx.graph))
    with tempfile.TemporaryDirectory(prefix="natix_hf-int8-") as work:
        shape = tuple(entry.dim_value for entry in first.graph.output[0].type.tensor_type.shape.dim)[1:]
        write_graph(model.head, Path(work) / "head.onnx", "features", shape, "logits")
        head = onnx.load(str(Path(work) / "head.onnx"))
    head = add_prefix(head, "head/", rename_inputs=False, rename_outputs=False)
    head.graph.input[0].name = "head/features"
    for node in head.graph.node:
        node.input[:] = ["head/features" if name == "features" else name for name in node.input]
    head.ir_version = first.ir_version
    onnx.save(merge_models(first, head, io_map=[("features", "head/features")]), str(path))
    return OPSET
