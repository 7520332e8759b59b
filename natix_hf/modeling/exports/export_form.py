"""The base class of export formats.

A format is a dataclass in its own file, listed in `exports.FORMS`. Its fields are the options of `natix_hf.export` for
this format. These files import nothing slow at the top, because the help of commands loads them.
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
    """A run to export: its folder, the merged and calibrated model, the image processor and the geometry."""

    run: Path
    model: Any
    processor: Any
    geometry: Any


def labels_of(model: Any) -> list[str]:
    """The classes of a model in the order of their ids."""
    return [model.config.id2label[i] for i in range(model.config.num_labels)]


@dataclass(frozen=True)
class ExportForm:
    """One export format; the defaults describe a model that transformers' `pipeline` loads."""

    summary: ClassVar[str]  # description in the help of `--format`
    needs: ClassVar[tuple[str, ...]]  # packages that a client installs, in addition to torchvision
    usage: ClassVar[str]  # section of the model card on usage; MODEL_ID is replaced by the repository
    tiles_usage: ClassVar[str | None] = None  # the same section for a model with tiles, if it differs
    elsewhere: ClassVar[dict[str, str]] = {}  # option -> end of the error message for formats without this option
    holds: ClassVar[dict[str, tuple]] = {}  # recipe key -> values that the format supports; keys not listed: all
    own_code: ClassVar[bool] = False  # a client without natix_hf loads it with trust_remote_code
    on_base: ClassVar[bool] = False  # the weights of the base are stored elsewhere
    library: ClassVar[str] = "transformers"  # the Hub's name for the library that loads it

    # For graphs, which are not classes of transformers: the file of the graph, and a function that takes the folder of
    # an export and returns a function from pixels `(n, [views,] 3, H, W)` to logits `(n, classes)`, both float32
    # arrays. A client without natix_hf runs the function's source, so it contains its own imports.
    graph: ClassVar[str | None] = None
    session: ClassVar[Callable[[str], Callable] | None] = None
    reader: ClassVar[str] = ""  # package that reads the graph
    without: ClassVar[str] = ""  # error message if that package is missing

    def write(self, finished: FinishedModel, folder: Path) -> int | None:
        """Write the export to a folder; returns the operator version (opset) of a graph, else None."""
        raise NotImplementedError


def chosen_form(forms: dict[str, type[ExportForm]], name: str, **options: Any) -> ExportForm:
    """The export format of this name with its options.

    Args:
        forms: all formats by name.
        options: options of any format; those that this format lacks must have their default values.

    Raises:
        UserError: the format is unknown, or an option belongs to another format.
    """
    if name not in forms:
        raise UserError(f"--format: expected one of {', '.join(forms)}; found {name}")
    accepted = {field.name for field in fields(forms[name])}
    for form in forms.values():
        for field in fields(form):
            value = options.get(field.name, field.default)
            if field.name not in accepted and value != field.default:
                why = form.elsewhere.get(field.name, "has no such option: leave it out")
                raise UserError(f"--{field.name} {value}: --format {name} {why}")
    return forms[name](**{key: value for key, value in options.items() if key in accepted})


def write_processor(processor: Any, folder: Path) -> None:
    """`preprocessor_config.json` under the one class name that transformers 4.56 and 5 both know."""
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    write_json(path, read_json(path) | {"image_processor_type": "DINOv3ViTImageProcessorFast"})
