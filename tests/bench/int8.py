"""What int8 brings on a CPU: photos a second and MB of S, B, L and H+ shapes, and what ways to round cost in accuracy.

    python tests/bench/int8.py --shapes S B L
    python tests/bench/int8.py --shapes S --openvino  # after pip install openvino nncf
    python tests/bench/int8.py --choices ../shared/backbones/dinov3-vits16-like --photos DIR

`--shapes`: random weights, 224 x 224, one thread; fp32 and bf16 in torch, fp32 and int8 in onnxruntime, all in one
process, one after the other in turns. Seconds are those of the processor, which other work on the machine changes
little. Decoding is left out. `--choices`: a backbone with useful features, rounded in several ways on photos of a
folder; the distance of its features from those in fp32, on other photos, in parts of their own spread. Not a test: it
takes minutes to hours.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from transformers import AutoImageProcessor, DINOv3ViTConfig, DINOv3ViTModel
from transformers.utils import logging

from natix_hf.inference.batches import client_pixels
from natix_hf.modeling.exports.int8 import LAYERS, round_graph
from natix_hf.modeling.exports.onnx import session, write_graph

GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
SHAPES = {
    "S": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "L": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "H+": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "intermediate_size": 5120,
        **GATED,
    },
}
AT_ONCE = (1, 4)


class Features(torch.nn.Module):
    """The normed CLS token of a backbone."""

    def __init__(self, backbone: DINOv3ViTModel) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.backbone(pixel_values).last_hidden_state[:, 0]


def through_torch(module: torch.nn.Module, dtype: torch.dtype) -> Callable:
    @torch.inference_mode()
    def answer(pixels: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(pixels).to(dtype)).float().numpy()

    return answer


def through_openvino(graph: Any, precision: str) -> Callable:
    """A graph in OpenVINO; `precision`, f32 or bf16, is what it computes in where the graph is not int8."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    return lambda pixels: request.infer({0: pixels})[0].copy()


def openvino_answers(work: Path, ranges: list[np.ndarray]) -> dict[str, Callable]:
    """The graphs of `work` in OpenVINO, and its own static rounding of the one in fp32 (NNCF)."""
    import nncf
    import openvino

    graphs = {kind: openvino.Core().read_model(work / kind / "model.onnx") for kind in ("fp32", "int8")}
    own = {"preset": nncf.QuantizationPreset.MIXED, "model_type": nncf.ModelType.TRANSFORMER}
    rounded = nncf.quantize(graphs["fp32"], nncf.Dataset(ranges), subset_size=len(ranges), **own)
    return {
        "fp32 OpenVINO": through_openvino(graphs["fp32"], "f32"),
        "bf16 OpenVINO": through_openvino(graphs["fp32"], "bf16"),
        "int8 OpenVINO": through_openvino(graphs["int8"], "f32"),
        "int8 OpenVINO, rounded by NNCF": through_openvino(rounded, "f32"),
    }


def photos_per_second(answers: dict[str, Callable], at_once: int, seconds: float, rounds: int = 3) -> dict[str, float]:
    """Photos by second of the processor, the median over rounds in which every one has its turn."""
    pixels = np.random.default_rng(0).standard_normal((at_once, 3, 224, 224), dtype=np.float32)
    found: dict[str, list[float]] = {name: [] for name in answers}
    for answer in answers.values():
        answer(pixels)
    for _ in range(rounds):
        for name, answer in answers.items():
            begin, passes = time.process_time(), 0
            while passes < 2 or time.process_time() - begin < seconds / rounds:
                answer(pixels)
                passes += 1
            found[name].append(passes * at_once / (time.process_time() - begin))
    return {name: float(np.median(values)) for name, values in found.items()}


def shape_rows(shape: str, seconds: float, bf16: bool, openvino: bool) -> list[str]:
    torch.manual_seed(0)
    module = Features(DINOv3ViTModel(DINOv3ViTConfig(num_register_tokens=4, **SHAPES[shape]))).eval()
    count = sum(parameter.numel() for parameter in module.parameters())
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for kind in ("fp32", "int8"):
            (work / kind).mkdir()
        write_graph(module, work / "fp32" / "model.onnx", "pixel_values", (3, 224, 224), "features")
        ranges = [np.random.default_rng(1).standard_normal((2, 3, 224, 224), dtype=np.float32)]
        round_graph(work / "fp32" / "model.onnx", ranges, work / "int8" / "model.onnx")
        sizes = {kind: sum(path.stat().st_size for path in (work / kind).iterdir()) / 1e6 for kind in ("fp32", "int8")}
        answers = {"fp32 torch": through_torch(module, torch.float32)}
        if bf16:
            half = Features(DINOv3ViTModel(module.backbone.config)).eval().bfloat16()
            answers["bf16 torch"] = through_torch(half, torch.bfloat16)
        answers |= {f"{kind} onnxruntime": session(str(work / kind)) for kind in ("fp32", "int8")}
        mb = {"fp32 torch": count * 4 / 1e6, "bf16 torch": count * 2 / 1e6}
        mb |= {f"{kind} onnxruntime": size for kind, size in sizes.items()}
        if openvino:
            answers |= openvino_answers(work, ranges)
        speeds = [photos_per_second(answers, at_once, seconds) for at_once in AT_ONCE]
    first = [speed["fp32 torch"] for speed in speeds]
    return [
        f"| {shape} | {name} | {f'{mb[name]:.0f}' if name in mb else '-'} | "
        + " | ".join(
            f"{speed[name]:.2f} ({speed[name] / base:.2f})" for speed, base in zip(speeds, first, strict=True)
        )
        + " |"
        for name in answers
    ]


