"""Writes files completely or not at all, and converts file names to text.

A file is written under a temporary name in the same folder and then renamed. On Linux a file name is bytes. A name
that is not UTF-8 cannot be part of a table, of JSON or of printed text: `path_text` writes it with escapes, and
`text_path` converts it back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from natix_hf.errors import UserError

# Endings that an id of a Hub repository never has.
_FILE_TYPES = (
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xlsx", ".xls", ".ods"),
    *(".zip", ".tar", ".gz", ".tgz", ".7z", ".jpg", ".jpeg", ".png", ".webp", ".yaml", ".yml"),
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx"),
)


def only_a_path(name: str) -> bool:
    """Whether a name can only be a file or folder, not the id of a Hub repository (`owner/name`)."""
    marked = name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name
    return marked or name.count("/") > 1 or name.lower().endswith(_FILE_TYPES)


def check_folder(name: str, *, bare_ids: bool = False) -> None:
    """Raise `UserError` if a model's name can only be a folder on this disk and there is none.

    Args:
        bare_ids: whether a name without a slash may be the id of a Hub repository.
    """
    if (only_a_path(name) or ("/" not in name and not bare_ids)) and not Path(name).expanduser().is_dir():
        raise UserError(f"{name}: no such folder")


def hub_id(name: str | None) -> str | None:
    """`name` if it can only be the id of a Hub repository; None for built-in names and for existing paths."""
    if name and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and not Path(name).exists():
        return name
    return None


_BYTE = re.compile("[\udc80-\udcff]")  # how Python represents a byte of a name that is not UTF-8
_LIKE_ESCAPE = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")
_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def shown(text: str) -> str:
    """Text that can be printed: bytes that are not UTF-8, and lone surrogates, become escapes (`\\xfc`)."""
    text = _BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def path_text(path: str | Path) -> str:
    """A path as text, see `shown`; a backslash in front of what looks like an escape is escaped too (`\\x5c`)."""
    return shown(_LIKE_ESCAPE.sub(r"\\x5c", str(path)))


def text_path(text: str | Path) -> str:
    """The path of a text from `path_text`; if there is no such file, the text itself."""
    path = _ESCAPE.sub(_byte, str(text))
    return path if path != str(text) and os.path.lexists(path) else str(text)


def _byte(escape: re.Match) -> str:
    code = int(escape[1], 16)
    return chr(code if code < 0x80 else 0xDC00 + code)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to `path` if the block succeeds, removed if it fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as Pillow choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staging(folder: str | Path) -> Iterator[Path]:
    """A folder within `folder`; its entries move up into `folder` if the block succeeds. For many files."""
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


def check_new_folder(output: Path, option: str) -> None:
    """Raise `UserError` if a folder exists and is not empty, or cannot be written; `option` named it."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{option} {output}: exists and is not empty: choose another folder")
    check_writable(output, option)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `output` (absent or empty) if the block succeeds."""
    # A fixed name, so that killed commands do not leave many folders.
    stage = output.absolute().parent / f".{output.name}.partial"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        yield stage
        os.replace(stage, output)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_name(path: str | Path) -> None:
    """Raise `UserError` if a name is not UTF-8, for places that other libraries read or write."""
    if odd := _BYTE.search(str(path)):
        raise UserError(
            f"{shown(str(path))}: expected a name in UTF-8, found byte {shown(odd[0])}: rename it, or choose another"
        )


def check_writable(path: str | Path, what: str, *, any_name: bool = False) -> None:
    """Raise `UserError` if `path`, existing or not, cannot be written; `what` is the option that named it.

    With `any_name` the name need not be UTF-8. The check writes a file, because permission bits do not tell whether a
    file system is full, read-only or mapped.
    """
    if not any_name:
        check_name(path)
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
        raise UserError(f"{what} {path}: cannot be written: {error.strerror}: choose another folder") from None
    finally:
        with suppress(OSError):  # a read-only file system refuses this too
            probe.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: str | Path, text: str) -> None:
    """Append UTF-8 text to a file in one write, so that several processes can append to it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def write_json(path: str | Path, document: Any) -> None:
    """Write an indented JSON document completely or not at all; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The document in a JSON file; `UserError` if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: not JSON that natix_hf wrote: restore the file") from None


def read_recipe(run: str | Path) -> dict[str, Any]:
    """The keys of a run's `recipe.yaml`; empty without one, as in a run from Python."""
    import yaml

    path = Path(run) / "recipe.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def fingerprint_bytes(content: bytes) -> str:
    """blake2b-128 of bytes, as 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def text_seed(text: str) -> int:
    """A random seed of 63 bits that depends on the text only."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def fingerprint_file(path: str | Path) -> str:
    """blake2b-128 of a file, as 32 hexadecimal digits; read in pieces, since weights may be large."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()


def home() -> Path:
    """The folder shared by all runs on this machine (feature cache, generated scenes, count of test reads)."""
    return Path(os.environ.get("NATIX_HF_HOME") or Path.home() / ".cache" / "natix_hf")
