"""Export format `merged`: all weights in our model class, with the code of that class beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from natix_hf.modeling.exports.export_form import REMOTE_CODE, WITH_PACKAGE, FinishedModel
from natix_hf.modeling.exports.stored_weights import StoredWeights


@dataclass(frozen=True)
class Merged(StoredWeights):
    summary: ClassVar[str] = "all weights and our code"
    needs: ClassVar[tuple[str, ...]] = ("transformers>=5.23", "torch>=2.6", "natix_hf, or trust_remote_code=True")
    own_code: ClassVar[bool] = True
    usage: ClassVar[str] = (
        f"{WITH_PACKAGE}\nWithout the package, with the code beside the weights (transformers 5 or newer):"
        f"\n\n{REMOTE_CODE}"
    )

    def write(self, finished: FinishedModel, folder: Path) -> None:
        self.store(finished.model, finished.model.head, folder)
        finished.processor.save_pretrained(folder)
