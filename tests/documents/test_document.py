"""Documents are read as they were written, and anything else is one line that says where."""

from __future__ import annotations

import hashlib
import json
import math
import tracemalloc
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.errors import UserError
from natix_hf.files import fingerprint_file, new_folder


class Reading(Part):
    at: Annotated[int, Field(ge=0)]
    degrees: float | None
    note: str = ""


class Log(Document):
    file_name: ClassVar[str] = "log.json"
    mend: ClassVar[str] = "measure again: thermometer {folder}"
    edition: ClassVar[int] = 2

    kind: Literal["air", "water"]
    readings: list[Reading]


LOG = {"kind": "air", "readings": [{"at": 0, "degrees": 20.5}, {"at": 1, "degrees": None}]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    log = Log(**LOG)
    log.write(tmp_path)
    assert json.loads((tmp_path / "log.json").read_text()) == {"version": 2, **LOG}
    assert Log.read(tmp_path) == log
    assert log.readings[0].degrees == 20.5


def test_values_of_numpy_become_plain() -> None:
    log = Log(kind="air", readings=[Reading(at=np.int64(3), degrees=np.float32(0.5))])
    assert log.plain()["readings"] == [{"at": 3, "degrees": 0.5}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "soil"}, "at $.kind: Input should be 'air' or 'water', found 'soil'"),
        ({"readings": [{"at": 0.5, "degrees": 1}]}, "at $.readings[0].at"),
        ({"readings": [{"at": "1", "degrees": 1}]}, "at $.readings[0].at"),
        ({"readings": [{"at": 1}]}, "at $.readings[0].degrees: missing"),
        ({"other": 1}, "at $.other: unknown key"),
        ({"version": 1}, "expected version 2, which this release reads; found 1: measure again: thermometer"),
    ],
)
def test_anything_else_is_one_line(tmp_path: Path, change: dict, said: str) -> None:
    (tmp_path / "log.json").write_text(json.dumps({"version": 2, **LOG, **change}))
    with pytest.raises(UserError) as caught:
        Log.read(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / "log.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 2'])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(UserError, match=r"log.json.*measure again: thermometer"):
        Log.read(tmp_path)


def test_a_missing_file_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no log.json: measure again: thermometer"):
        Log.read(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_is_refused_where_it_is_made(value: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Reading(at=0, degrees=value)


def test_the_print_of_a_large_file_is_that_of_its_bytes_and_takes_no_memory_for_all_of_them(tmp_path):
    content = bytes(range(256)) * (1 << 17)  # 32 MiB
    (tmp_path / "weights").write_bytes(content)
    tracemalloc.start()
    found = fingerprint_file(tmp_path / "weights")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == hashlib.blake2b(content, digest_size=16).hexdigest()
    assert peak < 8 << 20


def test_a_new_folder_takes_the_place_of_an_empty_one_only_when_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(FileNotFoundError), new_folder(output) as stage:
        (stage / "no folder" / "file").write_text("half")
    assert list(tmp_path.iterdir()) == [output]
    with new_folder(output) as stage:
        (stage / "file").write_text("whole")
        assert not any(output.iterdir())
    assert (output / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [output]
