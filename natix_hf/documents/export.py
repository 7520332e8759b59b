"""`export.json`, the description of an export, and `proof.json`, the proof that its outputs are those of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Classes, Count, Fingerprint, Positive, Some
from natix_hf.documents.quantised import Quantised

ExportFormat = Annotated[str, Field(min_length=1)]  # one of `modeling.exports.FORMS`
Precision = Literal["fp32", "bf16", "int8"]
ImageSize = Some | Annotated[list[Some], Field(min_length=2, max_length=2)]  # side of a square, or height and width


def size_text(image_size: int | Sequence[int], tiles: Sequence[int] | None = None) -> str:
    """An `image_size` as text, height x width. `tiles` are rows and columns of the tiles besides the whole photo."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size = f"{height} x {width} pixels"
    return size if tiles is None else f"{size}, once as a whole and once for each of {tiles[0]} x {tiles[1]} tiles"


class Export(Document):
    """What an export contains and what its clients need.

    Attributes:
        dtype: type of the stored weights; int8 means that the backbone also computes in int8.
        labels: class names in the order of their ids.
        image_size: height and width in pixels; one number is the side of a square.
        tiles: rows and columns of the tiles that the model sees besides the whole photo; absent without tiles.
        calibrated_at: image size of head and calibration if it differs from `image_size`.
        parameters: parameters of the whole model, base included.
        bytes: total size of all files except this one and `proof.json`.
        model: fingerprint of the run's merged weights in fp32.
        opset: ONNX opset of a graph.
        needs: packages that a client needs.
        quantised: for a graph in int8.
    """

    file_name: ClassVar[str] = "export.json"

    format: ExportFormat
    dtype: Precision
    labels: Classes
    image_size: ImageSize
    resize: Literal["squash", "crop"]
    tiles: Annotated[list[Some], Field(min_length=2, max_length=2)] | None = None
    calibrated_at: ImageSize | None = None
    parameters: Some
    bytes: Some
    model: Fingerprint
    opset: int | None
    needs: Annotated[list[str], Field(min_length=1)]
    made_with: dict[str, str]
    quantised: Quantised | None = None


class ProofPhotos(Part):
    source: Literal["val_select", "given", "generated scenes"]
    n: Some
    fingerprint: Fingerprint  # of the files' bytes


class SameDecisions(Part):
    same: Count
    of: Some


class AskedClient(Part):
    """A client that classified the photos, and its speed.

    Attributes:
        class_: class of the model, or the library that ran the graph.
        photos_per_second: on the CPU, with reading and preprocessing.
        photos_per_cpu_second: per second of CPU time over all threads, which depends little on other load.
    """

    client: str
    class_: Annotated[str, Field(alias="class")]
    versions: dict[str, str]
    import_seconds: Amount
    load_seconds: Amount
    photos_per_second: Positive
    photos_per_cpu_second: Positive


class ProvenClient(AskedClient):
    """How much a client's outputs differ from the run's.

    For an int8 graph, only its outputs in the same process are compared with the run; clients are compared with those.

    Attributes:
        pixels, logits, probabilities: largest absolute difference.
    """

    pixels: Amount
    logits: Amount
    probabilities: Amount
    decisions: SameDecisions


class Proof(Document):
    """Proof that an export gives the same outputs as its run for the same photos, with each client's differences.

    Attributes:
        model: fingerprint of the run's merged weights.
        pushed: whether clients loaded the model from the Hub or from a folder.
        labels: class names, the same in every client.
        tolerance: largest allowed differences; for an int8 graph between clients only, because it differs from its run
            (see `quantised`).
    """

    file_name: ClassVar[str] = "proof.json"

    format: ExportFormat
    dtype: Precision
    model: Fingerprint
    pushed: bool
    photos: ProofPhotos
    labels: Classes
    tolerance: dict[str, Positive]
    clients: Annotated[list[ProvenClient], Field(min_length=1)]
    time: str
    quantised: Quantised | None = None
