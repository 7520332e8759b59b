"""Options of the export formats that store all weights as safetensors, and the function that stores them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.modeling.exports.export_form import DTYPE_HELP, ExportForm
from natix_hf.options import option

MAX_SHARD_SIZE = "5GB"
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}  # torch's names


@dataclass(frozen=True)
class StoredWeights(ExportForm):
    dtype: str = option("fp32", DTYPE_HELP)
    max_shard_size: str = option(MAX_SHARD_SIZE, "weights are cut into files of at most this size")

    elsewhere: ClassVar[dict[str, str]] = {
        "dtype": "is written in fp32: leave it out (int8 goes with onnx)",
        "max_shard_size": "does not cut its weights into files: leave it out",
    }

    def __post_init__(self) -> None:
        if self.dtype == "int8":
            raise UserError(
                "--dtype int8: torch loads int8 weights only with extra code, and a plain pipeline has none: "
                "use --format onnx"
            )
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype: expected one of {', '.join(DTYPES)}; found {self.dtype}")

    def store(self, model: Any, head: Any, folder: Path) -> None:
        """`save_pretrained` with weights in `dtype` and the head in fp32; the configuration still says fp32.

        Raises:
            UserError: `max_shard_size` is not a valid size.
        """
        import torch

        state = model.state_dict()
        if self.dtype != "fp32":
            stored = getattr(torch, DTYPES[self.dtype])
            in_head = {id(tensor) for tensor in (*head.parameters(), *head.buffers())}
            in_head = {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in in_head}
            state = {name: tensor if name in in_head else tensor.to(stored) for name, tensor in state.items()}
        size = self.max_shard_size
        try:
            model.save_pretrained(folder, state_dict=state, max_shard_size=size)
        except ValueError as error:
            raise UserError(
                f"--max_shard_size: expected a size such as 5GB or 500MB, found {size} ({error})"
            ) from None
