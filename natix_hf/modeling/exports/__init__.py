"""The formats in which a finished run is exported, one file each.

To add a format, add a file with an `ExportForm` (its attributes are described in `export_form.py`) and a line here.
Help, refusals, the model card, the verification and the loading of models use this dict.
"""

from natix_hf.modeling.exports.adapter import Adapter
from natix_hf.modeling.exports.export_form import ExportForm
from natix_hf.modeling.exports.merged import Merged
from natix_hf.modeling.exports.onnx import Onnx
from natix_hf.modeling.exports.stock import Stock

FORMS: dict[str, type[ExportForm]] = {"merged": Merged, "adapter": Adapter, "stock": Stock, "onnx": Onnx}
