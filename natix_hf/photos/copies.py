"""Pre-resized copies of training photos: written once with a short side that suits the view, and read instead.

A copy is the photo as `open_photo` shows it (upright, RGB, transparency over white), never enlarged, as JPEG. It is
stored by the fingerprint of the original's bytes, in a folder per (side, quality, version). So a changed photo has no
copy yet, and a second recipe with the same photos reuses the copies. Safetensors shards are renamed into place when
they are complete: an interrupted pass continues with the missing rows, and two parallel passes write the same files.
Every read is compared with a checksum of fingerprint and bytes; damaged copies are made again from the originals. Only
training may read copies, never scoring.
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

VERSION = 2  # raised when the same photo would give other bytes
QUALITY = 90  # with full colour resolution (4:4:4): a view keeps more colour than 4:2:0 holds at this size
SHARD_ROWS = 256
MANY = 200  # photos for which one more process is worth starting


def copied(photo: StoredPhoto, fingerprint: str, side: int) -> bytes:
    """The copy of one photo, a pure function of the photo's bytes and the side.

    Args:
        photo: a row's.
        fingerprint: of the photo's bytes, as the row has it.
        side: short side in pixels; a smaller photo keeps its size.

    Raises:
        PhotoError: the photo cannot be read, or is not the one that was inspected.
    """
    name = photo["path"] or "photo without a name"
    with reading(photo):
        content = photo_bytes(photo)
    if fingerprint_bytes(content) != fingerprint:
        raise PhotoError(f"{name}: the photo was changed after the run had looked at it: start the run again")
    # Decoding at reduced size on the way makes the pass twice as quick and the views no worse.
    image = open_photo({"bytes": content, "path": name}, min_side=side)
    scale = side / min(image.size)
    if scale < 1:
        width, height = (max(side, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return file.getvalue()


def open_copy(content: bytes, *, min_side: int) -> torch.Tensor:
    """The pixels of a copy, `(3, height, width)` uint8: `open_photo` without what a copy cannot be (turned,
    transparent, grey), and without Pillow's copies of the pixels on the way.

    Args:
        content: the copy's bytes.
        min_side: both sides keep this many pixels; a copy of twice the side or more is decoded at reduced size.
    """
    image = Image.open(io.BytesIO(content))
    whole = image.size
    image.draft(None, (min_side, min_side))
    if image.size != whole:
        return pil_to_tensor(image)
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))


class _Originals(Dataset):
    """Rows as a worker process meets them: item `i` is the new copy of row `i`."""

    def __init__(self, rows: Any, side: int) -> None:
        self.rows, self.side = rows, side

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:
        row = self.rows[index]
        return copied(row["image"], row["fingerprint"], self.side)


def _checksum(fingerprint: bytes, content: bytes) -> int:
    # Over both, so that a damaged list of fingerprints cannot hand one photo's copy to another.
    return zlib.crc32(content, zlib.crc32(fingerprint))


def _write_shard(folder: Path, fingerprints: Sequence[bytes], copies: Sequence[bytes]) -> Path:
    """One file of copies, whole or not at all; the same photos always go to the same name."""
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
    except (OSError, SafetensorError) as error:  # the library's own type also stands for a full disk
        raise UserError(
            f"the pre-resized copy cannot be written to {folder} ({error}): free some room or choose another "
            "cache_dir; what was written so far is kept"
        ) from error
    return path


def _read_shard(path: Path) -> tuple[list[bytes], np.ndarray, np.ndarray] | None:
    """Fingerprints, places in the file `(n, 2)` as first and last byte + 1, checksums `(n,)`; None for a shard cut
    short or damaged in its head."""
    try:
        with safe_open(path, "np") as file:
            fingerprints = file.get_tensor("fingerprints").tobytes()
            ends, checksums = file.get_tensor("ends"), file.get_tensor("checksums")
            total = file.get_slice("photos").get_shape()[0]
        start = path.stat().st_size - total  # the library puts the smallest types last, and those by name
    except (OSError, SafetensorError):
        return None
    places = start + np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    return [fingerprints[i : i + 16] for i in range(0, len(fingerprints), 16)], places, checksums


class PhotoCopies:
    """The copies of some rows: item `i` is the JPEG (bytes) of row `i`.

    Files are opened anew for every read, which costs a hundredth of the decoding and lets the object be forked and
    pickled as it is.
    """

    def __init__(self, rows: Any, folder: Path, side: int) -> None:
        self.rows, self.folder, self.side = rows.select_columns(["image", "fingerprint"]), folder, side
        self.fingerprints = [bytes.fromhex(value) for value in rows["fingerprint"][:]]
        self.paths: list[Path] = []
        self.shard = np.full(len(rows), -1, dtype=np.int32)  # (n,) number in `paths`; -1: no copy yet
        self.place = np.zeros((len(rows), 2), dtype=np.int64)
        self.checksum = np.zeros(len(rows), dtype=np.uint32)

    def __len__(self) -> int:
        return len(self.fingerprints)

    def find(self) -> list[int]:
        """Look for the copies of all rows in the folder; damaged shards are removed.

        Returns:
            Row numbers of the photos without a copy, each photo once.
        """
        rows_of: dict[bytes, list[int]] = {}
        for row, fingerprint in enumerate(self.fingerprints):
            rows_of.setdefault(fingerprint, []).append(row)
        self.paths = []
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            self._take(path, rows_of)
        return [rows[0] for rows in rows_of.values() if self.shard[rows[0]] < 0]

    def _take(self, path: Path, rows_of: dict[bytes, list[int]]) -> None:
        shard = _read_shard(path)
        if shard is None:
            path.unlink(missing_ok=True)
            return
        self.paths.append(path)
        for fingerprint, place, checksum in zip(*shard):
            for row in rows_of.get(fingerprint, ()):
                self.shard[row], self.place[row], self.checksum[row] = len(self.paths) - 1, place, checksum

    def make(self, missing: list[int], workers: int = 0, progress: bool = True) -> None:
        """Copy the photos of the rows `missing`, in worker processes, a shard after the other."""
        loader = DataLoader(
            _Originals(self.rows.select(missing), self.side),
            batch_size=8,
            num_workers=workers,
            collate_fn=list,
            generator=torch.Generator(),  # the loader would draw from the run's own
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
        except (OSError, ValueError):  # removed; or places that no file has
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
        """What to tell a person whose disk does not keep what is written to it."""
        return f"{self.folder}: what is written there reads back otherwise: choose another cache_dir"

    def _make_again(self, shard: int) -> None:
        """Replace a damaged shard by one with this run's rows of it; it may have held photos of other recipes too,
        whose runs do the same for theirs."""
        path = self.paths[shard]
        rows_of: dict[bytes, list[int]] = {}
        for row in np.flatnonzero(self.shard == shard).tolist():
            rows_of.setdefault(self.fingerprints[row], []).append(row)
        originals = _Originals(self.rows, self.side)
        new = _write_shard(self.folder, list(rows_of), [originals[rows[0]] for rows in rows_of.values()])
        if new != path:
            path.unlink(missing_ok=True)
        self._take(new, rows_of)


def photo_copies(
    rows: Any, *, side: int, cache_dir: str | Path, num_proc: int | None = None, progress: bool = True
) -> PhotoCopies:
    """The pre-resized copies of the rows, made where they are missing.

    Args:
        rows: `datasets.Dataset` with `image` and `fingerprint` (of the photo's bytes).
        side: short side of a copy in pixels.
        cache_dir: the cache's root; a folder `copies/<side>-<quality>-v<version>` is made in it.
        num_proc: processes that make copies; by default one per core, fewer for few photos.
        progress: show a bar where there is something to do.

    Returns:
        the copies in the order of `rows`; rows with the same bytes share one.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
        PhotoError: a photo cannot be read.
    """
    folder = Path(cache_dir) / "copies" / f"side{side}-q{QUALITY}-v{VERSION}"
    copies = PhotoCopies(rows, folder, side)
    if missing := copies.find():
        check_writable(folder, "cache_dir")
        for left in folder.glob(".*.tmp.safetensors"):
            if time.time() - left.stat().st_mtime > 3600:  # of a pass that was killed; a living one takes a moment
                left.unlink(missing_ok=True)
        copies.make(missing, num_proc or min(os.cpu_count() or 1, len(missing) // MANY), progress)
        if copies.find():
            raise UserError(copies.unsound())
    return copies
