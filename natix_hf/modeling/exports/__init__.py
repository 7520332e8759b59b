"""The forms in which a finished run is exported, one file each.

A new form is a file with an `ExportForm` (`export_form.py` says what it declares) and its line here. Help, refusals,
the card, the proof and whatever loads a model ask this dict.
"""

from natix_hf.modeling.exports.adapter import Adapter
from natix_hf.modeling.exports.export_form import ExportForm
from natix_hf.modeling.exports.merged import Merged
from natix_hf.modeling.exports.onnx import Onnx
from natix_hf.modeling.exports.stock import Stock

FORMS: dict[str, type[ExportForm]] = {"merged": Merged, "adapter": Adapter, "stock": Stock, "onnx": Onnx}
