"""Export format `stock`: a class of transformers, without our code (`modeling/stock.py` converts the model)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from natix_hf.modeling.exports.export_form import PIPELINE, FinishedModel, write_processor
from natix_hf.modeling.exports.stored_weights import StoredWeights

USAGE = f"""\
With transformers (4.56 or newer), torch (2.6 or newer) and timm (1.0.22 or newer; with transformers 5: 1.0.31 or
newer), without our code:

{PIPELINE.format(imports="", options="")}
The model by itself:

```python
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.image_utils import load_image

model = AutoModelForImageClassification.from_pretrained("MODEL_ID").eval()
processor = AutoImageProcessor.from_pretrained("MODEL_ID")
with torch.inference_mode():
    logits = model(**processor(images=load_image("street.jpg"), return_tensors="pt")).logits
print(dict(zip(model.config.id2label.values(), logits.softmax(-1)[0].tolist())))
```
"""


@dataclass(frozen=True)
class Stock(StoredWeights):
    summary: ClassVar[str] = "a class of transformers, without our code"
    needs: ClassVar[tuple[str, ...]] = (
        "transformers>=4.56",
        "torch>=2.6",
        "timm>=1.0.22, with transformers 5 timm>=1.0.31",
    )
    holds: ClassVar[dict[str, tuple]] = {
        "pooling": ("cls", "mean"),
        "feature_layers": (1,),
        "head": ("linear",),
        "views": ("whole",),
    }
    usage: ClassVar[str] = USAGE

    def write(self, finished: FinishedModel, folder: Path) -> None:
        from natix_hf.modeling.stock import stock_model

        stock = stock_model(finished.model)
        self.store(stock, stock.timm_model.head, folder)
        write_processor(finished.processor, folder)
