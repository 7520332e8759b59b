"""A disk cache for activations of a frozen backbone, in memory-mapped shards.

A shard is `<name>.npy`, `(records, ...)`, and `<name>.json` with the records' names and checksums. Both files are
renamed into place when complete, the names last, so an interrupted pass continues after its last shard. Each record is
checked against its checksum before use; a damaged one counts as missing and is computed again. Runs that share a
folder wait for each other, so nothing is computed twice. The budget applies to all folders together: the least
recently used records are removed first, and never those that this run reads. This module works on arrays and names; it
needs neither photos nor models.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import time
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from natix_hf.errors import UserError
from natix_hf.files import check_writable, replacing

VERSION = 4  # raise it when the content of a record or the storage format changes

MOST_FILES = 65536  # files open at once if the system sets no limit

Record = tuple[np.ndarray, int]  # a memory-mapped shard, and the row in it


class FeatureStore:
    """Records of one shape that belong to one key.

    Args:
        key: hash (hex) of everything that a record depends on, except the photo and the first length of `shape`.
        shape: shape of a record. Its first length is a minimum: of a longer record the last entries are used.
        dtype: dtype of a record.
        kind: name of the folder under `cache_dir`.
        budget_gb: limit for all records of this kind under `cache_dir`, in 10^9 bytes; None: no limit.
        budget_name: name of this option in messages.
        ours: shard lists that this run uses; `find` adds to them.
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
        self._damaged: set[Path] = set()

    def find(self, wanted: Collection[str]) -> dict[str, Record]:
        """The wanted records that exist and pass their checksum; each is read once to check."""
        records: dict[str, Record] = {}
        left = set(wanted)
        places = [(int(path.name.rpartition("-")[2]), path) for path in self.root.glob(f"v{VERSION}-{self.key}-*")]
        for length, place in sorted(places):
            if length < self.shape[0]:
                continue
            for listing in sorted(place.glob("*.json")):
                if not left:
                    break
                before = len(left)
                for name, record in self._sound(listing, length, left):
                    records[name] = record
                    left.discard(name)
                if len(left) < before:
                    self.ours.add(listing)
                    with suppress(OSError):  # a read-only cache is fine
                        os.utime(listing)
        return records

    def _sound(self, listing: Path, length: int, left: Collection[str]) -> Iterator[tuple[str, Record]]:
        try:
            document = json.loads(listing.read_text(encoding="utf-8"))
            names, checksums = document["names"], document["checksums"]
            shard = _mapped(listing.with_suffix(".npy"))
        except UserError:
            raise
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            if not isinstance(error, OSError):  # for example truncated by a crash: its records are computed again
                self._damaged.add(listing)
            return
        if shard.shape != (len(names), length, *self.shape[1:]) or shard.dtype != self.dtype:
            self._damaged.add(listing)
            return
        for row, (name, checksum) in enumerate(zip(names, checksums)):
            if name in left and _checksum(name, shard[row]) == checksum:
                yield name, (shard, row)

    def add(self, names: Sequence[str], values: np.ndarray) -> None:
        """Store records `(n, *shape)`.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        path = self.folder / uuid.uuid4().hex
        values = np.ascontiguousarray(values, dtype=self.dtype)
        document = {"names": list(names), "checksums": [_checksum(n, v) for n, v in zip(names, values, strict=True)]}
        try:
            with replacing(path.with_suffix(".npy")) as temporary:
                np.save(temporary, values)
            # The names are written last: a shard without its names is ignored.
            with replacing(path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            free = shutil.disk_usage(self.cache_dir).free
            # numpy sets no errno after a partial write.
            full = error.errno == errno.ENOSPC or (error.errno is None and free < 2 * values.nbytes)
            why = f"the disk is full ({free / 1e9:.2f} GB are free)" if full else error.strerror or error
            raise UserError(
                f"cache_dir {self.cache_dir}: cannot store {self.root.name}: {why}: make room or choose another "
                "folder; what was computed so far is kept"
            ) from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the folder; waits for another run that holds the lock.

        Raises:
            UserError: the folder cannot be written.
        """
        check_writable(self.folder, "cache_dir")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock(self.folder)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"{self.root.name}: another run computes them; waiting for it", flush=True)
                lock.acquire()
        except (OSError, NotImplementedError) as error:  # file systems without locks
            raise UserError(
                f"cache_dir {self.cache_dir}: cannot be written or locked: {error}: choose another folder"
            ) from None
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove leftovers of killed passes and damaged shards; the caller holds the lock."""
        for pattern in (".*.tmp.npy", ".*.tmp.json"):
            for left in self.folder.glob(pattern):
                left.unlink(missing_ok=True)
        shards, lists = ({path.stem for path in self.folder.glob(f"*.{kind}")} for kind in ("npy", "json"))
        alone = {self.folder / f"{name}.json" for name in shards ^ lists}  # half of a pair is missing
        for path in (path for listing in alone | self._damaged for path in _shard(listing)):
            if path.parent == self.folder:
                path.unlink(missing_ok=True)

    def make_room(self, records: int) -> None:
        """Remove the least recently used records until `records` more fit into the budget.

        Raises:
            UserError: they do not fit even without the records of other runs.
        """
        if self.budget_gb is None:
            return
        needed = records * np.prod(self.shape) * self.dtype.itemsize / 1e9
        of_this_run = sum(_gigabytes(_shard(listing)) for listing in self.ours if listing.parent.parent == self.root)
        if of_this_run + needed > self.budget_gb:
            raise UserError(
                f"{self.budget_name}: the {self.root.name} of this run need {of_this_run + needed:.2g} GB, "
                f"{self.budget_gb:g} GB are allowed: allow more, or use fewer layers or views"
            )
        others = sorted(self._others(), key=lambda other: other.asked)
        total = of_this_run + needed + sum(other.gigabytes for other in others)
        for other in others:
            if total <= self.budget_gb:
                return
            with self._held(other.folder) as held:
                if held:  # otherwise another run writes there
                    other.remove()  # a run that has mapped a shard can still read it
                    total -= other.gigabytes

    def _others(self) -> Iterator[_Other]:
        """Files that this run does not read: whole folders, and single shards of folders that it reads from."""
        read = {listing.parent for listing in self.ours} | {self.folder}
        for folder in filter(Path.is_dir, self.root.iterdir()):
            if folder not in read:
                yield _Other(folder, None, _last_asked(folder), _gigabytes(folder.glob("*")))
                continue
            for listing in set(folder.glob("*.json")) - self.ours:
                yield _Other(folder, listing, _modified(listing), _gigabytes(_shard(listing)))

    def _lock(self, folder: Path) -> FileLock:
        # Outside the folder, because `make_room` may remove the whole folder.
        locks = self.cache_dir / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{self.root.name}-{folder.name}.lock")

    @contextmanager
    def _held(self, folder: Path) -> Iterator[bool]:
        """Whether files of a folder may be removed: this run's own folder is locked already, others must be free."""
        if folder == self.folder:
            yield True
            return
        try:
            with self._lock(folder).acquire(timeout=0):
                yield True
        except (Timeout, OSError):
            yield False

    def touch(self) -> None:
        """Record that these records were used now, if the folder is writable."""
        if self.folder.is_dir():
            with suppress(OSError):
                (self.folder / ".asked").write_text(str(time.time()), encoding="utf-8")


