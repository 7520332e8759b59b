"""Opens every photo of a table once, in worker processes, for size, fingerprint, look, errors and client's view."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial

import datasets
from datasets import Dataset, Features, Value

from natix_hf.photos.decode import MAX_PHOTO_MB, StoredPhoto, inspect_photo
from natix_hf.photos.perceptual_hashes import look
from natix_hf.threads import one_blas_thread

MANY = 1000  # from this number of rows on, photos are read by several processes, with a progress bar
KINDS = {
    "fingerprint": Value("string"),
    "width": Value("int32"),
    "height": Value("int32"),
    "error": Value("string"),
    "look": Value("binary"),
    "client": Value("string"),
}


@contextmanager
def bars(shown: bool):
    """Hide the progress bars of `datasets` inside the block, unless `shown`."""
    hide = not shown and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def _inspect(photos: list[StoredPhoto | None], looks: bool, **limits) -> dict[str, list]:
    with one_blas_thread():  # a look multiplies small matrices
        results = [inspect_photo(photo or {}, look=look if looks else None, **limits) for photo in photos]
    return {name: [getattr(result, name) for result in results] for name in KINDS if looks or name != "look"}


def inspected(
    photos: Dataset,
    *,
    looks: bool = True,
    num_proc: int | None = None,
    max_photo_mb: float = MAX_PHOTO_MB,
    max_photo_pixels: int | None = None,
) -> Dataset:
    """`fingerprint, width, height, error, client` and `look` of each photo, read in small batches without copies.

    Args:
        photos: a data set with a single column of undecoded photos.
        looks: add the column `look`. Without it, JPEGs are decoded at their smallest size.
        num_proc: processes; by default one per core, fewer for a small data set.
        max_photo_mb: a file over this many megabytes has an error and is not read.
        max_photo_pixels: a photo over this many pixels has an error and is not decoded.
    """
    processes = num_proc or (min(os.cpu_count() or 1, len(photos) // 500) if len(photos) >= MANY else 1)
    with bars(len(photos) >= MANY):
        return photos.map(
            partial(_inspect, looks=looks, max_mb=max_photo_mb, max_pixels=max_photo_pixels),
            input_columns=photos.column_names,
            remove_columns=photos.column_names,
            features=Features({name: kind for name, kind in KINDS.items() if looks or name != "look"}),
            batched=True,
            batch_size=16,
            num_proc=processes if processes > 1 else None,
            keep_in_memory=True,  # a few kilobytes per row; a cache file would be outdated after a photo changes
            load_from_cache_file=False,
            desc="reading photos",
        )
