"""Leases: files on a disk that machines may share, each held by one process at a time.

A lease is created only if it does not exist, names its holder, and is renewed by its modification time. A lease that
was not renewed for `STALE` seconds is free. Only times of the file system are compared with each other, never the
clocks of the machines. Leases need no file locks, which many network file systems lack.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from natix_hf.errors import UserError

BEAT, STALE = 20.0, 300.0  # seconds between renewals, and after which one that was not renewed is taken over


class Holder(NamedTuple):
    """The process that holds a lease."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.host} pid {self.pid}"


class LeaseLost(Exception):
    """Another process has taken over the work, because this one did not renew its lease in time."""


class Lease:
    """A lease that this process holds.

    Args:
        path: of the file.
        text: its content, which no other lease has.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def renew(self) -> bool:
        """Renew the lease; returns False if another process has taken it over."""
        try:
            held = self.path.read_text(encoding="utf-8") == self.text
            if held:
                os.utime(self.path)  # no explicit time, so the clock of the file server is used
        except FileNotFoundError:
            return False
        return held

    def release(self) -> None:
        """Release the lease if this process still holds it."""
        with suppress(FileNotFoundError):
            if self.path.read_text(encoding="utf-8") == self.text:
                self.path.unlink()


def take(path: Path) -> Lease | Holder:
    """Take the lease at a path; returns it, or its current holder.

    A lease that is stale, or whose holder is a dead process of this machine, is moved aside first. Two processes may
    want to do that at once. What each has moved shows whether it was the stale one; a fresh one is put back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "id": uuid.uuid4().hex}
    )
    while True:
        try:
            number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            seen = _seen(path)
            if seen is None:
                continue  # it was just released
            if holder := _living(path, seen):
                return holder
            _move_aside(path, seen)
            continue
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        return Lease(path, text)


@contextmanager
def waited_for(path: Path) -> Iterator[Lease]:
    """Wait for the lease at a path and hold it for a short task."""
    while isinstance(lease := take(path), Holder):
        time.sleep(0.1)
    try:
        yield lease
    finally:
        lease.release()


@contextmanager
def held(path: Path, meaning: str) -> Iterator[Lease]:
    """Hold the lease at a path during the block, and renew it in a background thread.

    Raises:
        UserError: another process holds it; `meaning` says in the message what that means.
    """
    lease = take(path)
    if isinstance(lease, Holder):
        raise UserError(f"{path.parent}: {meaning} ({lease}): wait until it has ended")
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            lease.renew()

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield lease
    finally:
        over.set()
        lease.release()


def holder(path: Path) -> Holder | None:
    """The holder of the lease at a path; None if it is free."""
    seen = _seen(path)
    return _living(path, seen) if seen else None


Seen = tuple[str, int]  # content and time of a lease


def _seen(path: Path) -> Seen | None:
    try:
        with path.open(encoding="utf-8") as file:  # opened, so that no cached time of a network file system is read
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _living(path: Path, seen: Seen) -> Holder | None:
    """The holder of a lease; None if the lease is stale or its process is known to be dead."""
    text, renewed = seen
    document = _document(text)
    if document.get("machine") == _machine() is not None and not _runs(document["pid"]):
        return None
    if (time_of(path.parent) - renewed) / 1e9 > STALE:
        return None
    return Holder(document.get("host", "an unknown host"), document.get("pid", 0))


def _document(text: str) -> dict[str, str | int | None]:
    try:
        return json.loads(text)
    except ValueError:  # its creator has not written it yet, or died before it could
        return {}


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str | None:
    """Identifies the boot and the namespace in which process ids are valid; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def time_of(folder: Path) -> int:
    """The time by the clock of a folder's file system, in nanoseconds; creates the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)


def _move_aside(path: Path, seen: Seen) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _seen(aside) != seen:  # another process was faster and already works, or the holder was only slow
        with suppress(OSError):  # a third process has it now; the holder will notice when it renews
            os.link(aside, path)
    aside.unlink()
