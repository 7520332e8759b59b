"""Where activations of a frozen backbone are kept: shards on disk, memory-mapped, found by what they belong to.

A shard is `<name>.npy`, `(records, ...)`, and `<name>.json` with the records' names and checksums. Both are renamed
into place when they are whole, the names last, so a pass that was cut short goes on behind its last shard. A record is
held against its checksum before it is handed out; one that does not pass counts as missing and is computed again. Runs
that share a folder wait for each other, so that nothing is computed twice. This file knows arrays and names, no photos
and models.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
import uuid
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from natix_hf.errors import UserError
from natix_hf.files import check_writable, replacing

VERSION = 3  # raised when the same photo would give another record, or records are stored otherwise

Record = tuple[np.ndarray, int]  # a memory-mapped shard, and the row in it


class FeatureStore:
    """Records of one shape under one key.

    Args:
        cache_dir: the cache's root.
        key: of everything that a record depends on beside the photo and its first length (hex).
        shape: of a record. Its first length is the least that is wanted: records with more, of which the last so many
            are meant, serve too.
        dtype: of a record.
        kind: name of the folder under `cache_dir`.
        budget_gb: the most that all records of this kind under `cache_dir` may take, in 10^9 bytes; None: no limit.
        budget_name: what the user calls it.
        ours: lists of shards that serve this run, added to here; they make no room.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        key: str,
        *,
        shape: Sequence[int],
        dtype: np.dtype | type = np.float32,
        kind: str = "features",
        budget_gb: float | None = None,
        budget_name: str = "cache_gb",
        ours: set[Path] | None = None,
    ) -> None:
        self.cache_dir, self.root = Path(cache_dir), Path(cache_dir) / kind
        self.key, self.shape, self.dtype, self.budget_gb = key, tuple(shape), np.dtype(dtype), budget_gb
        self.budget_name, self.ours = budget_name, set() if ours is None else ours
        self.folder = self.root / f"v{VERSION}-{key}-{self.shape[0]}"

    def find(self, wanted: Collection[str]) -> dict[str, Record]:
        """Those of the wanted records that are there and sound; all of them are read once."""
        found: dict[str, Record] = {}
        left = set(wanted)
        places = [(int(path.name.rpartition("-")[2]), path) for path in self.root.glob(f"v{VERSION}-{self.key}-*")]
        for length, place in sorted(places):
            if length < self.shape[0]:
                continue
            for listing in sorted(place.glob("*.json")):
                if not left:
                    break
                for name, record in self._sound(listing, length, left):
                    found[name] = record
                    left.discard(name)
        return found

    def _sound(self, listing: Path, length: int, left: Collection[str]) -> Iterator[tuple[str, Record]]:
        try:
            document = json.loads(listing.read_text(encoding="utf-8"))
            names, checksums = document["names"], document["checksums"]
            shard = np.load(listing.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return  # cut short by a crash, or damaged: its records are computed again
        if shard.shape != (len(names), length, *self.shape[1:]) or shard.dtype != self.dtype:
            return
        for row, (name, checksum) in enumerate(zip(names, checksums)):
            if name in left and _checksum(name, shard[row]) == checksum:
                yield name, (shard, row)

    def add(self, names: Sequence[str], values: np.ndarray) -> None:
        """Keep the records `(n, *shape)`.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        path = self.folder / uuid.uuid4().hex
        values = np.ascontiguousarray(values, dtype=self.dtype)
        document = {"names": list(names), "checksums": [_checksum(n, v) for n, v in zip(names, values, strict=True)]}
        try:
            with replacing(path.with_suffix(".npy")) as temporary:
                np.save(temporary, values)
            # The names come last: a shard without names does not exist.
            with replacing(path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            free = shutil.disk_usage(self.cache_dir).free / 1e9
            why = f"the disk is full ({free:.2f} GB are free)" if error.errno == errno.ENOSPC else error.strerror
            raise UserError(
                f"cache_dir {self.cache_dir}: {self.root.name} cannot be kept: {why}: make room or choose another "
                "folder; what was computed so far stays"
            ) from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder; another run that holds it is waited for, and what it leaves is then found.

        Raises:
            UserError: the folder cannot be written.
        """
        check_writable(self.folder, "cache_dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{self.root.name}: another run computes them; waiting for it", flush=True)
            lock.acquire()
        try:
            for pattern in (".*.tmp.npy", ".*.tmp.json"):  # of a pass that was killed; nobody else writes here now
                for left in self.folder.glob(pattern):
                    left.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def make_room(self, records: int) -> None:
        """Remove the records that were not asked for longest until `records` more fit the budget.

        Raises:
            UserError: they do not fit even alone.
        """
        if self.budget_gb is None:
            return
        needed = records * np.prod(self.shape) * self.dtype.itemsize / 1e9
        others = {path: _gigabytes(path) for path in self.root.iterdir() if path.is_dir() and path != self.folder}
        own = _gigabytes(self.folder)
        if own + needed > self.budget_gb:
            raise UserError(
                f"{self.budget_name}: the {self.root.name} of this run take {own + needed:.2g} GB, "
                f"{self.budget_gb:g} allowed: allow more, or ask for fewer layers or views"
            )
        for path in sorted(others, key=_last_asked):
            if own + needed + sum(others.values()) <= self.budget_gb:
                return
            lock = FileLock(path / ".lock")
            try:
                with lock.acquire(timeout=0):
                    shutil.rmtree(path, ignore_errors=True)  # whoever has mapped a shard keeps it
            except (Timeout, OSError):
                continue  # somebody writes there now
            del others[path]

    def touch(self) -> None:
        """Note that these records were asked for now."""
        if self.folder.is_dir():
            (self.folder / ".asked").write_text(str(time.time()), encoding="utf-8")


def _checksum(name: str, values: np.ndarray) -> int:
    # Over both, so that a damaged list of names cannot hand one photo's record to another.
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).reshape(-1), zlib.crc32(name.encode()))


def _gigabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) / 1e9


def _last_asked(folder: Path) -> float:
    try:
        return float((folder / ".asked").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder.stat().st_mtime
