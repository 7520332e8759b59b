"""`export.json`, what an exported folder holds, and `proof.json`, that it answers as its run does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Fingerprint, Positive, Some
from natix_hf.documents.quantised import Quantised

ExportFormat = Annotated[str, Field(min_length=1)]  # which there are, `modeling/exports` knows
Precision = Literal["fp32", "bf16", "int8"]
ImageSize = Some | Annotated[list[Some], Field(min_length=2, max_length=2)]  # of a square, or height and width


def size_text(image_size: int | Sequence[int], tiles: Sequence[int] | None = None) -> str:
    """An `image_size` for people, as height x width; `tiles` are rows and columns beside the whole photo."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size = f"{height} x {width} pixels"
    return size if tiles is None else f"{size}, the whole of each and {tiles[0]} x {tiles[1]} tiles of it"


class Export(Document):
    """What an exported folder holds and what its clients need.

    Attributes:
        dtype: how weights are stored; int8: the backbone's, and it computes in int8.
        labels: in the order of their ids.
        image_size: height and width in pixels; one number is a square.
        tiles: rows and columns of those that the model sees beside the whole photo; left out where it sees none.
        calibrated_at: the size that head and calibration belong to, where `image_size` is another one.
        parameters: of the whole model, base included.
        bytes: of all files but this one and `proof.json`.
        model: fingerprint of the run's merged weights in fp32.
        opset: of the ONNX graph.
        quantised: of a graph in int8.
    """

    file_name: ClassVar[str] = "export.json"

    format: ExportFormat
    dtype: Precision
    labels: Annotated[list[str], Field(min_length=2)]
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
    """A client that answered photos, and how fast.

    Attributes:
        class_: what answered there.
        photos_per_second: reading and preparing included, on the CPU.
        photos_per_cpu_second: by the processor's time over all threads, which other work changes little.
    """

    client: str
    class_: Annotated[str, Field(alias="class")]
    versions: dict[str, str]
    import_seconds: Amount
    load_seconds: Amount
    photos_per_second: Positive
    photos_per_cpu_second: Positive


class ProvenClient(AskedClient):
    """How far a client's answers are from the run's. Of an int8 graph the same process is compared with the run, and
    the others with the same process.

    Attributes:
        pixels, logits, probabilities: largest difference.
    """

    pixels: Amount
    logits: Amount
    probabilities: Amount
    decisions: SameDecisions


class Proof(Document):
    """That an export answers the same photos as its run does, and by how much it differs, client by client.

    Attributes:
        model: fingerprint of the run's merged weights.
        pushed: whether clients fetched it from the Hub; else from a folder.
        labels: the same in every client.
        tolerance: of an int8 graph that between clients; it answers otherwise than its run, and `quantised` says how.
    """

    file_name: ClassVar[str] = "proof.json"

    format: ExportFormat
    dtype: Precision
    model: Fingerprint
    pushed: bool
    photos: ProofPhotos
    labels: Annotated[list[str], Field(min_length=2)]
    tolerance: dict[str, Positive]
    clients: Annotated[list[ProvenClient], Field(min_length=1)]
    time: str
    quantised: Quantised | None = None