def _checksum(name: str, values: np.ndarray) -> int:
    # Over name and values, so that a damaged list cannot assign a record to another photo.
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).reshape(-1), zlib.crc32(name.encode()))


def _mapped(shard: Path) -> np.ndarray:
    """A memory-mapped shard. Each map keeps a file open, and the limit for a process is often 1024."""
    try:
        return np.load(shard, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft >= more:
        raise UserError(
            f"{shard.parent}: this process may open {soft} files only, and each shard of the cache is one: "
            "raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    return _mapped(shard)


class _Other(NamedTuple):
    """A shard or a whole folder that may be removed to make room."""

    folder: Path
    listing: Path | None
    asked: float  # time of the last use, in seconds since 1970
    gigabytes: float

    def remove(self) -> None:
        if self.listing is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with suppress(OSError):
            for path in _shard(self.listing):
                path.unlink(missing_ok=True)


def _shard(listing: Path) -> list[Path]:
    return [listing, listing.with_suffix(".npy")]


def _gigabytes(files: Iterable[Path]) -> float:
    total = 0
    for path in files:
        with suppress(FileNotFoundError):  # another run may remove files too
            total += path.stat().st_size
    return total / 1e9


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _last_asked(folder: Path) -> float:
    try:
        return float((folder / ".asked").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _modified(folder)
