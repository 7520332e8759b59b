"""From photos to batches to logits: the path shared by selection, calibration, test and `predict`.

A photo is decoded and prepared exactly as in `pipeline("image-classification")` (`photos.decode.open_photo`, then the
image processor), so that a client gets the same scores. `photos.client_view` finds the photos that a client's pipeline
reads differently. Training has a faster path (`training/training_photos.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from natix_hf.errors import PhotoError
from natix_hf.photos.decode import client_photo, open_photo


def client_pixels(source: Any, processor: Any) -> torch.Tensor:
    """`(3, H, W)` float32 pixel values of one photo, as a client's pipeline computes them.

    Args:
        source: a path, bytes, a `{"bytes", "path"}` record of `datasets`, or a PIL image.

    Raises:
        PhotoError: the photo cannot be read.
    """
    return pixels_of(open_photo(source), processor)


def pixels_of(photo: Image.Image, processor: Any) -> torch.Tensor:
    """`(3, H, W)` float32 pixel values of an RGB photo, as a client's image processor computes them."""
    return processor(images=photo, return_tensors="pt")["pixel_values"][0]


class Normalised:
    """Turns uint8 pixels `(..., 3, H, W)` into float32, rescaled and normalised like an image processor does."""

    def __init__(self, processor: Any) -> None:
        self.mean = torch.tensor(processor.image_mean)[:, None, None]
        self.std = torch.tensor(processor.image_std)[:, None, None]
        self.rescale = processor.rescale_factor

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels * self.rescale - self.mean) / self.std


class Example(TypedDict, total=False):
    """A labelled row before collation: one of the three inputs that a model takes, and its label.

    Attributes:
        pixel_values: `(3, H, W)`, float32 from the image processor, or uint8 if the collator normalises them.
        features: `(dim,)` features of a frozen network.
        prefix_states: `(tokens, hidden)` float32, activations below the trained blocks.
        labels: the class id.
        seed: seed of a training view, for random draws in the collator.
    """

    pixel_values: torch.Tensor
    features: torch.Tensor
    prefix_states: torch.Tensor
    labels: int
    seed: int


class ClientPhotos(Dataset):
    """Labelled rows, prepared like a client does: item `i` is `{"pixel_values": (3, H, W), "labels": int}`."""

    def __init__(self, rows: Any, processor: Any) -> None:
        self.rows, self.processor = rows, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        return {"pixel_values": client_pixels(row["image"], self.processor), "labels": row["label"]}


class Attempt(NamedTuple):
    """One unlabelled photo: its pixels `(3, H, W)` from each image processor, or the reason why it is unreadable.

    `client` is the note of `decode.client_photo`.
    """

    index: int
    pixels: list[torch.Tensor] | None
    reason: str | None
    client: str = ""


class PhotoBatch(NamedTuple):
    """A batch of readable photos, and the unreadable ones found while it was read.

    Attributes:
        indices: indices of the readable photos.
        pixels: their pixels, `(b, 3, H, W)`; empty if no photo is readable.
        broken: index and reason of each unreadable photo.
        client: for each readable photo how a client sees a different picture (`client_view.seen_otherwise`), or "".
        beside: pixels of the same photos from further image processors, one tensor each.
    """

    indices: list[int]
    pixels: torch.Tensor
    broken: list[tuple[int, str]]
    client: list[str]
    beside: list[torch.Tensor]


class _Attempts(Dataset):
    def __init__(self, photos: Sequence[Any], processors: Sequence[Any]) -> None:
        self.photos, self.processors = photos, processors

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Attempt:
        try:
            photo, client = client_photo(self.photos[index])
            return Attempt(index, [pixels_of(photo, processor) for processor in self.processors], None, client)
        except PhotoError as error:
            return Attempt(index, None, str(error))


def _batch(attempts: list[Attempt]) -> PhotoBatch:
    # Stacked in the worker: a batch then takes one piece of shared memory and one file descriptor, not one per photo.
    readable = [attempt for attempt in attempts if attempt.pixels is not None]
    pixels, *beside = (
        map(torch.stack, zip(*(attempt.pixels for attempt in readable))) if readable else [torch.empty(0)]
    )
    return PhotoBatch(
        [attempt.index for attempt in readable],
        pixels,
        [(attempt.index, attempt.reason) for attempt in attempts if attempt.pixels is None],
        [attempt.client for attempt in readable],
        beside,
    )


def worker_threads(_: int) -> None:
    # One thread per worker: the other cores are for the model and the other workers.
    torch.set_num_threads(1)


def photo_batches(
    photos: Sequence[Any], *processors: Any, batch_size: int = 16, num_workers: int = 0
) -> Iterator[PhotoBatch]:
    """Batches of photos in order; each lists the unreadable photos separately.

    Args:
        photos: photos as `client_pixels` takes them.
        processors: at least one image processor; each prepares every photo, which is decoded once.
        batch_size: photos per batch; unreadable photos make a batch smaller, down to empty.
    """
    yield from DataLoader(
        _Attempts(photos, processors),
        batch_size=batch_size,
        num_workers=num_workers,  # each worker reads at most two batches ahead
        collate_fn=_batch,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=worker_threads,
    )


@torch.inference_mode()
def logits_of(model: torch.nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    """Calibrated logits `(b, classes)` float32 of a batch; the model must be in eval mode."""
    device = next(model.parameters(), pixel_values).device  # an ONNX graph has no torch parameters
    return model(pixel_values=pixel_values.to(device, non_blocking=True)).logits.float().cpu().numpy()


class StagedLogits(NamedTuple):
    """Calibrated logits `(b, classes)` float32 and the stage of each, `(b,)`: 1 for the first alone, 2 for both."""

    logits: np.ndarray
    stage: np.ndarray


@torch.inference_mode()
def staged_logits_of(model: torch.nn.Module, *pixel_values: torch.Tensor) -> StagedLogits:
    """As `logits_of`, for a model with early exits; a cascade of two models takes pixels for each of them."""
    output = model(*(pixels.to(model.device, non_blocking=True) for pixels in pixel_values))
    return StagedLogits(output.logits.float().cpu().numpy(), output.stage.cpu().numpy())


@torch.inference_mode()
def logits_by_stage(model: torch.nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    """Logits `(b, 2, classes)` float32 of a model with tiles: from the whole photo alone, and from all views."""
    output = model(pixel_values=pixel_values.to(model.device, non_blocking=True), output_whole_logits=True)
    return torch.stack([output.whole_logits, output.logits], dim=1).float().cpu().numpy()