class Photos(CalibrationDataReader):
    def __init__(self, pixels: np.ndarray) -> None:
        self.batches = iter([{"pixel_values": one[None]} for one in pixels])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def choice_rows(backbone: Path, folder: Path, seconds: float) -> None:
    """Print a line for each way to round a backbone."""
    module = Features(DINOv3ViTModel.from_pretrained(backbone, dtype=torch.float32)).eval()
    processor = AutoImageProcessor.from_pretrained(backbone)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    shown = [paths[i] for i in np.linspace(0, len(paths) - 1, 64).astype(int)]
    pixels = np.stack([client_pixels(str(path), processor).numpy() for path in shown])
    ranges, judged = pixels[::2], pixels[1::2]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        whole = work / "model.onnx"
        write_graph(module, whole, "pixel_values", (3, 224, 224), "features")
        expected = np.concatenate([session(name)(judged[i : i + 8]) for i in range(0, len(judged), 8)])
        spread = np.sqrt(((expected - expected.mean(axis=0)) ** 2).mean())
        graph = onnx.load(str(whole)).graph
        weights = {tensor.name for tensor in graph.initializer}
        layers = [node for node in graph.node if node.op_type in LAYERS and node.input[1] in weights]
        linear = [node.name for node in layers]
        other = {
            "attention": [n.name for n in graph.node if n.op_type == "MatMul" and n.name not in linear],
            "patches": [n.name for n in graph.node if n.op_type == "Conv"],
        }
        after_gelu = {output for node in graph.node if node.op_type == "Gelu" for output in node.output}
        least = [node.name for node in layers if node.input[0] not in after_gelu]
        static = {
            "static, MinMax, U8S8 (taken)": {},
            "the same, one scale a matrix": {"per_channel": False},
            "the same, 7 bits of weights": {"reduce_range": True},
            "the same, S8S8": {"activation_type": QuantType.QInt8},
            "the same, patch embedding too": {"nodes_to_quantize": linear + other["patches"]},
            "the same, attention's products too": {"nodes_to_quantize": linear + other["attention"]},
            "the same, down_proj in fp32": {"nodes_to_quantize": least},
            "static, Percentile 99.999": {"calibrate_method": CalibrationMethod.Percentile},
            "static, Entropy": {"calibrate_method": CalibrationMethod.Entropy},
        }
        (work / "out").mkdir()
        path = work / "out" / "model.onnx"
        for told, changes in {"dynamic": None, **static}.items():
            if changes is None:
                quantize_dynamic(
                    whole, path, op_types_to_quantize=["MatMul"], per_channel=True, nodes_to_quantize=linear
                )
            else:
                given = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
                given |= {"op_types_to_quantize": [*LAYERS, "Conv"], "nodes_to_quantize": linear} | changes
                # Histograms keep all activations of all photos: a few photos have to do.
                few = ranges[::4] if "calibrate_method" in changes else ranges
                extra = {"OpTypesToExcludeOutputQuantization": [*LAYERS, "Conv"], "CalibPercentile": 99.999}
                quantize_static(whole, path, Photos(few), **given, extra_options=extra)
            answer = session(str(path.parent))
            found = np.concatenate([answer(judged[i : i + 8]) for i in range(0, len(judged), 8)])
            distance = np.sqrt(((found - expected) ** 2).mean()) / spread
            speeds = [photos_per_second({"": answer}, at_once, seconds)[""] for at_once in AT_ONCE]
            size = path.stat().st_size / 1e6
            print(f"| {told} | {distance:.3f} | {size:.1f} | {speeds[0]:.1f} | {speeds[1]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="*", default=[], choices=[*SHAPES])
    parser.add_argument("--choices", type=Path, help="folder of a backbone")
    parser.add_argument("--photos", type=Path, help="folder of photos for --choices")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the processor, for each figure")
    parser.add_argument("--openvino", action="store_true", help="--shapes in OpenVINO too")
    parser.add_argument("--no_bf16", action="store_true", help="for processors that have no bf16 of their own")
    given = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if given.shapes:
        print("| shape | computes in | MB | one photo at a time | four at a time |\n| --- | --- | --- | --- | --- |")
    for shape in given.shapes:
        print("\n".join(shape_rows(shape, given.seconds, not given.no_bf16, given.openvino)), flush=True)
    if given.choices:
        print("| rounded | distance | MB | one photo at a time | four at a time |\n| --- | --- | --- | --- | --- |")
        choice_rows(given.choices, given.photos, given.seconds)


if __name__ == "__main__":
    main()
