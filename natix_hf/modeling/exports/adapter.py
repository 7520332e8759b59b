"""Export format `adapter` of a LoRA run: adapter and head, without the base (see `adapter_folder.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from natix_hf.modeling.exports.export_form import REMOTE_CODE, WITH_PACKAGE, ExportForm, FinishedModel
from natix_hf.options import option

NO_BASE = "holds all weights and needs no base: leave it out, or use --format adapter"


@dataclass(frozen=True)
class Adapter(ExportForm):
    base_output: str | Path | None = option(
        None, "adapter: also write its base to this folder, as a checkpoint of our class"
    )
    base_id: str | None = option(None, "adapter: Hub id under which clients find the base")

    summary: ClassVar[str] = "adapter and head alone"
    needs: ClassVar[tuple[str, ...]] = (
        "transformers>=5.23",
        "torch>=2.6",
        "peft",
        "natix_hf, or trust_remote_code=True and a base of our class",
    )
    elsewhere: ClassVar[dict[str, str]] = {"base_output": NO_BASE, "base_id": NO_BASE}
    holds: ClassVar[dict[str, tuple]] = {"method": ("lora",)}
    own_code: ClassVar[bool] = True
    on_base: ClassVar[bool] = True
    library: ClassVar[str] = "peft"
    usage: ClassVar[str] = (
        "This repository holds the adapter and the head; the base is downloaded too. With the package (and peft):\n\n"
        f"{WITH_PACKAGE}\nWithout the package, if the base is a checkpoint of our class, with the code "
        f"beside the adapter (transformers 5 or newer):\n\n{REMOTE_CODE}"
    )

    def write(self, finished: FinishedModel, folder: Path) -> None:
        from natix_hf.modeling.exports.adapter_folder import write_adapter

        write_adapter(finished, folder, base_id=self.base_id, base_output=self.base_output)
