"""What every form of export says of itself.

A form is a dataclass whose fields are its options of `natix_hf.export`, in a file of its own, and stands in
`exports.FORMS`. These files import at their top nothing that takes time, since the help of commands reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from natix_hf.errors import UserError
from natix_hf.files import read_json, write_json

PIPELINE = """\
```python
from transformers import pipeline
{imports}
classify = pipeline("image-classification", model="MODEL_ID"{options})
print(classify("street.jpg"))
```
"""
DTYPE_HELP = "fp32; merged and stock: bf16, how weights are stored; onnx: int8, for quick answers on CPUs"
WITH_PACKAGE = PIPELINE.format(imports="import natix_hf  # registers the model class\n", options="")
REMOTE_CODE = PIPELINE.format(imports="", options=", trust_remote_code=True")


class FinishedModel(NamedTuple):
    """A run to be exported: its folder, the merged and calibrated model, the image processor and the geometry."""

    run: Path
    model: Any
    processor: Any
    geometry: Any


def labels_of(model: Any) -> list[str]:
    """The classes of a model in the order of their ids."""
    return [model.config.id2label[i] for i in range(model.config.num_labels)]


@dataclass(frozen=True)
class ExportForm:
    """One form of export; what it declares holds for transformers' `pipeline` unless it says otherwise."""

    told: ClassVar[str]  # what the help of `--format` says of it
    needs: ClassVar[tuple[str, ...]]  # what a client installs beside torchvision, for the image processor
    usage: ClassVar[str]  # the card's section on how to use it, where MODEL_ID stands for the repository
    tiles_usage: ClassVar[str | None] = None  # the same of a model that sees tiles, where it differs
    elsewhere: ClassVar[dict[str, str]] = {}  # option -> what another form that has no such option is told
    holds: ClassVar[dict[str, tuple]] = {}  # key of the recipe -> the values that it can hold; others: all
    own_code: ClassVar[bool] = False  # a client without natix_hf loads it with trust_remote_code
    on_base: ClassVar[bool] = False  # the weights of its base lie elsewhere
    library: ClassVar[str] = "transformers"  # the Hub's name of what loads it

    # A form that is no class of transformers: the file that holds it, and the function that answers from its folder.
    # The function takes a folder and returns what makes logits `(n, classes)` of pixels `(n, [views,] 3, H, W)`, both
    # float32 arrays. A client without natix_hf runs its source, so it imports what it needs itself.
    graph: ClassVar[str | None] = None
    session: ClassVar[Callable[[str], Callable] | None] = None
    reader: ClassVar[str] = ""  # what reads the graph
    without: ClassVar[str] = ""  # what is said where that is missing

    def write(self, finished: FinishedModel, folder: Path) -> int | None:
        """Fill a folder; returns the version of a graph's operators, where they have one."""
        raise NotImplementedError


def chosen_form(forms: dict[str, type[ExportForm]], name: str, **options: Any) -> ExportForm:
    """A form with its options.

    Args:
        forms: all of them.
        options: of any form; an option that another form has may only be at its default.

    Raises:
        UserError: an unknown form, or an option that is not its own.
    """
    if name not in forms:
        raise UserError(f"--format {name}: one of {', '.join(forms)} expected")
    own = {field.name for field in fields(forms[name])}
    for form in forms.values():
        for field in fields(form):
            value = options.get(field.name, field.default)
            if field.name not in own and value != field.default:
                raise UserError(f"--{field.name} {value}: --format {name} {form.elsewhere[field.name]}")
    return forms[name](**{key: value for key, value in options.items() if key in own})


def write_processor(processor: Any, folder: Path) -> None:
    """`preprocessor_config.json` under the one class name that transformers 4.56 and 5 both know."""
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    write_json(path, read_json(path) | {"image_processor_type": "DINOv3ViTImageProcessorFast"})
