"""Photos become batches, batches become logits: the one path that selection, calibration, test and `predict` share.

A photo is read and prepared exactly as `pipeline("image-classification")` does it (`photos.decode.open_photo`, then
the image processor), so that a score here is a score at a client; the photos that a client sees otherwise are
counted (`photos.client_view`). Training has a faster path of its own (`training/training_photos.py`).
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
    """uint8 pixels `(..., 3, H, W)` as float32, rescaled and normalised as an image processor does it."""

    def __init__(self, processor: Any) -> None:
        self.mean = torch.tensor(processor.image_mean)[:, None, None]
        self.std = torch.tensor(processor.image_std)[:, None, None]
        self.rescale = processor.rescale_factor

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels * self.rescale - self.mean) / self.std


class Example(TypedDict, total=False):
    """A labelled row before it is collated: one of the three things that a model takes, and what belongs to it.

    Attributes:
        pixel_values: `(3, H, W)`, float32 as the image processor makes them; uint8 where the collator has to do that.
        features: `(dim,)` of a frozen network.
        prefix_states: `(tokens, hidden)` float32, activations below the blocks that are trained.
        labels: the class id.
        seed: of a training view, all that a batch may draw from.
    """

    pixel_values: torch.Tensor
    features: torch.Tensor
    prefix_states: torch.Tensor
    labels: int
    seed: int


class ClientPhotos(Dataset):
    """Labelled rows on the client's path: item `i` is `{"pixel_values": (3, H, W), "labels": int}`."""

    def __init__(self, rows: Any, processor: Any) -> None:
        self.rows, self.processor = rows, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        return {"pixel_values": client_pixels(row["image"], self.processor), "labels": row["label"]}


class Attempt(NamedTuple):
    """One unlabelled photo: its pixels `(3, H, W)` by each image processor, or why it has none; `client` is that of
    `decode.client_photo`."""

    index: int
    pixels: list[torch.Tensor] | None
    reason: str | None
    client: str = ""


class PhotoBatch(NamedTuple):
    """Readable photos and, beside them, the unreadable ones met on the way.

    Attributes:
        indices: of the readable ones.
        pixels: theirs, `(b, 3, H, W)`; empty where there are none.
        broken: index and reason of each of the others.
        client: of each readable one, how a client sees another picture (`client_view.seen_otherwise`), else "".
        beside: pixels of the same photos by further image processors, one tensor each.
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
            return Attempt(index, [pixels_of(photo, one) for one in self.processors], None, client)
        except PhotoError as error:
            return Attempt(index, None, str(error))


def _batch(attempts: list[Attempt]) -> PhotoBatch:
    # In the worker: a batch is one piece of shared memory, not one (and a file descriptor) for each of its photos.
    good = [one for one in attempts if one.pixels is not None]
    pixels, *beside = map(torch.stack, zip(*(one.pixels for one in good))) if good else [torch.empty(0)]
    return PhotoBatch(
        [one.index for one in good],
        pixels,
        [(one.index, one.reason) for one in attempts if one.pixels is None],
        [one.client for one in good],
        beside,
    )


def worker_threads(_: int) -> None:
    # Each worker decodes with one thread: the cores belong to the model and to the other workers.
    torch.set_num_threads(1)


def photo_batches(
    photos: Sequence[Any], *processors: Any, batch_size: int = 16, num_workers: int = 0
) -> Iterator[PhotoBatch]:
    """Batches of readable photos in order, and beside each the unreadable ones met on the way.

    Args:
        photos: what `client_pixels` takes, by index.
        processors: that prepare each photo once it is decoded; at least one.
        batch_size: photos per batch; a batch with broken photos is smaller, and may be empty.
    """
    yield from DataLoader(
        _Attempts(photos, processors),
        batch_size=batch_size,
        num_workers=num_workers,  # each reads at most two batches ahead, however many photos there are
        collate_fn=_batch,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=worker_threads,
    )


@torch.inference_mode()
def logits_of(model: torch.nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    """Calibrated logits `(b, classes)` float32 of a batch; the model must be in eval mode."""
    device = next(model.parameters(), pixel_values).device  # an ONNX graph holds its parameters itself
    return model(pixel_values=pixel_values.to(device, non_blocking=True)).logits.float().cpu().numpy()


class StagedLogits(NamedTuple):
    """Calibrated logits `(b, classes)` float32, and which stage gave each, `(b,)`: 1, the first alone; 2, both."""

    logits: np.ndarray
    stage: np.ndarray


@torch.inference_mode()
def staged_logits_of(model: torch.nn.Module, *pixel_values: torch.Tensor) -> StagedLogits:
    """As `logits_of`, for a model whose photos may leave early; one that is a cascade of two takes pixels for each."""
    found = model(*(pixels.to(model.device, non_blocking=True) for pixels in pixel_values))
    return StagedLogits(found.logits.float().cpu().numpy(), found.stage.cpu().numpy())


@torch.inference_mode()
def logits_by_stage(model: torch.nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    """`(b, 2, classes)` float32 of a model that sees tiles: those of the whole photo alone, and of all views."""
    found = model(pixel_values=pixel_values.to(model.device, non_blocking=True), output_whole_logits=True)
    return torch.stack([found.whole_logits, found.logits], dim=1).float().cpu().numpy()
