"""Pre-resized copies of training photos: written once with a suitable short side, and read instead of the originals.

A copy is the photo as `open_photo` returns it (upright, RGB, transparency blended with white), saved as JPEG and never
enlarged. Its key is the fingerprint of the original's bytes, in a folder per (side, quality, version). So a changed
photo gets a new copy, and another recipe with the same photos reuses the copies. Shards are safetensors files, renamed
into place when complete: an interrupted pass continues with the missing rows, and parallel passes write the same
files. Every read is checked against a checksum of fingerprint and bytes; damaged copies are made again from the
originals. Only training reads copies, never scoring.
"""

from __future__ import annotations

import io
import os
import time
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_jpeg
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm.auto import tqdm

from natix_hf.errors import PhotoError, UserError
from natix_hf.files import check_writable, fingerprint_bytes, replacing
from natix_hf.photos.decode import StoredPhoto, open_photo, photo_bytes, reading

VERSION = 2  # raised when the copy of the same photo changes
QUALITY = 90  # with full colour resolution (4:4:4), since 4:2:0 would lose colour detail of the view at this size
SHARD_ROWS = 256
MANY = 200  # photos per additional process


def copied(photo: StoredPhoto, fingerprint: str, side: int) -> bytes:
    """The copy of one photo, which depends only on the photo's bytes and the side.

    Args:
        photo: of a row.
        fingerprint: of the photo's bytes, from the same row.
        side: short side in pixels; a smaller photo keeps its size.

    Raises:
        PhotoError: the photo cannot be read, or has changed since it was inspected.
    """
    name = photo["path"] or "photo without a name"
    with reading(photo):
        content = photo_bytes(photo)
    if fingerprint_bytes(content) != fingerprint:
        raise PhotoError(f"{name}: the photo has changed since the run inspected it: start the run again")
    # Decoding at reduced size makes the pass twice as fast and the views no worse.
    image = open_photo({"bytes": content, "path": name}, min_side=side)
    scale = side / min(image.size)
    if scale < 1:
        width, height = (max(side, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return file.getvalue()


def open_copy(content: bytes, *, min_side: int) -> torch.Tensor:
    """The pixels of a copy, `(3, height, width)` uint8.

    Faster than `open_photo`: a copy is never rotated, transparent or grey, and Pillow need not copy the pixels.

    Args:
        content: the copy's bytes.
        min_side: minimum number of pixels on both sides; a copy at least twice as large is decoded at reduced size.
    """
    image = Image.open(io.BytesIO(content))
    whole = image.size
    image.draft(None, (min_side, min_side))
    if image.size != whole:
        return pil_to_tensor(image)
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))


class _Originals(Dataset):
    """Makes copies in worker processes: item `i` is a new copy of row `i`."""

    def __init__(self, rows: Any, side: int) -> None:
        self.rows, self.side = rows, side

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:
        row = self.rows[index]
        return copied(row["image"], row["fingerprint"], self.side)


def _checksum(fingerprint: bytes, content: bytes) -> int:
    # Over both, so that damaged fingerprints cannot assign a copy to the wrong photo.
    return zlib.crc32(content, zlib.crc32(fingerprint))


def _write_shard(folder: Path, fingerprints: Sequence[bytes], copies: Sequence[bytes]) -> Path:
    """Write one shard of copies, completely or not at all; the same photos always give the same file name."""
    path = folder / f"{fingerprint_bytes(b''.join(fingerprints))}.safetensors"
    tensors = {
        "fingerprints": np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, 16),
        "ends": np.cumsum([len(content) for content in copies], dtype=np.int64),
        "checksums": np.array(list(map(_checksum, fingerprints, copies)), dtype=np.uint32),
        "photos": np.frombuffer(b"".join(copies), np.uint8),
    }
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    except (OSError, SafetensorError) as error:  # safetensors raises its own type for a full disk
        raise UserError(
            f"cache_dir: cannot write pre-resized copies to {folder} ({error}): free some space or choose another "
            "cache_dir; complete files are kept"
        ) from error
    return path


