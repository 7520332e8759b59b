"""Static quantisation with onnxruntime: a backbone in int8 and a head in fp32 as one ONNX graph.

The weight matrices of the backbone's linear layers are rounded to 8 bits, with one scale per output channel. The
inputs of these layers are rounded too; their ranges are measured on photos. Norms, softmax, the products of attention,
the patch embedding and all sums stay in fp32. The head also stays in fp32 and is calibrated after the backbone was
rounded. docs/quick_answers.md has the figures behind these choices. The caller chooses the photos and checks the
decisions of the graph.
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
    """Write `model.onnx`, a graph from pixels to the input of the head.

    The graph maps `pixel_values` `(n, [views,] 3, H, W)` to `features` `(n, [views,] feature_size)`.

    Args:
        model: merged, in eval mode and float32.
        shape: `([views,] 3, H, W)` of a prepared photo.
        batches: `(b, [views,] 3, H, W)` float32, photos on which the ranges of activations are measured.
        folder: where the graph is written.

    Raises:
        UserError: the packages for quantisation are not installed.
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
    """Write the int8 version of a graph in fp32.

    Args:
        whole: the fp32 graph from `write_graph`; its file is changed (marked as pre-processed).
        batches: as in `quantised_backbone`.
        path: output file, ends in `.onnx`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch}

    onnx_model = onnx.load(str(whole), load_external_data=False)
    # torch's exporter has already folded constants and inferred shapes; this mark keeps onnxruntime from advising it.
    onnx_model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    onnx.save(onnx_model, str(whole))
    weights = {tensor.name for tensor in onnx_model.graph.initializer}
    quantize_static(
        whole,
        path,
        Photos(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(LAYERS),
        nodes_to_quantize=[n.name for n in onnx_model.graph.node if n.op_type in LAYERS and n.input[1] in weights],
        use_external_data_format=sum(file.stat().st_size for file in whole.parent.glob(f"{whole.name}*")) > ONE_FILE,
        # The output of a layer is not rounded, because it goes into a sum, a norm or a softmax in fp32.
        extra_options={"OpTypesToExcludeOutputQuantization": list(LAYERS)},
    )


def logits_by(backbone: Path) -> Callable[[Any, Any], np.ndarray]:
    """A function like `batches.logits_of` that takes features from the graph of `quantised_backbone`.

    Args:
        backbone: folder that `quantised_backbone` wrote to.
    """
    import torch

    features_of = session(str(backbone))

    @torch.inference_mode()
    def logits(model: Any, pixel_values: torch.Tensor) -> np.ndarray:
        return model.head(torch.from_numpy(features_of(pixel_values.numpy()))).numpy()

    return logits


def add_head(model: Any, backbone: Path, path: Path) -> int:
    """Write the complete graph: the backbone in int8, then the head with its calibration in fp32.

    Args:
        model: calibrated on the logits of `logits_by`.
        backbone: folder that `quantised_backbone` wrote to.
        path: output file, ends in `.onnx`.

    Returns:
        The version of ONNX's operators (opset).
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
