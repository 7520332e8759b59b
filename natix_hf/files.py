"""Files that are either whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from natix_hf.errors import UserError

# Endings that no id of a Hub repository has.
_FILE_TYPES = (
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xlsx", ".xls", ".ods"),
    *(".zip", ".tar", ".gz", ".tgz", ".7z", ".jpg", ".jpeg", ".png", ".webp", ".yaml", ".yml"),
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx"),
)


def only_a_path(name: str) -> bool:
    """Whether a name can be of a file or folder alone, and not the id of a Hub repository (`owner/name`)."""
    marked = name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name
    return marked or name.count("/") > 1 or name.lower().endswith(_FILE_TYPES)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, since writers such as Pillow choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staging(folder: str | Path) -> Iterator[Path]:
    """A folder within `folder` whose entries move up when the block ends well; for writers of many files."""
    stage = Path(folder) / ".staging"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        yield stage
        for entry in sorted(stage.iterdir()):
            target = Path(folder) / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_writable(path: str | Path, what: str) -> None:
    """Raise `UserError` where nothing can be written at `path`, there or not; `what` is the option that named it.

    Found out by writing, since permission bits say little about full, read-only or mapped file systems.
    """
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    probe = folder / f".{os.getpid()}.natix_hf_write_test"
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, f"{folder} is not a folder")
        with probe.open("wb") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be written: {error.strerror}: choose another place") from None
    finally:
        with suppress(OSError):  # a file system that can only be read refuses this too
            probe.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, document: Any) -> None:
    """Write an indented JSON document, whole or not at all; NaN is refused since JSON has none."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The document in a JSON file; `UserError` where it holds none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: not JSON that natix_hf wrote: bring the file back") from None


def fingerprint_file(path: str | Path) -> str:
    """The blake2b-128 of a file's bytes, as 32 hexadecimal digits."""
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()


def home() -> Path:
    """The folder that all runs on this machine share (feature cache, generated scenes, count of test reads)."""
    return Path(os.environ.get("NATIX_HF_HOME") or Path.home() / ".cache" / "natix_hf")
