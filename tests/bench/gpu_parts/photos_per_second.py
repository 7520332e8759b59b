"""Part of `gpu.py`: photos a second from files to frozen features and to predictions, beside a bare forward pass."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Value
from datasets import Image as Photo
from torch.utils.data import DataLoader

from natix_hf.inference.batches import ClientPhotos, worker_threads
from natix_hf.inference.classify import predict_photos
from natix_hf.inference.features import frozen_features, token_parts
from natix_hf.photos.geometry import Squash

from .networks import SHAPES, network, processor_of
from .place import Line, Place, seconds

BATCH = 64
PHOTOS = {"ViT-S": 4096, "ViT-L": 1024, "ViT-H+": 512}


def rows_of(place: Place, count: int) -> Dataset:
    """`count` rows of the drawn photos, each of them as often as it takes; no two are the same to a cache."""
    drawn = sorted((place.photos / "images").glob("*.jpg"))
    paths = [str(drawn[number % len(drawn)]) for number in range(count)]
    columns = {
        "id": [str(number) for number in range(count)],
        "image": [{"bytes": None, "path": path} for path in paths],
        "label": [0] * count,
        "fingerprint": [str(number) for number in range(count)],
    }
    kinds = {"id": Value("string"), "image": Photo(decode=False), "label": Value("int64")}
    return Dataset.from_dict(columns, features=Features({**kinds, "fingerprint": Value("string")}))


def features_and_predictions(place: Place) -> Iterator[Line]:
    """Frozen features and `predict`, both in float32 as they run by default, for each shape."""
    for shape in SHAPES:
        model = network(place, shape, Squash(place.side), method="probe").eval()
        processor, count = processor_of(Squash(place.side)), place.scaled(PHOTOS[shape], 16)
        rows, batch = rows_of(place, count), place.scaled(BATCH, 4)
        paths = [image["path"] for image in rows["image"]]
        pixels = torch.randn(batch, 3, place.side, place.side, device=place.device)

        def decoded(rows: Any = rows, processor: Any = processor, batch: int = batch) -> None:
            photos = ClientPhotos(rows, processor)
            loader = DataLoader(photos, batch, num_workers=place.workers, worker_init_fn=worker_threads)
            for _ in loader:
                pass

        def features(model: Any = model, rows: Any = rows, processor: Any = processor, batch: int = batch) -> None:
            with tempfile.TemporaryDirectory(dir=place.folder) as cache:
                frozen_features(
                    model, rows, processor, cache_dir=Path(cache), batch_size=batch, num_workers=place.workers
                )

        def predicted(model: Any = model, processor: Any = processor, paths: Any = paths, batch: int = batch) -> None:
            for _ in predict_photos(model, processor, paths, paths, batch_size=batch, num_workers=place.workers):
                pass

        def bare(run: Callable[[torch.Tensor], Any], pixels: torch.Tensor = pixels, count: int = count) -> float:
            """Photos a second of the model on a batch that is on the device."""
            with torch.inference_mode():
                run(pixels)
                took = seconds(lambda: [run(pixels) for _ in range(count // len(pixels))], place.device)
            return count / took

        decode = count / seconds(decoded, place.device)
        for what, ours, run in (
            ("frozen features", features, lambda x, model=model: token_parts(model, x, 1)),
            ("predict", predicted, lambda x, model=model: model(pixel_values=x).logits),
        ):
            limit, rate = bare(run), count / seconds(ours, place.device)
            starving = "the model waits for photos" if decode < limit else "photos wait for the model"
            how = f"{rate:.0f} and {limit:.0f} photos/s in fp32; {place.workers} workers alone decode {decode:.0f}: "
            how += starving
            yield Line(f"{shape}: {what} photos/s / bare forward's", rate / limit, "", ">= 0.95", how)