def _read_shard(path: Path) -> tuple[list[bytes], np.ndarray, np.ndarray] | None:
    """Fingerprints, byte ranges in the file `(n, 2)` (start, end), and checksums `(n,)` of a shard.

    None if the shard is truncated or its header is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            fingerprints = file.get_tensor("fingerprints").tobytes()
            ends, checksums = file.get_tensor("ends"), file.get_tensor("checksums")
            total = file.get_slice("photos").get_shape()[0]
        start = path.stat().st_size - total  # safetensors puts the smallest types last, sorted by name
    except (OSError, SafetensorError):
        return None
    places = start + np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    return [fingerprints[i : i + 16] for i in range(0, len(fingerprints), 16)], places, checksums


class PhotoCopies:
    """The copies of some rows: item `i` is the JPEG (bytes) of row `i`.

    Every read opens the file again. This costs a hundredth of the decoding, and the object can be forked and pickled.
    """

    def __init__(self, rows: Any, folder: Path, side: int) -> None:
        self.rows, self.folder, self.side = rows.select_columns(["image", "fingerprint"]), folder, side
        self.fingerprints = [bytes.fromhex(value) for value in rows["fingerprint"][:]]
        self.paths: list[Path] = []
        self.shard = np.full(len(rows), -1, dtype=np.int32)  # (n,) index into `paths`; -1: no copy yet
        self.place = np.zeros((len(rows), 2), dtype=np.int64)
        self.checksum = np.zeros(len(rows), dtype=np.uint32)

    def __len__(self) -> int:
        return len(self.fingerprints)

    def find(self) -> list[int]:
        """Look for the copies of all rows in the folder, and remove damaged shards.

        Returns:
            Row numbers of the photos without a copy, each photo once.
        """
        rows_of: dict[bytes, list[int]] = {}
        for row, fingerprint in enumerate(self.fingerprints):
            rows_of.setdefault(fingerprint, []).append(row)
        self.paths = []
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            self._add_shard(path, rows_of)
        return [rows[0] for rows in rows_of.values() if self.shard[rows[0]] < 0]

    def _add_shard(self, path: Path, rows_of: dict[bytes, list[int]]) -> None:
        shard = _read_shard(path)
        if shard is None:
            path.unlink(missing_ok=True)
            return
        self.paths.append(path)
        for fingerprint, place, checksum in zip(*shard):
            for row in rows_of.get(fingerprint, ()):
                self.shard[row], self.place[row], self.checksum[row] = len(self.paths) - 1, place, checksum

    def make(self, missing: list[int], workers: int = 0, progress: bool = True) -> None:
        """Copy the photos of the rows `missing` in worker processes, shard by shard."""
        loader = DataLoader(
            _Originals(self.rows.select(missing), self.side),
            batch_size=8,
            num_workers=workers,
            collate_fn=list,
            generator=torch.Generator(),  # otherwise the loader would draw from the run's generator
        )
        waiting: list[bytes] = []
        done = 0
        with tqdm(total=len(missing), desc="pre-resized copy", unit="photo", disable=not progress) as bar:
            for content in chain.from_iterable(loader):
                waiting.append(content)
                bar.update()
                if len(waiting) == SHARD_ROWS or done + len(waiting) == len(missing):
                    names = [self.fingerprints[row] for row in missing[done : done + len(waiting)]]
                    _write_shard(self.folder, names, waiting)
                    done, waiting = done + len(waiting), []

    def _read(self, index: int) -> bytes | None:
        first, last = self.place[index]
        try:
            with self.paths[self.shard[index]].open("rb") as file:
                file.seek(first)
                content = file.read(last - first)
        except (OSError, ValueError):  # the file was removed, or the byte range is not valid
            return None
        return content if _checksum(self.fingerprints[index], content) == self.checksum[index] else None

    def __getitem__(self, index: int) -> bytes:
        content = self._read(index)
        if content is None:
            self._make_again(int(self.shard[index]))
            content = self._read(index)
        if content is None:
            raise UserError(self.unsound())
        return content

    def unsound(self) -> str:
        """Error message for a disk that returns other bytes than were written."""
        return f"{self.folder}: files there do not read back as they were written: choose another cache_dir"

    def _make_again(self, shard: int) -> None:
        """Replace a damaged shard by a new one with the rows of this run.

        If the shard also contained photos of other recipes, their runs copy them again.
        """
        path = self.paths[shard]
        rows_of: dict[bytes, list[int]] = {}
        for row in np.flatnonzero(self.shard == shard).tolist():
            rows_of.setdefault(self.fingerprints[row], []).append(row)
        originals = _Originals(self.rows, self.side)
        new = _write_shard(self.folder, list(rows_of), [originals[rows[0]] for rows in rows_of.values()])
        if new != path:
            path.unlink(missing_ok=True)
        self._add_shard(new, rows_of)


def photo_copies(
    rows: Any, *, side: int, cache_dir: str | Path, num_proc: int | None = None, progress: bool = True
) -> PhotoCopies:
    """The pre-resized copies of the rows; missing ones are made.

    Args:
        rows: `datasets.Dataset` with `image` and `fingerprint` (of the photo's bytes).
        side: short side of a copy in pixels.
        cache_dir: root of the cache; copies go to `copies/side<side>-q<quality>-v<version>` in it.
        num_proc: processes that make copies; by default one per core, fewer for few photos.
        progress: show a progress bar if copies are missing.

    Returns:
        The copies in the order of `rows`; rows with the same bytes share one copy.

    Raises:
        UserError: the folder cannot be written, the disk is full, or it does not keep what was written.
        PhotoError: a photo cannot be read.
    """
    folder = Path(cache_dir) / "copies" / f"side{side}-q{QUALITY}-v{VERSION}"
    copies = PhotoCopies(rows, folder, side)
    if missing := copies.find():
        check_writable(folder, "cache_dir")
        for leftover in folder.glob(".*.tmp.safetensors"):
            # A running pass keeps such a file for a moment only, so an old one was left by a killed pass.
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink(missing_ok=True)
        copies.make(missing, num_proc or min(os.cpu_count() or 1, len(missing) // MANY), progress)
        if copies.find():
            raise UserError(copies.unsound())
    return copies
